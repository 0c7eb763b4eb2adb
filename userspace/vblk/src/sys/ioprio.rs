// SPDX-License-Identifier: GPL-2.0

//! The priority of I/O.

use std::{
    io,
    thread, //
};

/// "A thread", which 0 makes the calling one (`<linux/ioprio.h>`).
const WHO_PROCESS: libc::c_int = 1;
/// The real-time class at its lowest level.
const REALTIME: libc::c_int = 1 << 13 | 7;

/// Whether I/O of this process may have real-time priority.
///
/// The kernel is asked by trying, so that its rule need not be repeated here: in a thread of its
/// own, since a priority is a thread's.
pub fn may_use_realtime() -> bool {
    // SAFETY: ioprio_set takes no pointers.
    let set = || unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, REALTIME) };
    let ask = || {
        let asked = thread::Builder::new().spawn(set)?;
        let result = asked.join().map_err(|_| io::ErrorKind::Other)?;
        Ok::<_, io::Error>(result == 0)
    };
    // No thread, no priority.
    ask().unwrap_or(false)
}

// SPDX-License-Identifier: GPL-2.0

//! The priority of I/O.

use std::io;

/// "A thread", which 0 makes the calling one (`<linux/ioprio.h>`).
const WHO_PROCESS: libc::c_int = 1;
/// The real-time class at its lowest level.
const REALTIME: libc::c_long = 1 << 13 | 7;

/// Returns whether I/O of the calling thread may have real-time priority.
///
/// The kernel is asked by trying, so that its rule need not be repeated here. The thread's own
/// priority is afterwards what it was.
pub fn may_use_realtime() -> bool {
    let Ok(before) = get() else { return false };
    set(REALTIME).and_then(|()| set(before)).is_ok()
}

fn get() -> io::Result<libc::c_long> {
    // SAFETY: ioprio_get takes no pointers.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
    if priority < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(priority)
}

fn set(priority: libc::c_long) -> io::Result<()> {
    // SAFETY: ioprio_set takes no pointers.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_changes_nothing() {
        // A thread of its own, as others may be looking at theirs.
        let thread = std::thread::spawn(|| {
            for priority in [2 << 13 | 6, 3 << 13] {
                set(priority).unwrap();
                may_use_realtime();
                assert_eq!(get().unwrap(), priority);
            }
        });
        thread.join().unwrap();
    }
}

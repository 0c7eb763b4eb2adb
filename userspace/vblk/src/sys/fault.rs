// SPDX-License-Identifier: GPL-2.0

//! A last word before the process ends by an access to memory that is not there any more.

use std::io;
use vmm_sys_util::signal::register_signal_handler;

const LINE: &[u8] = b"vblk: guest memory is gone: the front-end has truncated its file\n";
/// The shell's status for SIGBUS.
const STATUS: libc::c_int = 128 + libc::SIGBUS;

/// Ends the process with one line when it touches a page of a shared file that has been cut off.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn explain() -> io::Result<()> {
    register_signal_handler(libc::SIGBUS, on_fault)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

extern "C" fn on_fault(
    _number: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: write and _exit may be called in a handler, and the bytes live as long as the program.
    unsafe {
        libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
        libc::_exit(STATUS)
    }
}

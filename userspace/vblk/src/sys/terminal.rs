// SPDX-License-Identifier: GPL-2.0

//! The terminal in raw mode, so that keys go to the guest one by one.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{
        AsRawFd,
        BorrowedFd,
        OwnedFd, //
    },
};

/// A terminal that is in raw mode until this is dropped, also by a panic.
pub struct RawMode {
    terminal: OwnedFd,
    before: libc::termios,
}

impl RawMode {
    /// Switches `terminal` to raw mode; `None` when it is no terminal.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // SAFETY: isatty takes any number.
        if unsafe { libc::isatty(terminal.as_raw_fd()) } == 0 {
            return Ok(None);
        }
        let terminal = terminal.try_clone_to_owned()?;
        let mut before = MaybeUninit::uninit();
        // SAFETY: There is room for a `termios` at the pointer.
        check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), before.as_mut_ptr()) })?;
        // SAFETY: tcgetattr succeeded, and fills it completely.
        let before: libc::termios = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: `raw` is a valid `termios`.
        unsafe { libc::cfmakeraw(&mut raw) };
        // Lines of this process end in a line feed only, and shall begin on the left.
        raw.c_oflag |= libc::OPOST & before.c_oflag;
        set(&terminal, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal has gone away.
        let _ = set(&self.terminal, &self.before);
    }
}

fn set(terminal: &OwnedFd, to: &libc::termios) -> io::Result<()> {
    // SAFETY: `to` is a valid `termios`.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, to) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

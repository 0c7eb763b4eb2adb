// SPDX-License-Identifier: GPL-2.0

//! The terminal in raw mode, so that keys go to the guest one by one.
//!
//! A terminal belongs to the process group in its foreground. In the background its mode is not
//! this process's, and nothing here touches it.

use super::check;
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

/// A terminal, which is put into raw mode whenever this process has it. The mode is restored when
/// this is dropped, also by a panic.
pub struct Terminal {
    fd: OwnedFd,
    /// The mode to restore, while the terminal is in raw mode.
    before: Option<libc::termios>,
}

impl Terminal {
    /// Takes a duplicate of `file`, and leaves its mode alone. Returns `None` when it is no
    /// terminal.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn open(file: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // SAFETY: isatty takes any number.
        if unsafe { libc::isatty(file.as_raw_fd()) } == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            fd: file.try_clone_to_owned()?,
            before: None,
        }))
    }

    /// Returns whether this process is in the foreground of the terminal. One that is not its
    /// controlling terminal has no foreground that could be another's.
    pub fn is_ours(&self) -> bool {
        // SAFETY: Neither call takes a pointer.
        let (owner, own) = unsafe { (libc::tcgetpgrp(self.fd.as_raw_fd()), libc::getpgrp()) };
        owner < 0 || owner == own
    }

    /// Puts the terminal into raw mode if it is this process's. To be called again after the
    /// process was stopped: others have used the terminal meanwhile.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn enter_raw_mode(&mut self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: There is room for a `termios` at the pointer.
        check(unsafe { libc::tcgetattr(self.fd.as_raw_fd(), before.as_mut_ptr()) })?;
        // SAFETY: tcgetattr succeeded, and fills it completely.
        let before: libc::termios = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: `raw` is a valid `termios`.
        unsafe { libc::cfmakeraw(&mut raw) };
        // Lines of this process end in a line feed only, and shall begin on the left.
        raw.c_oflag |= libc::OPOST & before.c_oflag;
        set(&self.fd, &raw)?;
        // A terminal that comes back in raw mode was left so by this process.
        let is_raw = before.c_lflag & libc::ICANON == 0;
        if self.before.is_none() || !is_raw {
            self.before = Some(before);
        }
        Ok(())
    }

    /// Restores the mode that the terminal had, if it is this process's.
    pub fn leave_raw_mode(&mut self) {
        if self.is_ours() {
            if let Some(before) = &self.before {
                // There is nobody to tell if the terminal has gone away.
                let _ = set(&self.fd, before);
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave_raw_mode();
    }
}

fn set(terminal: &OwnedFd, to: &libc::termios) -> io::Result<()> {
    // SAFETY: `to` is a valid `termios`.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, to) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, FromRawFd};

    /// A terminal, and what is at its other end.
    fn pty() -> (OwnedFd, OwnedFd) {
        let (mut ours, mut theirs) = (-1, -1);
        use std::ptr::{null, null_mut};
        // SAFETY: The first two pointers are to descriptors to be stored, the others may be null.
        let result = unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null(), null()) };
        assert_eq!(result, 0);
        // SAFETY: Both were just opened, and nobody else has them.
        unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
    }

    fn local_flags(terminal: &OwnedFd) -> libc::tcflag_t {
        let mut mode = MaybeUninit::uninit();
        // SAFETY: There is room for a `termios`, which tcgetattr fills when it succeeds.
        unsafe {
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()), 0);
            mode.assume_init().c_lflag
        }
    }

    fn raw(terminal: &OwnedFd) -> Terminal {
        let mut raw = Terminal::open(terminal.as_fd()).unwrap().unwrap();
        raw.enter_raw_mode().unwrap();
        raw
    }

    const COOKED: libc::tcflag_t = libc::ECHO | libc::ICANON | libc::ISIG;

    #[test]
    fn the_mode_is_restored() {
        let (_ours, terminal) = pty();
        let before = local_flags(&terminal);
        assert_ne!(before & libc::ECHO, 0);
        let raw = raw(&terminal);
        assert_eq!(local_flags(&terminal) & COOKED, 0);
        drop(raw);
        assert_eq!(local_flags(&terminal), before);
    }

    #[test]
    fn the_mode_is_restored_by_a_panic() {
        let (_ours, terminal) = pty();
        let before = local_flags(&terminal);
        let result = std::panic::catch_unwind(|| {
            let _raw = raw(&terminal);
            std::panic::resume_unwind(Box::new("expected"));
        });
        assert!(result.is_err());
        assert_eq!(local_flags(&terminal), before);
    }

    #[test]
    fn what_is_no_terminal_is_left_alone() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Terminal::open(null.as_fd()).unwrap().is_none());
    }

    /// As a shell does it while its job is stopped.
    #[test]
    fn raw_mode_is_entered_again_and_the_first_mode_restored() {
        let (_ours, terminal) = pty();
        let before = local_flags(&terminal);
        let mut raw = raw(&terminal);
        raw.enter_raw_mode().unwrap();
        raw.leave_raw_mode();
        assert_eq!(local_flags(&terminal), before);
        raw.enter_raw_mode().unwrap();
        assert_eq!(local_flags(&terminal) & COOKED, 0);
        drop(raw);
        assert_eq!(local_flags(&terminal), before);
    }
}

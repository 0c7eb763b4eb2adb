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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{
        AsFd,
        FromRawFd, //
    };

    /// A terminal, and what is at its other end.
    fn pty() -> (OwnedFd, OwnedFd) {
        let (mut ours, mut theirs) = (-1, -1);
        use std::ptr::{
            null,
            null_mut, //
        };
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

    #[test]
    fn the_mode_is_restored() {
        let (_ours, terminal) = pty();
        let before = local_flags(&terminal);
        assert_ne!(before & libc::ECHO, 0);
        let raw = RawMode::enter(terminal.as_fd()).unwrap();
        assert!(raw.is_some());
        assert_eq!(
            local_flags(&terminal) & (libc::ECHO | libc::ICANON | libc::ISIG),
            0
        );
        drop(raw);
        assert_eq!(local_flags(&terminal), before);
    }

    #[test]
    fn the_mode_is_restored_by_a_panic() {
        let (_ours, terminal) = pty();
        let before = local_flags(&terminal);
        let result = std::panic::catch_unwind(|| {
            let _raw = RawMode::enter(terminal.as_fd()).unwrap();
            std::panic::resume_unwind(Box::new("expected"));
        });
        assert!(result.is_err());
        assert_eq!(local_flags(&terminal), before);
    }

    #[test]
    fn what_is_no_terminal_is_left_alone() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(RawMode::enter(null.as_fd()).unwrap().is_none());
    }
}

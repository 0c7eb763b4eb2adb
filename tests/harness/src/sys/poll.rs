// SPDX-License-Identifier: GPL-2.0

//! Event descriptors, and waiting for one with a limit.

use super::{check, Errno};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// An eventfd that never blocks.
pub struct EventFd(File);

impl EventFd {
    /// A new one, with nothing signalled.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: takes two integers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
        // SAFETY: the descriptor was just made and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }.into()))
    }

    /// Adds 1.
    pub fn signal(&self) -> Result<(), Errno> {
        let mut file = &self.0;
        file.write_all(&1u64.to_ne_bytes()).map_err(Errno::from)
    }

    /// Takes the count, 0 when nothing was signalled.
    pub fn take(&self) -> Result<u64, Errno> {
        let mut count = [0; 8];
        let mut file = &self.0;
        match file.read_exact(&mut count).map_err(Errno::from) {
            Ok(()) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Waits until it is signalled and takes the count; 0 after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<u64, Errno> {
        let deadline = Instant::now() + limit;
        loop {
            match self.take()? {
                0 if readable(&self.0, deadline.saturating_duration_since(Instant::now()))? => {}
                count => return Ok(count),
            }
        }
    }

    /// A second descriptor of the same eventfd, which blocks if `blocking`: the flag belongs to
    /// the open file, so both change.
    pub fn set_blocking(&self, blocking: bool) -> Result<(), Errno> {
        let flags = if blocking { 0 } else { libc::O_NONBLOCK };
        // SAFETY: takes three integers.
        let ret = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFL, flags) };
        check(ret.into()).map(drop)
    }
}

/// A descriptor that is one.
impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns whether `fd` becomes readable within `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> Result<bool, Errno> {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // Rounded up: a wait that is a little too long is better than a busy loop at its end.
    let millis = limit.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    // SAFETY: one valid pollfd, borrowed for the call.
    match check(unsafe { libc::poll(&mut poll, 1, millis) }.into()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

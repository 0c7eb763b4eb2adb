// SPDX-License-Identifier: GPL-2.0

//! Memory whose page faults are not handled (userfaultfd): a thread that touches it waits.

use super::{check, ioctl, map::Mapping, poll::readable, Errno};
use std::{
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

const IOWR: u32 = 3 << 30;
/// UFFDIO_API, of `struct uffdio_api`.
const API: u32 = IOWR | 24 << 16 | 0xAA << 8 | 0x3F;
/// UFFDIO_REGISTER, of `struct uffdio_register`.
const REGISTER: u32 = IOWR | 32 << 16 | 0xAA << 8;
/// UFFD_API.
const VERSION: u64 = 0xAA;
/// UFFDIO_REGISTER_MODE_MISSING.
const MISSING: u64 = 1;

/// Receives page faults and never handles one. When this is dropped, the threads that wait
/// get zeroes.
pub struct Userfault(OwnedFd);

impl Userfault {
    /// Puts a page-aligned part of `map` in our hands. What was touched before stays usable.
    pub fn on(map: &Mapping, offset: usize, len: usize) -> Result<Self, Errno> {
        // SAFETY: takes flags. The kernel's own faults are among those that are told.
        let fd =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        // SAFETY: the descriptor was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(check(fd)? as i32) };
        let mut api = [VERSION, 0, 0].map(u64::to_ne_bytes);
        ioctl::with_bytes(&fd, API, api.as_flattened_mut())?;
        assert!(offset + len <= map.len(), "no such part");
        let start = map.addr() + offset as u64;
        let mut register = [start, len as u64, MISSING, 0].map(u64::to_ne_bytes);
        ioctl::with_bytes(&fd, REGISTER, register.as_flattened_mut())?;
        Ok(Self(fd))
    }

    /// Returns whether a thread waits for a page within `limit`.
    pub fn is_waited_for(&self, limit: Duration) -> Result<bool, Errno> {
        readable(&self.0, limit)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The log of guest memory that a device wrote, while its guest moves to another host.

use crate::sys::mapped_range::{
    Access,
    MappedRange, //
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::aref::ARef, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    dirty_log::{
        bytes_for,
        mark, //
    },
};

/// A log in the memory of the owner. Dropped by those who may sleep.
pub(crate) struct DirtyLog(MappedRange);

impl DirtyLog {
    /// Creates the log for guest memory up to `last`, whose bits are at `base` in the current process,
    /// whose address space is `mm`. Its pages count against RLIMIT_MEMLOCK.
    ///
    /// # Errors
    ///
    /// EINVAL when `base` is no multiple of 8; EFAULT when the process has no such memory; ENOMEM.
    pub(crate) fn new(mm: ARef<MmWithUser>, base: HostAddr, last: GuestAddr) -> Result<Self> {
        let bytes = usize::try_from(bytes_for(last))?;
        let align = size_of::<u64>();
        MappedRange::new(mm, base, bytes, align, Access::Write).map(Self)
    }

    /// Marks `bytes` bytes at `at` that were written. In any context, for as long as there are pages.
    pub(crate) fn mark(&self, at: GuestAddr, bytes: u64) {
        mark(&self.0, at, bytes);
    }
}

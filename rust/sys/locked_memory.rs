// SPDX-License-Identifier: GPL-2.0

//! Pages that count as locked memory of a process, against RLIMIT_MEMLOCK.

use kernel::{
    bindings,
    error::to_result,
    mm::MmWithUser,
    prelude::*,
    sync::aref::ARef, //
};

/// An account of locked pages.
///
/// # Invariants
///
/// `mm` was charged with `pages` pages, which this value takes off again.
pub(crate) struct LockedMemory {
    mm: ARef<MmWithUser>,
    pages: usize,
}

impl LockedMemory {
    /// Opens an account of 0 pages.
    pub(crate) fn new(mm: ARef<MmWithUser>) -> Self {
        // INVARIANT: nothing yet.
        Self { mm, pages: 0 }
    }

    /// Returns whether the current process is the one that is charged.
    pub(crate) fn is_current(&self) -> bool {
        kernel::current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(mm.as_raw(), self.mm.as_raw()))
    }

    /// Charges `pages` more. May sleep.
    ///
    /// # Errors
    ///
    /// ENOMEM when that is over the limit; EINTR when the task is being killed.
    pub(crate) fn add(&mut self, pages: usize) -> Result {
        // SAFETY: The mm is alive and in use.
        to_result(unsafe { bindings::account_locked_vm(self.mm.as_raw(), pages, true) })?;
        // INVARIANT: charged just now.
        self.pages += pages;
        Ok(())
    }
}

impl Drop for LockedMemory {
    /// May sleep.
    fn drop(&mut self) {
        if self.pages > 0 {
            // SAFETY: The mm is alive and in use, and was charged with as many.
            unsafe { bindings::account_locked_vm(self.mm.as_raw(), self.pages, false) };
        }
    }
}

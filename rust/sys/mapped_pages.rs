// SPDX-License-Identifier: GPL-2.0

//! Pages that the user of a vDPA device mapped for the device, as a run of contiguous memory.
//!
//! vhost-vdpa pins them, and unpins them before it tells the device that they are unmapped. So the
//! device has pins of its own.

use super::bindings as helpers;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
};

/// Most bytes of [`MappedPages`]: a terabyte.
pub(super) const MAX_BYTES: u64 = 1 << 40;

/// The way in which a device may use [`MappedPages`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    Read,
    Write,
    ReadWrite,
}

/// What keeps [`MappedPages`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// A pin of each page.
    Pins,
    /// A driver of the host, which does not free what it handed to the device.
    HostDriver,
}

/// A run of contiguous pages.
///
/// # Invariants
///
/// `bytes` bytes of kernel-mapped memory from `start` on, whole pages that follow each other from
/// `page` on, at most [`MAX_BYTES`]. They are there as long as `keeper` says, and pinned for
/// writing if the permission says that they may be written.
pub(crate) struct MappedPages {
    page: NonNull<bindings::page>,
    start: NonNull<u8>,
    bytes: u64,
    permission: Permission,
    keeper: Keeper,
    /// [`MappedUse`]s that have not ended, and one more until they are waited for.
    uses: Atomic<i32>,
}

// SAFETY: The memory is mapped for the whole kernel, and pins may be dropped by any thread.
unsafe impl Send for MappedPages {}
// SAFETY: A shared reference gives access to nothing but addresses.
unsafe impl Sync for MappedPages {}

impl MappedPages {
    /// Pins `bytes` bytes at a physical address once more.
    ///
    /// # Errors
    ///
    /// EINVAL when these are not whole pages, or too many; those of pinning.
    ///
    /// # Safety
    ///
    /// All of the pages are pinned now, for long, and for writing if `permission` includes that.
    pub(super) unsafe fn pin(addr: u64, bytes: u64, permission: Permission) -> Result<Self> {
        let is_whole = (addr | bytes) & !(PAGE_MASK as u64) == 0;
        if !is_whole || bytes == 0 || bytes > MAX_BYTES {
            return Err(EINVAL);
        }
        let count = bytes / PAGE_SIZE as u64;
        // SAFETY: Pinned, as the caller promised.
        to_result(unsafe { helpers::vblk_add_pins(addr, count) })?;
        // SAFETY: There are such pages, pinned just now.
        let page = unsafe { helpers::vblk_phys_to_page(addr) };
        // SAFETY: As above; 64-bit kernels have all pages mapped.
        let start = unsafe { helpers::vblk_page_address(page) };
        // INVARIANT: pinned just now, by a function that refuses pages that do not follow each other.
        Ok(Self {
            page: NonNull::new(page).ok_or(EINVAL)?,
            start: NonNull::new(start.cast()).ok_or(EINVAL)?,
            bytes,
            permission,
            keeper: Keeper::Pins,
            uses: Atomic::new(1),
        })
    }

    /// Returns a part of all memory of the host, as a driver of the host addresses it; `None` behind
    /// the end of it.
    ///
    /// # Safety
    ///
    /// Addresses in it are used only when a driver of the host gave them to the device, which keeps
    /// its promise of the DMA API: the memory is its own until the device has given it back.
    pub(super) unsafe fn of_host(part: u64) -> Option<Self> {
        let addr = part.checked_mul(MAX_BYTES)?;
        // SAFETY: Any number may be asked about.
        let bytes = unsafe { helpers::vblk_phys_limit() }
            .checked_sub(addr)
            .filter(|bytes| *bytes > 0)?
            .min(MAX_BYTES);
        // SAFETY: Only computed here.
        let page = unsafe { helpers::vblk_phys_to_page(addr) };
        // SAFETY: As above.
        let start = unsafe { helpers::vblk_phys_to_virt(addr) };
        // INVARIANT: the direct map and the array of pages are contiguous; what is accessed is there,
        // as the caller promised.
        Some(Self {
            page: NonNull::new(page)?,
            start: NonNull::new(start.cast())?,
            bytes,
            permission: Permission::ReadWrite,
            keeper: Keeper::HostDriver,
            uses: Atomic::new(1),
        })
    }

    /// Returns a page by its number, if it is there and may be accessed so.
    pub(super) fn page(&self, number: usize, is_written: bool) -> Option<*mut bindings::page> {
        let is_there = number < self.bytes as usize / PAGE_SIZE;
        let is_allowed = if is_written {
            self.may_write() && self.may_read()
        } else {
            self.may_read()
        };
        // The pages follow each other, by the type invariant.
        (is_there && is_allowed).then(|| self.page.as_ptr().wrapping_add(number))
    }

    pub(super) fn first_page(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn may_read(&self) -> bool {
        self.permission != Permission::Write
    }

    pub(super) fn may_write(&self) -> bool {
        self.permission != Permission::Read
    }

    /// Sleeps until all uses have ended, when none can begin any more. Once.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn wait_until_unused(&self) -> Result {
        self.uses.fetch_sub(1, Full);
        // SAFETY: An `atomic_t` is an `i32`, and this one stays as long as `self`.
        to_result(unsafe { helpers::vblk_wait_until_zero(self.uses.as_ptr().cast()) })
            .map_err(|_| EINTR)
    }
}

impl Drop for MappedPages {
    /// May sleep.
    fn drop(&mut self) {
        if self.keeper == Keeper::Pins {
            let count = self.bytes as usize / PAGE_SIZE;
            let is_written = self.may_write();
            // SAFETY: Pinned by this value, by the type invariants, and following each other. What
            // vhost-vdpa marked dirty may have been written back since.
            unsafe {
                bindings::unpin_user_page_range_dirty_lock(self.page.as_ptr(), count, is_written);
            }
        }
    }
}

/// A use of mapped pages by an I/O in flight. Who unmaps them waits until it has ended.
pub(super) struct MappedUse {
    pages: Arc<MappedPages>,
    has_ended: bool,
}

impl MappedUse {
    #[inline]
    pub(super) fn new(pages: Arc<MappedPages>) -> Self {
        // Relaxed: who waits has taken the pages from everyone who could do this, by a lock.
        pages.uses.add(1, Relaxed);
        Self {
            pages,
            has_ended: false,
        }
    }

    #[inline]
    pub(super) fn is_of(&self, pages: &Arc<MappedPages>) -> bool {
        Arc::ptr_eq(&self.pages, pages)
    }

    /// Ends the use, in any context. The pages may still be kept.
    #[inline]
    pub(super) fn end(&mut self) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        let uses = &self.pages.uses;
        // Full: all that was done to the pages comes before, and the look at who waits after. It is
        // the last only when they are waited for.
        if uses.fetch_sub(1, Full) == 1 {
            // SAFETY: Only the address is used.
            unsafe { bindings::wake_up_var(uses.as_ptr().cast()) };
        }
    }
}

impl Drop for MappedUse {
    /// May sleep: the pages go with the last who has them.
    fn drop(&mut self) {
        self.end();
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Pinned pages of a process: memory that stays where it is while the kernel or a device uses it.
//!
//! A page that was written must be marked dirty before its pin goes, or the write may be lost when
//! the page is reclaimed; and marking takes locks that sleep. So pages are marked before they are
//! written, and whoever unpins them in interrupt context looks whether they still are, as direct
//! I/O does (see `bio_check_pages_dirty`). If not, the pin is given to a thread.

use super::bindings as helpers;
use core::ptr::NonNull;
use kernel::{
    bindings,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use vblk_core::addr::HostAddr;

/// Pins the pages of the current process from the one with `addr` on: all of `pages`, or none.
///
/// # Errors
///
/// EFAULT when one is missing, or may not be written although FOLL_WRITE asks for that; ENOMEM.
pub(super) fn pin_pages(addr: usize, flags: u32, pages: &mut [*mut bindings::page]) -> Result {
    let count = pages.len();
    // SAFETY: `pages` has room for `count` pages. Kernel threads without a process and addresses
    // without memory are refused by the function itself.
    let pinned = unsafe {
        bindings::pin_user_pages_fast(addr & PAGE_MASK, count as i32, flags, pages.as_mut_ptr())
    };
    if usize::try_from(pinned) == Ok(count) {
        return Ok(());
    }
    if pinned > 0 {
        // SAFETY: That many were pinned just now.
        unsafe { bindings::unpin_user_pages(pages.as_mut_ptr(), pinned as usize) };
    }
    Err(if pinned == -(bindings::ENOMEM as i32) {
        ENOMEM
    } else {
        EFAULT
    })
}

/// Marks a page dirty, before it is written. May sleep.
///
/// # Safety
///
/// `page` is pinned.
pub(super) unsafe fn mark_dirty(page: *mut bindings::page) {
    // SAFETY: Pinned, as the caller promised.
    unsafe {
        if !helpers::vblk_page_is_dirty(page) {
            bindings::set_page_dirty_lock(page);
        }
    }
}

/// Unpins a page that was written, in any context. Returns `false`, and does nothing, when it must
/// be marked dirty first.
///
/// # Safety
///
/// `page` is pinned, and when this returns `true` the caller has no pin any more.
pub(super) unsafe fn try_unpin_written(page: *mut bindings::page) -> bool {
    // SAFETY: Pinned, as the caller promised.
    unsafe {
        let dirty = helpers::vblk_page_is_dirty(page);
        if dirty {
            bindings::unpin_user_page(page);
        }
        dirty
    }
}

/// Unpins a page that was written. May sleep.
///
/// # Safety
///
/// `page` is pinned; the caller gives up the pin.
pub(super) unsafe fn unpin_written(mut page: *mut bindings::page) {
    // SAFETY: Pinned, as the caller promised.
    unsafe { bindings::unpin_user_pages_dirty_lock(&mut page, 1, true) };
}

/// One byte of a process's memory, pinned to be written in any context.
///
/// # Invariants
///
/// This value owns a pin, for writing, of `page`. `offset` lies in the page.
pub(crate) struct PinnedByte {
    page: NonNull<bindings::page>,
    offset: u16,
}

// SAFETY: Pins may be used and dropped by any thread.
unsafe impl Send for PinnedByte {}
// SAFETY: All a shared reference allows is a store of one byte to memory that others write too.
unsafe impl Sync for PinnedByte {}

impl PinnedByte {
    /// Pins the byte at `addr` of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when it may not be written.
    pub(crate) fn new(addr: HostAddr) -> Result<Self> {
        let addr = usize::try_from(addr.0).map_err(|_| EFAULT)?;
        let mut pages = [core::ptr::null_mut()];
        pin_pages(addr, bindings::FOLL_WRITE, &mut pages)?;
        let [page] = pages;
        // SAFETY: Pinned just now.
        unsafe { mark_dirty(page) };
        // INVARIANT: pinned just now; the offset within a page is less than its size.
        Ok(Self {
            page: NonNull::new(page).ok_or(EFAULT)?,
            offset: (addr % PAGE_SIZE) as u16,
        })
    }

    /// Another byte of the same page: as [`Self::new`], but cheaper.
    ///
    /// # Errors
    ///
    /// ENOMEM when the page has too many pins.
    fn sibling(&self, offset: u16) -> Result<Self> {
        // SAFETY: Pinned, by the type invariant.
        kernel::error::to_result(unsafe { helpers::vblk_page_add_pin(self.page.as_ptr()) })?;
        // INVARIANT: pinned once more just now.
        Ok(Self {
            page: self.page,
            offset: offset % PAGE_SIZE as u16,
        })
    }

    /// Writes the byte.
    pub(crate) fn write(&self, value: u8) {
        // SAFETY: The page is pinned for writing and `offset` lies in it, by the type invariants.
        // 64-bit kernels have all pages mapped.
        unsafe {
            let start = helpers::vblk_page_address(self.page.as_ptr()).cast::<u8>();
            core::ptr::write_volatile(start.add(usize::from(self.offset)), value);
        }
    }

    /// Gives up the pin, in any context.
    ///
    /// # Errors
    ///
    /// The value itself, which must be dropped where it may sleep.
    pub(crate) fn try_release(self) -> Result<(), Self> {
        // SAFETY: Pinned, by the type invariant, and forgotten when unpinned.
        if unsafe { try_unpin_written(self.page.as_ptr()) } {
            core::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl Drop for PinnedByte {
    /// May sleep.
    fn drop(&mut self) {
        // SAFETY: Pinned, by the type invariant.
        unsafe { unpin_written(self.page.as_ptr()) };
    }
}

/// The page that bytes were last pinned in.
///
/// Requests that come together often have their bytes in one page. Looking it up once is right for
/// as long as nobody who changes the mapping can expect it to be looked up again: within one batch
/// of requests that were there from its beginning.
#[derive(Default)]
pub(crate) struct LastPage {
    byte: Option<(usize, PinnedByte)>,
}

impl LastPage {
    /// As [`PinnedByte::new`].
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn pin(&mut self, addr: HostAddr) -> Result<PinnedByte> {
        let number = addr.0 as usize / PAGE_SIZE;
        let offset = (addr.0 as usize % PAGE_SIZE) as u16;
        match &self.byte {
            Some((last, byte)) if *last == number => byte.sibling(offset),
            _ => {
                let byte = PinnedByte::new(addr)?;
                let (_, kept) = self.byte.insert((number, byte));
                kept.sibling(offset)
            }
        }
    }
}

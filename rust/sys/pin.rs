// SPDX-License-Identifier: GPL-2.0

//! Pinned pages of a process: memory that stays where it is while the kernel or a device uses it.
//!
//! A page that was written must be marked dirty before its pin goes, or the write may be lost when
//! the page is reclaimed; and marking takes locks that sleep. So pages are marked before they are
//! written, and interrupt context unpins only those that still are, as direct I/O does (see
//! `bio_check_pages_dirty`). A thread unpins the others.

use super::bindings as helpers;
use core::ptr::NonNull;
use kernel::{
    bindings,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};
use vblk_core::addr::HostAddr;

/// Pins the pages of the current process from the one with `addr` on: all of `pages`, or none. May
/// sleep.
///
/// # Errors
///
/// EFAULT when one is missing, or may not be written although FOLL_WRITE asks for that; ENOMEM.
#[inline(always)]
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

/// Returns whether `next` is the page behind `page`, and of the same folio.
///
/// # Safety
///
/// Both are pinned.
#[inline]
pub(super) unsafe fn follows(page: *mut bindings::page, next: *mut bindings::page) -> bool {
    // SAFETY: Pinned, as the caller promised.
    unsafe { helpers::vblk_page_follows(page, next) }
}

/// Marks a page's folio dirty, before it is written. May sleep.
///
/// # Safety
///
/// `page` is pinned.
#[inline]
pub(super) unsafe fn mark_dirty(page: *mut bindings::page) {
    // SAFETY: Pinned, as the caller promised.
    unsafe { helpers::vblk_mark_dirty(page) }
}

/// Returns how many pages a vector touches.
#[inline]
pub(super) fn pages_of(vector: &bindings::bio_vec) -> usize {
    if vector.bv_len == 0 {
        0
    } else {
        (vector.bv_offset as usize + vector.bv_len as usize).div_ceil(PAGE_SIZE)
    }
}

/// Unpins the pages that a vector touches, in any context. Returns `false`, and does nothing, when
/// they were `written` and must be marked dirty first.
///
/// # Safety
///
/// The pages are of one folio, each has a pin of the caller's, and none when this returns `true`.
#[inline]
pub(super) unsafe fn try_unpin(vector: &bindings::bio_vec, written: bool) -> bool {
    // SAFETY: Pinned, as the caller promised.
    unsafe { helpers::vblk_try_unpin(vector.bv_page, pages_of(vector), written) }
}

/// Unpins the pages that a vector touches but for the first `kept`, and marks them dirty first if
/// they were `written`. May sleep.
///
/// # Safety
///
/// The pages are of one folio, each has a pin of the caller's, which the caller gives up but for
/// the kept ones.
pub(super) unsafe fn unpin_pages(vector: &bindings::bio_vec, kept: usize, written: bool) {
    let count = pages_of(vector).saturating_sub(kept);
    if count > 0 {
        // SAFETY: Pinned, as the caller promised; pages of a folio follow each other.
        unsafe {
            let first = vector.bv_page.add(kept);
            bindings::unpin_user_page_range_dirty_lock(first, count, written);
        }
    }
}

/// A page with a pin, for writing.
///
/// # Invariants
///
/// This value owns a pin of `page`, unless that is `None`. `start` is where the kernel has the page
/// mapped.
struct PinnedPage {
    page: Option<NonNull<bindings::page>>,
    start: NonNull<u8>,
}

// SAFETY: Pins may be used and dropped by any thread.
unsafe impl Send for PinnedPage {}
// SAFETY: A shared reference gives access to nothing but addresses.
unsafe impl Sync for PinnedPage {}

impl PinnedPage {
    /// Pins the page with `addr` of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when it may not be written; ENOMEM.
    #[inline]
    fn new(addr: HostAddr) -> Result<Self> {
        let addr = usize::try_from(addr.0).map_err(|_| EFAULT)?;
        let mut pages = [core::ptr::null_mut()];
        pin_pages(addr, bindings::FOLL_WRITE, &mut pages)?;
        let [page] = pages;
        // SAFETY: Pinned just now. 64-bit kernels have all pages mapped.
        let start = unsafe {
            mark_dirty(page);
            helpers::vblk_page_address(page)
        };
        // INVARIANT: pinned just now.
        Ok(Self {
            page: NonNull::new(page),
            start: NonNull::new(start.cast()).ok_or(EFAULT)?,
        })
    }

    /// Gives up the pin, in any context. Returns whether it could; if not, the value must be dropped
    /// where it may sleep.
    #[inline]
    fn try_unpin(&mut self) -> bool {
        let Some(page) = self.page else {
            return true;
        };
        // SAFETY: Pinned, by the type invariant, and forgotten when unpinned.
        let is_unpinned = unsafe { helpers::vblk_try_unpin(page.as_ptr(), 1, true) };
        if is_unpinned {
            // INVARIANT: the pin is gone.
            self.page = None;
        }
        is_unpinned
    }
}

impl Drop for PinnedPage {
    /// May sleep.
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: Pinned, by the type invariant.
            unsafe { bindings::unpin_user_page_range_dirty_lock(page.as_ptr(), 1, true) };
        }
    }
}

/// The page of a [`PinnedByte`].
enum Holder {
    Alone(PinnedPage),
    Shared(Arc<PinnedPage>),
    Released,
}

/// One byte of a process's memory, pinned to be written in any context.
///
/// # Invariants
///
/// `byte` lies in the page of `holder`, unless that is released.
pub(crate) struct PinnedByte {
    byte: NonNull<u8>,
    holder: Holder,
}

// SAFETY: Pins may be used and dropped by any thread.
unsafe impl Send for PinnedByte {}
// SAFETY: A shared reference stores one byte to memory that others write too.
unsafe impl Sync for PinnedByte {}

impl PinnedByte {
    /// Pins the byte at `addr` of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when it may not be written; ENOMEM.
    #[inline]
    pub(crate) fn new(addr: HostAddr) -> Result<Self> {
        let page = PinnedPage::new(addr)?;
        // INVARIANT: the offset within a page is less than its size.
        Ok(Self {
            byte: offset_in(&page, addr),
            holder: Holder::Alone(page),
        })
    }

    /// Writes the byte, unless it was released.
    #[inline]
    pub(crate) fn write(&self, value: u8) {
        if !matches!(self.holder, Holder::Released) {
            // SAFETY: In a page that is pinned for writing and mapped, by the type invariants.
            unsafe { self.byte.as_ptr().write_volatile(value) };
        }
    }

    /// Releases the byte, in any context. Returns whether it could; if not, the value must be dropped
    /// where it may sleep.
    #[inline(always)]
    pub(crate) fn try_release(&mut self) -> bool {
        match core::mem::replace(&mut self.holder, Holder::Released) {
            Holder::Released => true,
            Holder::Alone(mut page) => {
                let is_unpinned = page.try_unpin();
                if !is_unpinned {
                    self.holder = Holder::Alone(page);
                }
                is_unpinned
            }
            Holder::Shared(page) => {
                let Some(mut last) = Arc::into_unique_or_drop(page) else {
                    return true;
                };
                let is_unpinned = last.as_mut().get_mut().try_unpin();
                if !is_unpinned {
                    self.holder = Holder::Shared(last.into());
                }
                is_unpinned
            }
        }
    }
}

/// Returns where the byte at `addr` is in its page.
#[inline]
fn offset_in(page: &PinnedPage, addr: HostAddr) -> NonNull<u8> {
    // SAFETY: Less than a page.
    unsafe { page.start.add(addr.0 as usize % PAGE_SIZE) }
}

/// The page that a byte was last pinned in.
///
/// Requests that come together often have their bytes in one page. Looking it up once is right
/// within one batch of requests that were there from its beginning: a process that changes the
/// mapping meanwhile can't expect the batch to see the change.
#[derive(Default)]
pub(crate) struct LastPage {
    page: Option<(u64, Arc<PinnedPage>)>,
}

impl LastPage {
    /// Pins the byte at `addr` of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when it may not be written; ENOMEM.
    #[inline]
    pub(crate) fn pin(&mut self, addr: HostAddr) -> Result<PinnedByte> {
        let number = addr.0 / PAGE_SIZE as u64;
        let page = match &self.page {
            Some((last, page)) if *last == number => page.clone(),
            _ => self.look_up(addr, number)?,
        };
        // INVARIANT: the offset within a page is less than its size.
        Ok(PinnedByte {
            byte: offset_in(&page, addr),
            holder: Holder::Shared(page),
        })
    }

    #[inline(never)]
    fn look_up(&mut self, addr: HostAddr, number: u64) -> Result<Arc<PinnedPage>> {
        let page = Arc::new(PinnedPage::new(addr)?, GFP_KERNEL_ACCOUNT)?;
        self.page = Some((number, page.clone()));
        Ok(page)
    }
}

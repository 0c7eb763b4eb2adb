// SPDX-License-Identifier: GPL-2.0

//! The memory of an I/O: vectors of pages, and what keeps the pages.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::mapped_pages::MappedUse;
use super::{
    bindings as helpers,
    pin::{
        self,
        pin_pages, //
    },
    pinned_extents::{
        ExtentAddr,
        PinnedExtents, //
    },
};
use kernel::{
    bindings,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::HostAddr,
    segments::SegmentLimits, //
};

/// Vectors that an ordinary I/O has room for.
pub(crate) const SMALL_VECTORS: usize = 8;
/// Vectors that a large I/O has room for: the most that a bio can have.
pub(crate) const LARGE_VECTORS: usize = bindings::BIO_MAX_VECS as usize;

/// Returns how pages are pinned.
#[inline]
fn pin_flags(is_written: bool) -> u32 {
    if is_written {
        bindings::FOLL_WRITE
    } else {
        0
    }
}

/// The vectors of a bio, as the block layer takes them.
pub(super) struct Table {
    pub(super) start: *mut bindings::bio_vec,
    pub(super) filled: u16,
}

impl Table {
    /// No vectors.
    pub(super) const NONE: Self = Self {
        start: core::ptr::null_mut(),
        filled: 0,
    };
}

/// Room to collect pages in while they are pinned.
pub(crate) struct PageScratch(KVec<*mut bindings::page>);

// SAFETY: Between two calls the pointers are leftovers, which no call follows.
unsafe impl Send for PageScratch {}

impl PageScratch {
    /// Allocates room for [`LARGE_VECTORS`] pages.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let pages = KVec::from_elem(core::ptr::null_mut(), LARGE_VECTORS, GFP_KERNEL_ACCOUNT)?;
        Ok(Self(pages))
    }
}

/// What keeps the pages of the vectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// A pin for each page.
    Pins,
    /// The lease, or the uses.
    Lease,
}

/// Memory that an I/O reads or writes.
///
/// # Invariants
///
/// The first `filled` vectors name `bytes` bytes of memory. With [`Held::Pins`] each lies in one
/// folio, and this value owns a pin of each page that a vector touches, for writing and marked
/// dirty if `is_read`. With [`Held::Lease`] each lies in an extent of `lease`, which is there, or in
/// the pages of one of `uses`.
pub(crate) struct IoVectors {
    small: [bindings::bio_vec; SMALL_VECTORS],
    /// Empty unless this is for a large I/O.
    large: KVec<bindings::bio_vec>,
    filled: usize,
    bytes: u32,
    is_read: bool,
    held: Held,
    /// All addresses and lengths of the vectors, by a bitwise or.
    alignment: u32,
    /// Kept while the I/O is free: the next one most often has the same.
    lease: Option<Arc<PinnedExtents>>,
    /// Those of mapped pages. Ended in any context, and kept until a thread releases the vectors.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    uses: KVec<MappedUse>,
}

// SAFETY: Pins may be used and dropped by any thread; the rest is `Send`.
unsafe impl Send for IoVectors {}

impl IoVectors {
    /// Allocates room for [`SMALL_VECTORS`], or [`LARGE_VECTORS`] if it is `large`.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn new(large: bool) -> Result<Self> {
        let large = if large {
            KVec::from_elem(
                bindings::bio_vec::default(),
                LARGE_VECTORS,
                GFP_KERNEL_ACCOUNT,
            )?
        } else {
            KVec::new()
        };
        // INVARIANT: no vectors yet.
        Ok(Self {
            small: [bindings::bio_vec::default(); SMALL_VECTORS],
            large,
            filled: 0,
            bytes: 0,
            is_read: false,
            held: Held::Pins,
            alignment: 0,
            lease: None,
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            uses: KVec::new(),
        })
    }

    pub(super) fn is_large(&self) -> bool {
        !self.large.is_empty()
    }

    /// Returns the bytes added so far.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Returns whether a device with this mask of address bits that must be 0 can reach all of the
    /// memory.
    #[inline]
    pub(crate) fn is_aligned(&self, mask: u32) -> bool {
        self.alignment & mask == 0
    }

    /// Returns whether each block of it can be an I/O of its own for a device with these limits.
    pub(crate) fn has_whole_blocks(&mut self, block: u32, limits: &SegmentLimits) -> bool {
        if limits.take_all(block, self.alignment) {
            return true;
        }
        let filled = self.filled;
        let vectors = self.room().iter().take(filled);
        limits.keep_blocks_whole(block, vectors.map(|it| (it.bv_offset, it.bv_len)))
    }

    /// Begins an I/O, for which it is empty.
    #[inline]
    pub(super) fn begin(&mut self, is_read: bool) {
        if self.filled > 0 {
            self.release();
        }
        self.is_read = is_read;
        self.alignment = 0;
    }

    #[inline]
    fn room(&mut self) -> &mut [bindings::bio_vec] {
        if self.large.is_empty() {
            &mut self.small
        } else {
            &mut self.large
        }
    }

    /// Returns the free vectors, and how many bytes there is room for: a page for each vector, however
    /// they are merged. That bounds how much guest memory is pinned, and how long a submission takes.
    #[inline]
    fn free(&mut self) -> (&mut [bindings::bio_vec], usize) {
        let (filled, bytes) = (self.filled, self.bytes as usize);
        let room = self.room();
        let left = (room.len() * PAGE_SIZE).saturating_sub(bytes);
        (room.get_mut(filled..).unwrap_or_default(), left)
    }

    /// Returns the vectors for a bio.
    #[inline]
    pub(super) fn table(&mut self) -> Table {
        let filled = self.filled as u16;
        Table {
            start: self.room().as_mut_ptr(),
            filled,
        }
    }

    /// Fills vectors with the page of zeroes. Returns them, and how many bytes they have: `bytes`, or
    /// less when there is no room.
    pub(super) fn zeroes(&mut self, bytes: u32) -> (Table, u32) {
        self.release();
        // SAFETY: There is always one.
        let page = unsafe { helpers::vblk_zero_page() };
        let mut left = bytes as usize;
        let mut count = 0;
        for vector in self.room() {
            let now = left.min(PAGE_SIZE);
            if now == 0 {
                break;
            }
            *vector = bindings::bio_vec {
                bv_page: page,
                bv_len: now as u32,
                bv_offset: 0,
            };
            left -= now;
            count += 1;
        }
        let table = Table {
            start: self.room().as_mut_ptr(),
            filled: count,
        };
        (table, bytes - left as u32)
    }

    /// Makes one vector of a buffer. Returns it.
    pub(super) fn contiguous(&mut self, buffer: &mut KVec<u8>) -> Table {
        self.release();
        let start = buffer.as_mut_ptr();
        let page_start = start.map_addr(|addr| addr & PAGE_MASK);
        let vector = bindings::bio_vec {
            // SAFETY: A `KVec` is memory of kmalloc, which is contiguous and kernel-mapped.
            bv_page: unsafe { helpers::vblk_virt_to_page(page_start.cast()) },
            bv_len: buffer.len() as u32,
            bv_offset: (start.addr() & !PAGE_MASK) as u32,
        };
        if let Some(first) = self.room().first_mut() {
            *first = vector;
        }
        Table {
            start: self.room().as_mut_ptr(),
            filled: 1,
        }
    }

    /// Adds as many of `len` bytes at `addr` of the current process as there is room for, and pins
    /// their pages. Returns how many. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when the process has no such memory, or may not write what a read fills; ENOMEM.
    /// Nothing was added then.
    #[inline(always)]
    pub(crate) fn pin(
        &mut self,
        addr: HostAddr,
        len: u64,
        scratch: &mut PageScratch,
    ) -> Result<usize> {
        if self.filled == 0 {
            self.held = Held::Pins;
        } else if self.held != Held::Pins {
            return Err(EINVAL);
        }
        let addr = usize::try_from(addr.0).map_err(|_| EFAULT)?;
        if len <= (PAGE_SIZE - (addr & !PAGE_MASK)) as u64 {
            self.pin_page(addr, len as usize)
        } else {
            self.pin_run(addr, len, scratch)
        }
    }

    /// Adds `len` bytes within one page, if there is room: what [`Self::pin_run`] does, for the most
    /// frequent case.
    #[inline(always)]
    fn pin_page(&mut self, addr: usize, len: usize) -> Result<usize> {
        let filled = self.filled;
        let is_read = self.is_read;
        let Some(vector) = self.room().get_mut(filled) else {
            return Ok(0);
        };
        let offset = (addr & !PAGE_MASK) as u32;
        let mut pages = [core::ptr::null_mut()];
        pin_pages(addr, pin_flags(is_read), &mut pages)?;
        let [page] = pages;
        if is_read {
            // SAFETY: Pinned just now.
            unsafe { pin::mark_dirty(page) };
        }
        *vector = bindings::bio_vec {
            bv_page: page,
            bv_len: len as u32,
            bv_offset: offset,
        };
        // INVARIANT: the one page is touched by the one vector.
        self.filled = filled + 1;
        self.bytes += len as u32;
        self.alignment |= offset | len as u32;
        Ok(len)
    }

    /// Adds as many of `len` bytes at `addr` as there is room for.
    fn pin_run(&mut self, addr: usize, len: u64, scratch: &mut PageScratch) -> Result<usize> {
        let is_read = self.is_read;
        let (free, left) = self.free();
        let offset = addr & !PAGE_MASK;
        // At most LARGE_VECTORS pages: no overflow.
        let room = (free.len() * PAGE_SIZE).saturating_sub(offset).min(left);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(room);
        if len == 0 {
            return Ok(0);
        }
        let count = (offset + len).div_ceil(PAGE_SIZE);
        let Some(pages) = scratch.0.get_mut(..count) else {
            return Ok(0);
        };
        pin_pages(addr, pin_flags(is_read), pages)?;

        let mut used = 0;
        let mut offset = offset;
        let mut left = len;
        let mut alignment = offset as u32;
        let mut pages = pages.iter().peekable();
        for vector in free {
            let Some(page) = pages.next() else {
                break;
            };
            let mut now = left.min(PAGE_SIZE - offset);
            let mut last = *page;
            // Pages of one folio that follow each other are one vector.
            // SAFETY: All of these are pinned.
            while let Some(next) = pages.next_if(|next| unsafe { pin::follows(last, **next) }) {
                last = *next;
                now += (left - now).min(PAGE_SIZE);
            }
            if is_read {
                // SAFETY: Pinned just now.
                unsafe { pin::mark_dirty(*page) };
            }
            *vector = bindings::bio_vec {
                bv_page: *page,
                bv_len: now as u32,
                bv_offset: offset as u32,
            };
            alignment |= now as u32;
            left -= now;
            offset = 0;
            used += 1;
        }
        // INVARIANT: each of the pages is touched by one of the vectors, there being a vector for
        // each if need be; those that it touches are in one folio, which is marked dirty as a whole.
        self.filled += used;
        self.bytes += len as u32;
        self.alignment |= alignment;
        Ok(len)
    }

    /// Has what keeps the memory at `addr` of `extents` until the vectors are released. Returns whether
    /// it could: not when there is no memory, or vectors are of other extents.
    #[inline(always)]
    #[cfg_attr(not(CONFIG_VHOST_BLK_RS_VDPA), expect(unused_variables))]
    fn keep(&mut self, extents: &Arc<PinnedExtents>, addr: ExtentAddr) -> bool {
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        if let Some(pages) = extents.mapped_pages(addr) {
            let has_it = self.uses.last().is_some_and(|last| last.is_of(pages));
            let new = || MappedUse::new(pages.clone());
            return has_it || self.uses.push(new(), GFP_KERNEL_ACCOUNT).is_ok();
        }
        let has_it = self
            .lease
            .as_ref()
            .is_some_and(|lease| Arc::ptr_eq(lease, extents));
        if !has_it && self.filled == 0 {
            self.lease = Some(extents.clone());
        }
        has_it || self.filled == 0
    }

    /// Adds as many of `len` bytes at `addr` of `extents` as there is room for, as one vector.
    /// Returns how many: 0 when there is no room, or no such memory, or it may not be written by a
    /// read or read by a write. May sleep.
    #[inline(always)]
    pub(crate) fn lease(
        &mut self,
        extents: &Arc<PinnedExtents>,
        addr: ExtentAddr,
        len: u64,
    ) -> usize {
        if self.filled == 0 {
            // INVARIANT: no vectors yet.
            self.held = Held::Lease;
        } else if self.held != Held::Lease {
            return 0;
        }
        if !self.keep(extents, addr) {
            return 0;
        }
        let is_read = self.is_read;
        let (free, left) = self.free();
        let Some(vector) = free.first_mut() else {
            return 0;
        };
        let Some(found) = extents.vector(addr, len.min(left as u64), is_read) else {
            return 0;
        };
        *vector = found;
        // INVARIANT: a vector of an extent that `keep` keeps.
        self.filled += 1;
        self.bytes += found.bv_len;
        self.alignment |= found.bv_offset | found.bv_len;
        found.bv_len as usize
    }

    /// Takes the last `bytes` bytes away. May sleep.
    pub(crate) fn trim(&mut self, mut bytes: u32) {
        while bytes > 0 {
            let Some(last) = self.filled.checked_sub(1) else {
                return;
            };
            let held = self.held;
            let is_read = self.is_read;
            let Some(vector) = self.room().get_mut(last) else {
                return;
            };
            let whole = *vector;
            let now = bytes.min(whole.bv_len);
            vector.bv_len -= now;
            let left = *vector;
            if held == Held::Pins {
                let kept = pin::pages_of(&left);
                // SAFETY: Of the pages that the vector touched, all of one folio and pinned, those
                // behind the kept ones are touched no more.
                unsafe { pin::unpin_pages(&whole, kept, is_read) };
            }
            // INVARIANT: the vector touches the pages that are still pinned, if any.
            if left.bv_len == 0 {
                self.filled = last;
            }
            self.bytes -= now;
            bytes -= now;
        }
    }

    /// Gives up the pins that can be given up in any context. Returns whether that was all of them.
    #[inline]
    pub(super) fn try_release(&mut self) -> bool {
        if self.held == Held::Pins {
            let is_read = self.is_read;
            while let Some(last) = self.filled.checked_sub(1) {
                let Some(vector) = self.room().get(last) else {
                    break;
                };
                // SAFETY: Ours, by the type invariant, and no longer claimed below when unpinned.
                if !unsafe { pin::try_unpin(vector, is_read) } {
                    return false;
                }
                // INVARIANT: the last pins are gone.
                self.filled = last;
            }
        }
        // INVARIANT: what is leased stays with the lease.
        self.filled = 0;
        self.bytes = 0;
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        self.uses.iter_mut().for_each(MappedUse::end);
        true
    }

    /// Gives up all pins. May sleep.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.filled > 0 {
            self.release_all();
        }
        self.bytes = 0;
        // INVARIANT: no vectors.
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        self.uses.clear();
    }

    #[cold]
    fn release_all(&mut self) {
        // INVARIANT: no vectors.
        let filled = core::mem::take(&mut self.filled);
        if self.held == Held::Pins {
            let is_read = self.is_read;
            for vector in self.room().iter().take(filled) {
                // SAFETY: Ours, by the type invariant, which `filled` no longer claims.
                unsafe { pin::unpin_pages(vector, 0, is_read) };
            }
        }
    }

    /// Lets go of memory that was pinned ahead, unless in use. May sleep.
    pub(super) fn release_lease(&mut self) {
        if self.filled == 0 || self.held != Held::Lease {
            self.lease = None;
        }
    }
}

impl Drop for IoVectors {
    fn drop(&mut self) {
        self.release();
    }
}

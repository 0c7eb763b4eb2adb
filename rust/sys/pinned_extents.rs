// SPDX-License-Identifier: GPL-2.0

//! Memory that is pinned for long, as runs of contiguous pages: of a process, or what the user of a
//! vDPA device mapped.
//!
//! The kernel reaches it through its own mapping of all memory, in any context and without the
//! process.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::mapped_pages::{
    MappedPages,
    MappedUse,
    MAX_BYTES, //
};
use super::{
    bindings as helpers,
    gfp_user_sized,
    is_user_range,
    locked_memory::LockedMemory,
    pin::pin_pages,
    task::{
        give_way, //
        gives_up,
    }, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    mm::MmWithUser,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use vblk_core::addr::HostAddr;

/// Pages that are pinned at a time.
const CHUNK: usize = 512;

/// Bits of an [`ExtentAddr`] that say where in the extent: a terabyte.
const OFFSET_BITS: u32 = 40;

/// Most bytes of an extent.
const MAX_EXTENT: u64 = 1 << OFFSET_BITS;

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
const _: () = assert!(MAX_BYTES <= MAX_EXTENT);

/// Most extents.
const MAX_EXTENTS: usize = 1 << (u64::BITS - OFFSET_BITS);

/// A position in [`PinnedExtents`]: which extent, and where in it. Addresses within an extent are
/// contiguous.
#[derive(Clone, Copy)]
pub(crate) struct ExtentAddr(pub(crate) u64);

impl ExtentAddr {
    /// Returns the address of the beginning of an extent.
    pub(crate) fn start_of(extent: usize) -> Self {
        Self((extent as u64) << OFFSET_BITS)
    }

    /// Returns the offset in the extent.
    #[inline]
    fn offset(self) -> u64 {
        self.0 & (MAX_EXTENT - 1)
    }
}

/// A run of contiguous memory.
struct Extent {
    /// The page that `start` is in.
    page: *mut bindings::page,
    start: NonNull<u8>,
    /// Bytes that may be read: all, or none.
    readable: u64,
    /// Bytes that may be written: all, or none.
    writable: u64,
}

impl Extent {
    /// Returns the bytes of the extent.
    fn bytes(&self) -> u64 {
        self.readable.max(self.writable)
    }

    /// Returns the bytes that may be accessed so.
    #[inline]
    fn accessible(&self, is_written: bool) -> u64 {
        if is_written {
            self.writable
        } else {
            self.readable
        }
    }

    /// Returns where `len` bytes from `offset` on lie, and how many of them are in the extent.
    #[inline]
    fn find(&self, offset: u64, len: u64, is_written: bool) -> Option<(*mut u8, u64)> {
        let bytes = self.accessible(is_written);
        let rest = bytes.checked_sub(offset).filter(|rest| *rest > 0)?;
        // SAFETY: Within the extent.
        let start = unsafe { self.start.as_ptr().add(offset as usize) };
        Some((start, rest.min(len)))
    }
}

/// What keeps the pages of extents.
enum Hold {
    /// A pin of each page, charged to a process.
    Pins(LockedMemory),
    /// Mapped pages, each of which is an extent.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Mapped(KVVec<Arc<MappedPages>>),
}

/// Pinned memory.
///
/// # Invariants
///
/// Each extent is kernel-mapped memory, of not 0 bytes, whose pages are pinned for long as `hold`
/// says and follow each other from `page` on. What is `writable` is pinned for writing.
pub(crate) struct PinnedExtents {
    extents: KVVec<Extent>,
    hold: Hold,
}

// SAFETY: The memory is mapped for the whole kernel, and pins may be dropped by any thread.
unsafe impl Send for PinnedExtents {}
// SAFETY: A shared reference copies bytes that others may change anyway.
unsafe impl Sync for PinnedExtents {}

impl PinnedExtents {
    /// Creates one without memory, for the current process, whose address space is `mm`.
    pub(crate) fn new(mm: ARef<MmWithUser>) -> Self {
        Self {
            extents: KVVec::new(),
            hold: Hold::Pins(LockedMemory::new(mm)),
        }
    }

    /// Makes an extent of each of these mapped pages, in their order.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn of_mapped(pages: KVVec<Arc<MappedPages>>) -> Result<Self> {
        if pages.len() > MAX_EXTENTS {
            return Err(ENOMEM);
        }
        let mut extents = KVVec::with_capacity(pages.len(), gfp_user_sized())?;
        for run in pages.iter() {
            // INVARIANT: pinned as long as `hold` has the run, which has no more bytes than fit an
            // address, and is writable as it says.
            let extent = Extent {
                page: run.first_page(),
                start: run.start(),
                readable: if run.may_read() { run.bytes() } else { 0 },
                writable: if run.may_write() { run.bytes() } else { 0 },
            };
            extents.push(extent, gfp_user_sized())?;
        }
        Ok(Self {
            extents,
            hold: Hold::Mapped(pages),
        })
    }

    /// Pins `len` bytes at `addr` of the current process, for writing. Returns the numbers of the
    /// extents that they became, in order. The pages count against RLIMIT_MEMLOCK. May sleep, and
    /// take long.
    ///
    /// # Errors
    ///
    /// EFAULT when the process has no such memory, or may not write it, or it can't be pinned for
    /// long; ENOMEM; EINTR when the task is being killed. What was added until then stays.
    pub(crate) fn pin(&mut self, addr: HostAddr, len: u64) -> Result<Range<usize>> {
        let locked = match &mut self.hold {
            Hold::Pins(locked) if locked.is_current() && is_user_range(addr, len) => locked,
            _ => return Err(EFAULT),
        };
        let first = self.extents.len();
        let addr = usize::try_from(addr.0)?;
        let mut left = usize::try_from(len)?;
        let mut offset = addr & !PAGE_MASK;
        let mut page_addr = addr & PAGE_MASK;
        let count = offset.checked_add(left).ok_or(EFAULT)?.div_ceil(PAGE_SIZE);
        locked.add(count)?;
        let mut scratch =
            KVVec::from_elem(core::ptr::null_mut(), count.min(CHUNK), GFP_KERNEL_ACCOUNT)?;
        let mut last = None;
        while left > 0 {
            if gives_up() {
                return Err(EINTR);
            }
            let now = (offset + left).div_ceil(PAGE_SIZE).min(CHUNK);
            let pages = scratch.get_mut(..now).ok_or(EFAULT)?;
            pin_pages(
                page_addr,
                bindings::FOLL_LONGTERM | bindings::FOLL_WRITE,
                pages,
            )?;
            for (number, page) in pages.iter().enumerate() {
                let bytes = left.min(PAGE_SIZE - offset);
                if let Err(error) = self.append(*page, offset, bytes, last) {
                    if let Some(rest) = pages.get_mut(number..) {
                        // SAFETY: Pinned just now, and in no extent.
                        unsafe { bindings::unpin_user_pages(rest.as_mut_ptr(), rest.len()) };
                    }
                    return Err(error);
                }
                last = Some(*page);
                left -= bytes;
                offset = 0;
            }
            page_addr += now * PAGE_SIZE;
            give_way();
        }
        Ok(first..self.extents.len())
    }

    /// Adds `bytes` bytes of a pinned page, to the last extent if that ends with the page `last`
    /// before it.
    fn append(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        last: Option<*mut bindings::page>,
    ) -> Result {
        // SAFETY: Both pages are pinned.
        let follows = last.is_some_and(|last| unsafe { helpers::vblk_page_continues(last, page) });
        let extents = self.extents.len();
        if let (true, Some(extent)) = (follows, self.extents.as_mut_slice().last_mut()) {
            if extent.bytes() + bytes as u64 <= MAX_EXTENT {
                // INVARIANT: all of the page before was in the extent, and this one lies behind it.
                extent.readable += bytes as u64;
                extent.writable += bytes as u64;
                return Ok(());
            }
        }
        if extents == MAX_EXTENTS {
            return Err(ENOMEM);
        }
        // SAFETY: Pinned; 64-bit kernels have all pages mapped.
        let start = unsafe { helpers::vblk_page_address(page) }.cast::<u8>();
        let start = NonNull::new(start.wrapping_add(offset)).ok_or(EFAULT)?;
        let bytes = bytes as u64;
        // INVARIANT: a part of a page that is pinned, for writing.
        let extent = Extent {
            page,
            start,
            readable: bytes,
            writable: bytes,
        };
        self.extents.push(extent, gfp_user_sized())?;
        Ok(())
    }

    /// Returns the bytes of an extent; 0 when there is no such extent.
    pub(crate) fn bytes_of(&self, extent: usize) -> u64 {
        self.extents.get(extent).map_or(0, Extent::bytes)
    }

    /// Returns the mapped pages that an address is in, if this is memory that was mapped.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    #[inline]
    pub(super) fn mapped_pages(&self, addr: ExtentAddr) -> Option<&Arc<MappedPages>> {
        match &self.hold {
            Hold::Mapped(pages) => pages.get((addr.0 >> OFFSET_BITS) as usize),
            Hold::Pins(_) => None,
        }
    }

    /// Returns the mapped pages that an address is in, and the number of the page there.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn mapped(&self, addr: ExtentAddr) -> Option<(Arc<MappedPages>, usize)> {
        let run = self.mapped_pages(addr)?;
        Some((run.clone(), addr.offset() as usize / PAGE_SIZE))
    }

    /// Returns the extent of an address.
    #[inline]
    fn extent(&self, addr: ExtentAddr) -> Option<&Extent> {
        self.extents.get((addr.0 >> OFFSET_BITS) as usize)
    }

    /// Returns where `len` bytes at `addr` lie, and how many of them are in the extent.
    #[inline]
    fn find(&self, addr: ExtentAddr, len: u64, is_written: bool) -> Option<(*mut u8, u64)> {
        self.extent(addr)?.find(addr.offset(), len, is_written)
    }

    /// Returns a vector for as many of `len` bytes at `addr` as are in the extent, if they may be
    /// accessed so.
    #[inline]
    pub(super) fn vector(
        &self,
        addr: ExtentAddr,
        len: u64,
        is_written: bool,
    ) -> Option<bindings::bio_vec> {
        let extent = self.extent(addr)?;
        let (start, len) = extent.find(addr.offset(), len, is_written)?;
        let pages = (start.addr() / PAGE_SIZE) - (extent.start.addr().get() / PAGE_SIZE);
        Some(bindings::bio_vec {
            // The pages of an extent follow each other, by the type invariant.
            bv_page: extent.page.wrapping_add(pages),
            bv_len: u32::try_from(len).ok()?,
            bv_offset: (start.addr() & !PAGE_MASK) as u32,
        })
    }

    /// Fills `to` with what is at `addr`. Returns whether all of it is in one extent.
    #[inline]
    pub(crate) fn read(&self, addr: ExtentAddr, to: &mut [u8]) -> bool {
        match self.find(addr, to.len() as u64, false) {
            Some((start, len)) if len == to.len() as u64 => {
                // Headers of requests have 16 bytes.
                if let (Ok(to), true) = (
                    <&mut [u8; 16]>::try_from(&mut *to),
                    start.cast::<u64>().is_aligned(),
                ) {
                    // SAFETY: 16 bytes of the extent, aligned.
                    let pair = unsafe {
                        let pair = start.cast::<u64>();
                        [pair.read_volatile(), pair.add(1).read_volatile()]
                    };
                    for (to, from) in to.chunks_exact_mut(8).zip(pair) {
                        to.copy_from_slice(&from.to_ne_bytes());
                    }
                    return true;
                }
                // SAFETY: `len` bytes of the extent, and of `to`. By C's memcpy, which makes no
                // assumption that shared memory holds still.
                unsafe { helpers::vblk_copy(to.as_mut_ptr().cast(), start.cast(), to.len()) };
                true
            }
            _ => to.is_empty(),
        }
    }

    /// Writes `from` to `addr`. Returns whether all of it is in one extent.
    pub(crate) fn write(&self, addr: ExtentAddr, from: &[u8]) -> bool {
        match self.find(addr, from.len() as u64, true) {
            Some((start, len)) if len == from.len() as u64 => {
                // SAFETY: As in `read`; the memory is writable, and so pinned for writing.
                unsafe { helpers::vblk_copy(start.cast(), from.as_ptr().cast(), from.len()) };
                true
            }
            _ => from.is_empty(),
        }
    }
}

impl Drop for PinnedExtents {
    /// May sleep.
    fn drop(&mut self) {
        if !matches!(self.hold, Hold::Pins(_)) {
            return;
        }
        for extent in self.extents.iter() {
            let offset = extent.start.addr().get() & !PAGE_MASK;
            let pages = (offset + extent.bytes() as usize).div_ceil(PAGE_SIZE);
            // SAFETY: Pinned by this value, by the type invariant, and following each other.
            unsafe { bindings::unpin_user_page_range_dirty_lock(extent.page, pages, true) };
            give_way();
        }
    }
}

/// What keeps the memory of a [`LeasedByte`].
enum Lease {
    /// All extents.
    All(#[expect(dead_code, reason = "kept")] Arc<PinnedExtents>),
    /// The mapped pages that it is in.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Use(MappedUse),
}

impl Lease {
    #[inline]
    #[cfg_attr(not(CONFIG_VHOST_BLK_RS_VDPA), expect(unused_variables))]
    fn new(extents: &Arc<PinnedExtents>, addr: ExtentAddr) -> Self {
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        if let Some(pages) = extents.mapped_pages(addr) {
            return Self::Use(MappedUse::new(pages.clone()));
        }
        Self::All(extents.clone())
    }
}

/// One byte of pinned memory, to be written in any context.
///
/// # Invariants
///
/// `byte` lies in an extent that may be written, and that `lease` keeps.
pub(crate) struct LeasedByte {
    byte: NonNull<u8>,
    lease: Lease,
}

// SAFETY: As for `PinnedExtents`.
unsafe impl Send for LeasedByte {}
// SAFETY: A shared reference stores a byte to memory that others write too.
unsafe impl Sync for LeasedByte {}

impl LeasedByte {
    /// Finds the byte at `addr`. `None` when there is no such memory.
    #[inline]
    pub(crate) fn new(extents: &Arc<PinnedExtents>, addr: ExtentAddr) -> Option<Self> {
        let (start, _) = extents.find(addr, 1, true)?;
        // INVARIANT: found in an extent that may be written; the lease is for its address.
        Some(Self {
            byte: NonNull::new(start)?,
            lease: Lease::new(extents, addr),
        })
    }

    /// Writes the byte, before [`Self::end`].
    #[inline]
    pub(crate) fn write(&self, value: u8) {
        // SAFETY: In an extent, by the type invariant, and so pinned for writing and mapped.
        unsafe { self.byte.as_ptr().write_volatile(value) };
    }

    /// Ends the use of the byte, in any context: who unmaps it waits no longer. Its memory stays until
    /// the drop, which may sleep.
    #[inline]
    pub(crate) fn end(&mut self) {
        match &mut self.lease {
            Lease::All(_) => (),
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Lease::Use(pages) => pages.end(),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Pinned memory, mapped into the kernel and shared with all who map it: of a process, or what the
//! user of a vDPA device mapped.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::mapped_pages::MappedPages;
use super::{
    bindings as helpers,
    gfp_user_sized,
    is_user_range,
    locked_memory::LockedMemory,
    pin::pin_pages, //
};
use core::ptr::NonNull;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use kernel::sync::Arc;
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
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        barrier::smp_mb, //
    },
};
use vblk_core::{
    addr::HostAddr,
    memory::{
        SharedBitmap,
        SharedMemory, //
    },
};

/// Bytes of the smallest access.
const SMALLEST: usize = size_of::<u16>();

/// The way in which the kernel uses a [`MappedRange`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only reads; the process may have mapped it read-only.
    Read,
    /// Reads and writes.
    Write,
}

/// A range of a process's memory in the kernel's address space, accessible in any context.
///
/// # Invariants
///
/// - `pages` are pinned, as `hold` says.
/// - They are mapped at `mapping`, in order and writable, until `drop`.
/// - `start` is where in the mapping the range begins, and `len` bytes from there lie in it.
/// - `start` is aligned to `align`, and no access is wider than that.
/// - `align` and `len` are multiples of [`SMALLEST`].
pub(crate) struct MappedRange {
    pages: KVVec<*mut bindings::page>,
    mapping: NonNull<u8>,
    start: NonNull<u8>,
    len: usize,
    align: usize,
    access: Access,
    hold: Hold,
}

/// What keeps the pages of a range.
enum Hold {
    /// A pin of each, charged to a process.
    Pins { _locked: LockedMemory },
    /// The mapped pages that they are of.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Mapped { _runs: KVVec<Arc<MappedPages>> },
}

// SAFETY: The mapping is global to the kernel, and undoing it works from any thread.
unsafe impl Send for MappedRange {}
// SAFETY: All accesses through a shared reference are atomic or volatile.
unsafe impl Sync for MappedRange {}

impl MappedRange {
    /// Maps `len` bytes at `addr` of the current process, whose address space is `mm`, for
    /// accesses of up to `align` bytes each. The pages count against RLIMIT_MEMLOCK.
    ///
    /// # Errors
    ///
    /// EINVAL when `addr` is not aligned; EFAULT when the process has no such memory, or may not
    /// write it; ENOMEM.
    pub(crate) fn new(
        mm: ARef<MmWithUser>,
        addr: HostAddr,
        len: usize,
        align: usize,
        access: Access,
    ) -> Result<Self> {
        check(addr.0, len, align)?;
        if len == 0 || !is_user_range(addr, len as u64) {
            return Err(EFAULT);
        }
        let addr = usize::try_from(addr.0)?;
        let offset = addr & !PAGE_MASK;
        let count = offset.checked_add(len).ok_or(EFAULT)?.div_ceil(PAGE_SIZE);
        let mut pages = KVVec::from_elem(core::ptr::null_mut(), count, gfp_user_sized())?;
        let mut locked = LockedMemory::new(mm);
        locked.add(count)?;
        let mut flags = bindings::FOLL_LONGTERM;
        if access == Access::Write {
            flags |= bindings::FOLL_WRITE;
        }
        pin_pages(addr, flags, &mut pages)?;
        let Some(mapping) = map(&mut pages) else {
            // SAFETY: Pinned just above; nothing was written.
            unsafe { bindings::unpin_user_pages(pages.as_mut_ptr(), count) };
            return Err(ENOMEM);
        };
        // INVARIANT: `align` and `len` are multiples as asked for; pinned and mapped just above.
        // `offset` is less than a page, and `count` pages hold `offset + len` bytes; `addr` is
        // aligned, pages are, so `offset` is.
        Ok(Self {
            pages,
            mapping,
            // SAFETY: Within the mapping, see above.
            start: unsafe { mapping.add(offset) },
            len,
            align,
            access,
            hold: Hold::Pins { _locked: locked },
        })
    }

    /// Maps `len` bytes for accesses of up to `align` bytes each: from `offset` on in the first of
    /// these pages, each of which is named by the mapped pages that it is of and its number there.
    ///
    /// # Errors
    ///
    /// EINVAL when `offset` is not aligned; EFAULT when a page is not there, may not be accessed so,
    /// or there are too few or too many; ENOMEM.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn of_mapped(
        pages_of: &[(Arc<MappedPages>, usize)],
        offset: usize,
        len: usize,
        align: usize,
        access: Access,
    ) -> Result<Self> {
        check(offset as u64, len, align)?;
        let end = offset.checked_add(len).ok_or(EFAULT)?;
        if len == 0 || offset >= PAGE_SIZE || end.div_ceil(PAGE_SIZE) != pages_of.len() {
            return Err(EFAULT);
        }
        let mut pages = KVVec::with_capacity(pages_of.len(), gfp_user_sized())?;
        let mut runs = KVVec::with_capacity(pages_of.len(), gfp_user_sized())?;
        for (run, number) in pages_of {
            let page = run.page(*number, access == Access::Write).ok_or(EFAULT)?;
            pages.push(page, gfp_user_sized())?;
            runs.push(run.clone(), gfp_user_sized())?;
        }
        let mapping = map(&mut pages).ok_or(ENOMEM)?;
        // INVARIANT: as in `new`; the pages are there as long as `runs`.
        Ok(Self {
            pages,
            mapping,
            // SAFETY: Within the mapping, see above.
            start: unsafe { mapping.add(offset) },
            len,
            align,
            access,
            hold: Hold::Mapped { _runs: runs },
        })
    }

    /// Sets a bit, the lowest of the first byte being the first. In any context.
    #[inline]
    fn set_bit(&self, bit: u64) {
        let Ok(bit) = usize::try_from(bit) else {
            return;
        };
        if self.access != Access::Write || bit / 8 >= self.len {
            return;
        }
        // SAFETY: Both are of the same mapping, by the type invariants.
        let offset = unsafe { self.start.as_ptr().offset_from(self.mapping.as_ptr()) } as usize;
        // SAFETY: The bit is in the range, and so are the other bits of its word in the mapping, which
        // begins and ends with a page. No overflow: it is in the mapping in bytes.
        unsafe { helpers::vblk_set_bit_le(offset * 8 + bit, self.mapping.as_ptr().cast()) };
    }

    /// Returns the address of the `T` at `offset`, if it is in the range.
    #[inline]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let size = size_of::<T>();
        // What is aligned and begins before the end of the last whole `T` is whole itself. For the
        // smallest ones the type invariants say half of it.
        let smallest = size <= SMALLEST;
        let aligned = offset % size == 0 && (smallest || size <= self.align);
        let whole = if smallest {
            self.len
        } else {
            self.len & !(size - 1)
        };
        let fits = offset < whole;
        // SAFETY: Within the range, and so within the mapping.
        (fits && aligned).then(|| unsafe { self.start.as_ptr().add(offset) }.cast())
    }

    /// Returns the address for a store: that of [`Self::at`] if the range is written.
    #[inline]
    fn at_mut<T>(&self, offset: usize) -> Option<*mut T> {
        (self.access == Access::Write)
            .then(|| self.at(offset))
            .flatten()
    }
}

/// Checks the address, length and alignment of a range.
///
/// # Errors
///
/// EINVAL.
fn check(addr: u64, len: usize, align: usize) -> Result {
    let are_multiples = [align, len].iter().all(|size| size % SMALLEST == 0);
    if !are_multiples || !align.is_power_of_two() || align > PAGE_SIZE {
        return Err(EINVAL);
    }
    if addr & (align as u64 - 1) != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// Maps pages that stay until they are unmapped. `None` when there is no memory.
fn map(pages: &mut [*mut bindings::page]) -> Option<NonNull<u8>> {
    // SAFETY: As many pages as the slice has; the callers keep them.
    let mapping = unsafe { helpers::vblk_vmap(pages.as_mut_ptr(), pages.len() as u32) };
    NonNull::new(mapping.cast::<u8>())
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        let count = self.pages.len();
        // SAFETY: Mapped, by the type invariants, and never to be used again. May sleep: values of
        // this type are dropped by those who detach a disk.
        unsafe { helpers::vblk_vunmap(self.mapping.as_ptr().cast()) };
        if matches!(self.hold, Hold::Pins { .. }) {
            let is_written = self.access == Access::Write;
            // SAFETY: Pinned by this value, by the type invariants. May sleep, as above.
            unsafe {
                bindings::unpin_user_pages_dirty_lock(self.pages.as_mut_ptr(), count, is_written);
            }
        }
    }
}

impl SharedBitmap for MappedRange {
    #[inline]
    fn set(&self, bit: u64) {
        self.set_bit(bit);
    }
}

// Every access is one instruction on memory that others change at the same time: volatile is
// READ_ONCE and WRITE_ONCE of the kernel's memory model, and the rest its acquire and release.
impl SharedMemory for MappedRange {
    #[inline]
    fn load_u16(&self, offset: usize) -> u16 {
        // SAFETY: `at` returns aligned addresses within the mapping.
        self.at(offset)
            .map_or(0, |at| unsafe { core::ptr::read_volatile(at) })
    }

    #[inline]
    fn load_u64(&self, offset: usize) -> u64 {
        // SAFETY: As for `load_u16`.
        self.at(offset)
            .map_or(0, |at| unsafe { core::ptr::read_volatile(at) })
    }

    #[inline]
    fn load_u64_pair(&self, offset: usize) -> [u64; 2] {
        let Some(at) = self.at::<u128>(offset) else {
            return [0; 2];
        };
        let at = at.cast::<u64>();
        // SAFETY: As for `load_u16`, twice.
        unsafe {
            [
                core::ptr::read_volatile(at),
                core::ptr::read_volatile(at.add(1)),
            ]
        }
    }

    #[inline]
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.at::<i16>(offset)
            // SAFETY: As for `load_u16`; and every access of the kernel to it is atomic.
            .map_or(0, |at| unsafe { Atomic::from_ptr(at) }.load(Acquire)) as u16
    }

    #[inline]
    fn store_u16(&self, offset: usize, value: u16) {
        if let Some(at) = self.at_mut(offset) {
            // SAFETY: As for `load_u16`, and pinned for writing.
            unsafe { core::ptr::write_volatile(at, value) }
        }
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        if let Some(at) = self.at_mut(offset) {
            // SAFETY: As for `store_u16`.
            unsafe { core::ptr::write_volatile(at, value) }
        }
    }

    #[inline]
    fn store_u32_pair(&self, offset: usize, values: [u32; 2]) {
        // The pair as such is aligned as each of them is.
        let fits = self.at::<u32>(offset + 4).is_some();
        if let (true, Some(at)) = (fits, self.at_mut::<u32>(offset)) {
            let [first, second] = values;
            // SAFETY: As for `store_u16`, for both.
            unsafe {
                core::ptr::write_volatile(at, first);
                core::ptr::write_volatile(at.add(1), second);
            }
        }
    }

    #[inline]
    fn store_release_u16(&self, offset: usize, value: u16) {
        if let Some(at) = self.at_mut::<i16>(offset) {
            // SAFETY: As for `store_u16`; and every access of the kernel to it is atomic.
            unsafe { Atomic::from_ptr(at) }.store(value as i16, Release);
        }
    }

    #[inline]
    fn full_barrier(&self) {
        smp_mb();
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Memory of a process, pinned and mapped into the kernel, and shared with all who map it.

use super::{
    bindings as helpers,
    gfp_user_sized,
    is_user_range,
    locked_memory::LockedMemory,
    pin::pin_pages, //
};
use core::ptr::NonNull;
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
    memory::SharedMemory, //
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
/// - `pages` are pinned.
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
    /// Charged with the pages.
    _locked: LockedMemory,
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
        let sizes = [align, len].map(|size| size % SMALLEST == 0);
        if sizes.contains(&false) || !align.is_power_of_two() || align > PAGE_SIZE {
            return Err(EINVAL);
        }
        if addr.0 & (align as u64 - 1) != 0 {
            return Err(EINVAL);
        }
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
        // SAFETY: `pages` holds `count` pages that stay with us until they are unpinned.
        let mapping = unsafe { helpers::vblk_vmap(pages.as_mut_ptr(), count as u32) }.cast::<u8>();
        let Some(mapping) = NonNull::new(mapping) else {
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
            _locked: locked,
        })
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

impl Drop for MappedRange {
    fn drop(&mut self) {
        let count = self.pages.len();
        // SAFETY: Mapped and pinned, by the type invariants, and never to be used again. May
        // sleep: values of this type are dropped by those who detach a disk.
        unsafe {
            helpers::vblk_vunmap(self.mapping.as_ptr().cast());
            bindings::unpin_user_pages_dirty_lock(
                self.pages.as_mut_ptr(),
                count,
                self.access == Access::Write,
            );
        }
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

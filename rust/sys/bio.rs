// SPDX-License-Identifier: GPL-2.0

//! I/O between a block device and the memory of a process, from allocation to completion.
//!
//! The memory for an I/O is allocated once and used again and again. It goes through four stages,
//! each a type of its own: [`Idle`], [`Filling`] while pages are pinned, then the block layer's
//! until [`Done`], and [`Spent`] while pins may be left that only a thread can give up.

use super::{
    bindings as helpers,
    block_file::BlockFile,
    op::Op,
    pin::{
        mark_dirty,
        pin_pages,
        try_unpin_written,
        unpin_written, //
    },
};
use kernel::{
    bindings,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};
use vblk_core::{
    addr::HostAddr,
    priority::Priority, //
};

/// Pages that an ordinary I/O has room for.
pub(crate) const SMALL_PAGES: usize = 8;
/// Pages that a large I/O has room for: the most that a bio can have.
pub(crate) const LARGE_PAGES: usize = bindings::BIO_MAX_VECS as usize;

/// What an I/O is for.
pub(crate) trait Job: Send {
    /// Gives up the pins that belong to it, in any context; whether that was all of them. If not,
    /// it must be dropped where it may sleep.
    fn try_release(&mut self) -> bool;
}

/// Who is told when an I/O is done.
pub(crate) trait Completer: Send + Sync + Sized + 'static {
    /// What its I/Os are for.
    type Job: Job;

    /// An I/O is done. In any context: must not sleep.
    fn complete(&self, done: Done<Self>);
}

/// Room to collect pages in while they are pinned.
pub(crate) struct PageScratch(KVec<*mut bindings::page>);

// SAFETY: The pointers are leftovers that nobody follows.
unsafe impl Send for PageScratch {}

impl PageScratch {
    /// Room for [`LARGE_PAGES`].
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let pages = KVec::from_elem(core::ptr::null_mut(), LARGE_PAGES, GFP_KERNEL_ACCOUNT)?;
        Ok(Self(pages))
    }
}

/// The memory of one I/O.
///
/// # Invariants
///
/// The first `filled` vectors name pages with a pin of ours each, for writing and marked dirty if
/// `op` is [`Op::Read`].
struct Unit<C: Completer> {
    bio: Opaque<bindings::bio>,
    small: [bindings::bio_vec; SMALL_PAGES],
    /// Empty unless this is for large I/O.
    large: KVec<bindings::bio_vec>,
    filled: usize,
    /// Vectors that name the page of zeroes, instead of any of ours.
    zeroes: usize,
    bytes: u32,
    sector: u64,
    op: Op,
    priority: Priority,
    file: Arc<BlockFile>,
    owner: Arc<C>,
    job: Option<C::Job>,
}

// SAFETY: The bio is used by one owner at a time; pins may be used and dropped by any thread; the
// rest is `Send`.
unsafe impl<C: Completer> Send for Unit<C> {}

impl<C: Completer> Unit<C> {
    fn vectors(&mut self) -> &mut [bindings::bio_vec] {
        if self.large.is_empty() {
            &mut self.small
        } else {
            &mut self.large
        }
    }

    /// Gives up all pins. May sleep.
    fn release(&mut self) {
        self.job = None;
        let written = self.op == Op::Read;
        let filled = core::mem::take(&mut self.filled);
        for vector in self.vectors().iter().take(filled) {
            // SAFETY: Ours, by the type invariant, which `filled` no longer claims.
            unsafe {
                if written {
                    unpin_written(vector.bv_page);
                } else {
                    bindings::unpin_user_page(vector.bv_page);
                }
            }
        }
    }

    /// Gives up the pins that can be in any context; whether that was all of them.
    fn try_release(&mut self) -> bool {
        let written = self.op == Op::Read;
        while let Some(last) = self.filled.checked_sub(1) {
            let Some(vector) = self.vectors().get(last) else {
                break;
            };
            // SAFETY: Ours, by the type invariant, and no longer claimed below when unpinned.
            let released = unsafe {
                if written {
                    try_unpin_written(vector.bv_page)
                } else {
                    bindings::unpin_user_page(vector.bv_page);
                    true
                }
            };
            if !released {
                return false;
            }
            // INVARIANT: the last pin is gone.
            self.filled = last;
        }
        self.job.as_mut().is_none_or(Job::try_release)
    }
}

impl<C: Completer> Drop for Unit<C> {
    fn drop(&mut self) {
        self.release();
    }
}

/// An I/O that does nothing yet.
pub(crate) struct Idle<C: Completer>(KBox<Unit<C>>);

impl<C: Completer> Idle<C> {
    /// Allocates one for the device of `file`, with room for [`SMALL_PAGES`], or [`LARGE_PAGES`]
    /// if it is `large`. It keeps `owner` alive.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(file: Arc<BlockFile>, owner: Arc<C>, large: bool) -> Result<Self> {
        let table = if large {
            KVec::from_elem(
                bindings::bio_vec::default(),
                LARGE_PAGES,
                GFP_KERNEL_ACCOUNT,
            )?
        } else {
            KVec::new()
        };
        // INVARIANT: no pages yet.
        let unit = Unit {
            bio: Opaque::uninit(),
            small: [bindings::bio_vec::default(); SMALL_PAGES],
            large: table,
            filled: 0,
            zeroes: 0,
            bytes: 0,
            sector: 0,
            op: Op::Flush,
            priority: Priority::NONE,
            file,
            owner,
            job: None,
        };
        Ok(Self(KBox::new(unit, GFP_KERNEL_ACCOUNT)?))
    }

    /// Whether it has room for [`LARGE_PAGES`].
    pub(crate) fn is_large(&self) -> bool {
        !self.0.large.is_empty()
    }

    /// Begins an I/O for `job` at `sector`, in units of 512 bytes.
    pub(crate) fn begin(
        mut self,
        op: Op,
        priority: Priority,
        sector: u64,
        job: C::Job,
    ) -> Filling<C> {
        self.0.job = Some(job);
        // INVARIANT: idle I/Os have no pages, so `op` can change.
        self.0.op = op;
        self.0.priority = priority;
        self.0.sector = sector;
        self.0.bytes = 0;
        self.0.zeroes = 0;
        Filling(self.0)
    }

    /// Begins an I/O on `bytes` bytes at `sector` that moves no data.
    pub(crate) fn begin_range(
        self,
        op: Op,
        priority: Priority,
        sector: u64,
        bytes: u32,
        job: C::Job,
    ) -> Filling<C> {
        let mut filling = self.begin(op, priority, sector, job);
        filling.0.bytes = bytes;
        filling
    }

    /// Begins to write zeroes at `sector`: `bytes` bytes, or as many as there is room for, a whole
    /// number of pages then.
    pub(crate) fn begin_zeroes(
        self,
        op: Op,
        priority: Priority,
        sector: u64,
        bytes: u32,
        job: C::Job,
    ) -> Filling<C> {
        let mut filling = self.begin(op, priority, sector, job);
        let unit = &mut *filling.0;
        // SAFETY: There is always one.
        let page = unsafe { helpers::vblk_zero_page() };
        let mut left = bytes as usize;
        let mut count = 0;
        for vector in unit.vectors() {
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
        unit.zeroes = count;
        unit.bytes = bytes - left as u32;
        filling
    }
}

/// An I/O that is being prepared.
pub(crate) struct Filling<C: Completer>(KBox<Unit<C>>);

impl<C: Completer> Filling<C> {
    /// Bytes added so far.
    pub(crate) fn bytes(&self) -> u32 {
        self.0.bytes
    }

    /// Whether it has room for [`LARGE_PAGES`].
    pub(crate) fn is_large(&self) -> bool {
        !self.0.large.is_empty()
    }

    /// What it is for.
    pub(crate) fn job(&mut self) -> &mut Option<C::Job> {
        &mut self.0.job
    }

    /// Adds as many of `len` bytes at `addr` of the current process as there is room for: a
    /// multiple of `block`, a power of two, unless all of them. Returns how many. May sleep.
    ///
    /// # Errors
    ///
    /// EFAULT when the process has no such memory, or may not write what a read fills; ENOMEM.
    /// Nothing was added then.
    pub(crate) fn pin(
        &mut self,
        addr: HostAddr,
        len: u64,
        block: u32,
        scratch: &mut PageScratch,
    ) -> Result<usize> {
        let unit = &mut *self.0;
        let to_memory = unit.op == Op::Read;
        let addr = usize::try_from(addr.0).map_err(|_| EFAULT)?;
        let mut offset = addr & !PAGE_MASK;
        let filled = unit.filled;
        let Some((_, free)) = unit.vectors().split_at_mut_checked(filled) else {
            return Ok(0);
        };
        // At most LARGE_PAGES: no overflow.
        let room = (free.len() * PAGE_SIZE).saturating_sub(offset);
        let len = match usize::try_from(len) {
            Ok(len) if len <= room => len,
            _ => room & !(block as usize).wrapping_sub(1),
        };
        if len == 0 {
            return Ok(0);
        }
        let count = (offset + len).div_ceil(PAGE_SIZE);
        let (Some(free), Some(pages)) = (free.get_mut(..count), scratch.0.get_mut(..count)) else {
            return Ok(0);
        };
        let flags = if to_memory { bindings::FOLL_WRITE } else { 0 };
        pin_pages(addr, flags, pages)?;

        let mut left = len;
        for (vector, page) in free.iter_mut().zip(pages.iter()) {
            let now = left.min(PAGE_SIZE - offset);
            if to_memory {
                // SAFETY: Pinned just now.
                unsafe { mark_dirty(*page) };
            }
            *vector = bindings::bio_vec {
                bv_page: *page,
                bv_len: now as u32,
                bv_offset: offset as u32,
            };
            left -= now;
            offset = 0;
        }
        // INVARIANT: each of the `count` pages went into a vector.
        unit.filled += count;
        unit.bytes += len as u32;
        Ok(len)
    }

    /// Gives the I/O to the device. [`Completer::complete`] gets it back, possibly before this
    /// returns.
    pub(crate) fn submit(mut self) {
        let unit = &mut *self.0;
        let device = unit.file.as_ptr();
        let (op, sector, bytes) = (unit.op.flags(), unit.sector, unit.bytes);
        let priority = unit.priority.get();
        // Either of them is 0.
        let filled = (unit.filled + unit.zeroes) as u16;
        let bio = unit.bio.get();
        let vectors = unit.vectors();
        let (table, capacity) = (vectors.as_mut_ptr(), vectors.len() as u16);
        let unit = KBox::into_raw(self.0);
        // SAFETY: `bio` and `table` lie in `*unit`, or belong to it, and stay until `end_io` takes
        // it back; nobody else uses them. `unit.file` keeps the device open. The first `filled`
        // vectors are pages that stay, ours or of zeroes, `bytes` in all, by how `pin` and
        // `begin_zeroes` count; without any, `op` moves no data.
        unsafe {
            bindings::bio_init(bio, device, table, capacity, op);
            (*bio).bi_vcnt = filled;
            (*bio).bi_ioprio = priority;
            (*bio).bi_iter.bi_sector = sector;
            (*bio).bi_iter.bi_size = bytes;
            (*bio).bi_end_io = Some(end_io::<C>);
            (*bio).bi_private = unit.cast();
            bindings::submit_bio(bio);
        }
    }

    /// Gives up, and gives up the pins; what it was for is returned. May sleep.
    pub(crate) fn abandon(mut self) -> (Idle<C>, Option<C::Job>) {
        let job = self.0.job.take();
        self.0.release();
        (Idle(self.0), job)
    }
}

/// Takes an I/O back from the block layer.
///
/// # Safety
///
/// Called by the block layer, once, for the bio of a unit that [`Filling::submit`] submitted.
unsafe extern "C" fn end_io<C: Completer>(bio: *mut bindings::bio) {
    // SAFETY: The bio is alive, and `submit` set its private data.
    let (unit, status) = unsafe { ((*bio).bi_private.cast::<Unit<C>>(), (*bio).bi_status) };
    // SAFETY: The block layer is done with it: it is ours again, from `into_raw` in `submit`.
    let unit = unsafe {
        bindings::bio_uninit(bio);
        KBox::from_raw(unit)
    };
    // `complete` may give the unit away, and the owner be dropped by others at once.
    let owner = unit.owner.clone();
    owner.complete(Done { unit, status });
}

/// How the device answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceFailure {
    /// It can't do this.
    NotSupported,
    /// Anything else.
    Failed,
}

/// An I/O that the device answered.
pub(crate) struct Done<C: Completer> {
    unit: KBox<Unit<C>>,
    status: bindings::blk_status_t,
}

impl<C: Completer> Done<C> {
    /// What the device said.
    ///
    /// # Errors
    ///
    /// See [`DeviceFailure`].
    #[inline]
    pub(crate) fn result(&self) -> Result<(), DeviceFailure> {
        if self.status == 0 {
            Ok(())
        } else {
            Err(self.failure())
        }
    }

    #[cold]
    fn failure(&self) -> DeviceFailure {
        match u32::from(self.status) {
            helpers::VBLK_STATUS_NOT_SUPPORTED => DeviceFailure::NotSupported,
            _ => DeviceFailure::Failed,
        }
    }

    /// What it was for; there unless taken.
    pub(crate) fn job(&mut self) -> &mut Option<C::Job> {
        &mut self.unit.job
    }

    /// Gives up the pins that can be in any context; whether that was all of them. If not, a
    /// thread must take care of it soon.
    pub(crate) fn try_release(mut self) -> (Spent<C>, bool) {
        let clean = self.unit.try_release();
        (Spent(self.unit), clean)
    }
}

/// An I/O that is over, but for pins.
pub(crate) struct Spent<C: Completer>(KBox<Unit<C>>);

impl<C: Completer> Spent<C> {
    /// What it was for; there unless taken.
    pub(crate) fn job(&self) -> Option<&C::Job> {
        self.0.job.as_ref()
    }

    /// Gives up what is left. May sleep.
    pub(crate) fn into_idle(mut self) -> Idle<C> {
        self.0.release();
        Idle(self.0)
    }
}

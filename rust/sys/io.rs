// SPDX-License-Identifier: GPL-2.0

//! I/O between a block device and memory, from allocation to completion.
//!
//! The memory for an I/O is allocated once and used again and again. It goes through stages, each a
//! type of its own: `Io<Free>`; [`IoBuilder`] while memory is added; then it is the block layer's;
//! `Io<Completed>` until its last pin is gone and it is free again.

use super::{
    bindings as helpers,
    block_file::BlockFile,
    io_vectors::{
        IoVectors,
        Table, //
    },
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        rcu,
        Arc, //
    },
    types::Opaque, //
};

/// An operation that moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataOp {
    /// From the device to memory.
    Read,
    /// From memory to the device.
    Write,
    /// From memory to the device, and completed only when durable.
    WriteDurable,
}

/// An operation on a range of sectors that moves no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SectorOp {
    /// Gives up the content of the sectors.
    Discard,
    /// Erases the content of the sectors.
    SecureErase,
    /// Fills the sectors with zeroes, and may give up the space behind them.
    WriteZeroes,
}

impl DataOp {
    /// Returns `REQ_OP_*` with `REQ_*`, <linux/blk_types.h>.
    fn flags(self) -> u32 {
        match self {
            Self::Read => helpers::VBLK_OP_READ,
            Self::Write => helpers::VBLK_OP_WRITE,
            Self::WriteDurable => helpers::VBLK_OP_WRITE_FUA,
        }
    }
}

impl SectorOp {
    /// Returns `REQ_OP_*`, <linux/blk_types.h>.
    fn flags(self) -> u32 {
        match self {
            Self::Discard => helpers::VBLK_OP_DISCARD,
            Self::SecureErase => helpers::VBLK_OP_SECURE_ERASE,
            Self::WriteZeroes => helpers::VBLK_OP_ZERO,
        }
    }
}

/// Hears of completed I/Os.
pub(crate) trait Completer: Send + Sync + Sized + 'static {
    /// Comes with an I/O, and back with it.
    type Owner: Send;

    /// Takes a completed I/O back. Runs in any context, in an RCU read-side section: must not
    /// sleep.
    fn complete(&self, io: Io<Completed, Self>);
}

/// The stage of an [`Io`] that does nothing.
pub(crate) enum Free {}

/// The stage of an [`Io`] that the device has answered.
pub(crate) enum Completed {}

/// The memory of one I/O.
struct Body<C: Completer> {
    bio: Opaque<bindings::bio>,
    data: IoVectors,
    /// Memory of our own that the device uses instead of `data`, which is empty then.
    buffer: KVec<u8>,
    /// `REQ_OP_*` with `REQ_*`.
    op: u32,
    priority: u16,
    status: bindings::blk_status_t,
    /// First sector, in units of 512 bytes.
    sector: u64,
    generation: u32,
    device: Arc<BlockFile>,
    /// There while the block layer has the I/O.
    completer: Option<Arc<C>>,
    owner: Option<C::Owner>,
    /// The next one in an [`IoList`].
    next: Option<KBox<Self>>,
}

// SAFETY: The bio is used by one owner at a time; everything else is `Send`.
unsafe impl<C: Completer> Send for Body<C> {}

/// An I/O in one of its stages.
pub(crate) struct Io<S, C: Completer> {
    body: KBox<Body<C>>,
    stage: PhantomData<S>,
}

impl<S, C: Completer> Io<S, C> {
    fn new(body: KBox<Body<C>>) -> Self {
        Self {
            body,
            stage: PhantomData,
        }
    }

    /// Returns whether it is a large one.
    pub(crate) fn is_large(&self) -> bool {
        self.body.data.is_large()
    }
}

impl<C: Completer> Io<Free, C> {
    /// Allocates an I/O for `device`, with room for [`SMALL_VECTORS`](super::io_vectors::SMALL_VECTORS),
    /// or [`LARGE_VECTORS`](super::io_vectors::LARGE_VECTORS) if it is `large`.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn allocate(device: Arc<BlockFile>, large: bool) -> Result<Self> {
        let body = Body {
            bio: Opaque::uninit(),
            data: IoVectors::new(large)?,
            buffer: KVec::new(),
            op: 0,
            priority: 0,
            status: 0,
            sector: 0,
            generation: 0,
            device,
            completer: None,
            owner: None,
            next: None,
        };
        Ok(Self::new(KBox::new(body, GFP_KERNEL_ACCOUNT)?))
    }

    /// Notes which generation the next submission belongs to.
    #[inline]
    pub(crate) fn set_generation(&mut self, generation: u32) {
        self.body.generation = generation;
    }

    /// Lets go of memory that was pinned ahead. May sleep.
    pub(crate) fn release_lease(&mut self) {
        self.body.data.release_lease();
    }

    /// Begins an I/O that moves data from or to `sector` on, in units of 512 bytes. `priority` is
    /// one of <linux/ioprio.h>.
    #[inline]
    pub(crate) fn begin(mut self, op: DataOp, priority: u16, sector: u64) -> IoBuilder<C> {
        self.body.data.begin(op == DataOp::Read);
        self.set(op.flags(), priority, sector);
        IoBuilder { body: self.body }
    }

    #[inline]
    fn set(&mut self, op: u32, priority: u16, sector: u64) {
        self.body.op = op;
        self.body.priority = priority;
        self.body.sector = sector;
    }

    /// Submits a flush: makes all writes that were completed durable.
    pub(crate) fn flush(mut self, priority: u16, completer: Arc<C>, owner: C::Owner) {
        self.set(helpers::VBLK_OP_FLUSH, priority, 0);
        // SAFETY: A flush moves no data.
        unsafe { submit(self.body, Table::NONE, 0, completer, owner) };
    }

    /// Submits an I/O that moves data from or to `buffer`, all of it, in memory of our own. The buffer
    /// comes back with the I/O.
    pub(crate) fn copied(
        mut self,
        op: DataOp,
        priority: u16,
        sector: u64,
        buffer: KVec<u8>,
        completer: Arc<C>,
        owner: C::Owner,
    ) {
        self.set(op.flags(), priority, sector);
        let bytes = buffer.len() as u32;
        self.body.buffer = buffer;
        let body = &mut *self.body;
        let table = body.data.contiguous(&mut body.buffer);
        // SAFETY: The vector names the bytes of the buffer, which stays in the body until the I/O is
        // completed, and no other code refers to it.
        unsafe { submit(self.body, table, bytes, completer, owner) };
    }

    /// Submits an operation on `bytes` bytes from `sector` on.
    pub(crate) fn sectors(
        mut self,
        op: SectorOp,
        priority: u16,
        sector: u64,
        bytes: u32,
        completer: Arc<C>,
        owner: C::Owner,
    ) {
        self.set(op.flags(), priority, sector);
        // SAFETY: None of these operations moves data.
        unsafe { submit(self.body, Table::NONE, bytes, completer, owner) };
    }

    /// Submits a write of zeroes from `sector` on: `bytes` bytes, or as many as there is room for,
    /// a whole number of pages then. Returns how many.
    pub(crate) fn zeroes(
        mut self,
        op: DataOp,
        priority: u16,
        sector: u64,
        bytes: u32,
        completer: Arc<C>,
        owner: C::Owner,
    ) -> u32 {
        self.set(op.flags(), priority, sector);
        let (table, bytes) = self.body.data.zeroes(bytes);
        // SAFETY: The vectors name the page of zeroes, which always is, and a write only reads it.
        unsafe { submit(self.body, table, bytes, completer, owner) };
        bytes
    }
}

/// Gives an I/O to its device.
///
/// # Safety
///
/// `table` belongs to `body`. Its vectors name memory of `bytes` bytes in all that stays until the
/// body is released, and that the device may write if `body.op` reads from it. An operation that
/// moves no data has none.
#[inline(always)]
unsafe fn submit<C: Completer>(
    mut body: KBox<Body<C>>,
    table: Table,
    bytes: u32,
    completer: Arc<C>,
    owner: C::Owner,
) {
    body.completer = Some(completer);
    body.owner = Some(owner);
    let body = KBox::into_raw(body);
    // SAFETY: `body` was a box just now. The device is open as long as its file, which the body
    // refers to, and the body stays until `end_io` takes it back: no other code refers to it.
    // The rest is what the caller promised.
    unsafe {
        let bio = (*body).bio.get();
        let device = (*body).device.as_ptr();
        bindings::bio_init(bio, device, table.start, table.filled, (*body).op);
        (*bio).bi_vcnt = table.filled;
        (*bio).bi_ioprio = (*body).priority;
        (*bio).bi_iter.bi_sector = (*body).sector;
        (*bio).bi_iter.bi_size = bytes;
        (*bio).bi_end_io = Some(end_io::<C>);
        (*bio).bi_private = body.cast();
        bindings::submit_bio(bio);
    }
}

/// Takes an I/O back from the block layer.
///
/// # Safety
///
/// Called by the block layer, once, for the bio of a body that [`submit`] submitted.
unsafe extern "C" fn end_io<C: Completer>(bio: *mut bindings::bio) {
    // A task that waits for a grace period after the last I/O knows that no completion runs.
    let _reading = rcu::read_lock();
    // SAFETY: The bio is alive, and `submit` set its private data. The block layer is done with
    // it: the body is ours again, from `into_raw`.
    let mut body = unsafe {
        let body = (*bio).bi_private.cast::<Body<C>>();
        (*body).status = (*bio).bi_status;
        bindings::bio_uninit(bio);
        KBox::from_raw(body)
    };
    if let Some(completer) = body.completer.take() {
        completer.complete(Io::new(body));
    }
}

/// An I/O that memory is being added to.
pub(crate) struct IoBuilder<C: Completer> {
    body: KBox<Body<C>>,
}

impl<C: Completer> IoBuilder<C> {
    /// Returns its memory.
    #[inline]
    pub(crate) fn data(&mut self) -> &mut IoVectors {
        &mut self.body.data
    }

    /// Returns the bytes added so far.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.body.data.bytes()
    }

    /// Gives the I/O to the device. [`Completer::complete`] gets it back, possibly before this
    /// returns.
    #[inline(always)]
    pub(crate) fn submit(mut self, completer: Arc<C>, owner: C::Owner) {
        let bytes = self.body.data.bytes();
        let table = self.body.data.table();
        // SAFETY: The table lies in the body and names memory that belongs to it until it is
        // released, `bytes` bytes, writable if data is read from the device, by its invariants.
        unsafe { submit(self.body, table, bytes, completer, owner) };
    }

    /// Gives up, and releases the memory. May sleep.
    pub(crate) fn abandon(self) -> Io<Free, C> {
        Io::<Completed, C>::new(self.body).into_free()
    }
}

/// An answer of a device other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceFailure {
    /// It can't do this.
    NotSupported,
    /// Anything else.
    Failed,
}

impl<C: Completer> Io<Completed, C> {
    /// Returns the answer of the device.
    ///
    /// # Errors
    ///
    /// See [`DeviceFailure`].
    #[inline]
    pub(crate) fn result(&self) -> Result<(), DeviceFailure> {
        if self.body.status == 0 {
            Ok(())
        } else {
            Err(self.failure())
        }
    }

    #[cold]
    fn failure(&self) -> DeviceFailure {
        // A device that finds out only now that it can't write zeroes by itself says so by its
        // limit, and fails with whatever error it has.
        let learnt = self.body.op == helpers::VBLK_OP_ZERO && !self.body.device.writes_zeroes();
        match u32::from(self.body.status) {
            helpers::VBLK_STATUS_NOT_SUPPORTED => DeviceFailure::NotSupported,
            _ if learnt => DeviceFailure::NotSupported,
            _ => DeviceFailure::Failed,
        }
    }

    /// Returns the generation that it was submitted in.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.body.generation
    }

    /// Returns its owner; there unless taken.
    #[inline]
    pub(crate) fn owner(&mut self) -> &mut Option<C::Owner> {
        &mut self.body.owner
    }

    /// Takes the buffer of [`Io::copied`]; empty unless it was begun so.
    pub(crate) fn take_buffer(&mut self) -> KVec<u8> {
        core::mem::take(&mut self.body.buffer)
    }

    /// Gives up the pins that can be given up in any context. Returns whether that was all of them;
    /// if not, a thread must take care of it by [`Self::into_free`].
    #[inline(always)]
    pub(crate) fn try_release(&mut self) -> bool {
        self.body.data.try_release()
    }

    /// Gives up what is left. May sleep.
    #[inline]
    pub(crate) fn into_free(mut self) -> Io<Free, C> {
        if self.body.buffer.capacity() > 0 {
            self.body.buffer = KVec::new();
        }
        self.body.owner = None;
        self.body.data.release();
        Io::new(self.body)
    }
}

/// A list of I/Os, last in, first out. Needs no memory of its own: it takes any number.
pub(crate) struct IoList<S, C: Completer> {
    first: Option<KBox<Body<C>>>,
    stage: PhantomData<S>,
}

impl<S, C: Completer> IoList<S, C> {
    /// Creates an empty list.
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            stage: PhantomData,
        }
    }

    /// Returns whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds an I/O.
    #[inline]
    pub(crate) fn push(&mut self, mut io: Io<S, C>) {
        io.body.next = self.first.take();
        self.first = Some(io.body);
    }

    /// Takes the I/O that was added last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Io<S, C>> {
        let mut body = self.first.take()?;
        self.first = body.next.take();
        Some(Io::new(body))
    }

    /// Takes all.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}

impl<S, C: Completer> Drop for IoList<S, C> {
    /// One by one: each would drop the next one on top of itself otherwise. May sleep.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The memory for the I/Os of a queue: allocated when the queue starts, then used again and again,
//! last in, first out, so that few of them go through the CPU's caches.

use super::used_side::{
    CompletedIos,
    UsedSide, //
};
use crate::sys::{
    block_file::BlockFile,
    io::{
        Free,
        Io,
        IoList, //
    },
    io_vectors::SMALL_VECTORS, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use vblk_core::queue::QueueSize;

/// Most ordinary I/Os of a queue at a time. A longer ring waits: its requests are no slower for it.
const MAX_SMALL: usize = 1024;

/// Most large I/Os of a queue at a time, each of up to 1 MiB; allocated when first needed. Bounds
/// how much guest memory is pinned.
const MAX_LARGE: usize = 32;

/// Bytes that an ordinary I/O takes wherever in its first page they begin.
pub(super) const SMALL_BYTES: u32 = ((SMALL_VECTORS - 1) * PAGE_SIZE) as u32;

/// The I/Os of a queue that are not in flight.
pub(super) struct IoPool {
    used: Arc<UsedSide>,
    disk: Arc<BlockFile>,
    small: IoList<Free, UsedSide>,
    large: IoList<Free, UsedSide>,
    large_allocated: usize,
    /// I/Os submitted since the start.
    submitted: u64,
    generation: u32,
}

impl IoPool {
    /// Allocates the ordinary I/Os of a queue of that size.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn new(size: QueueSize, used: Arc<UsedSide>, disk: Arc<BlockFile>) -> Result<Self> {
        let mut small = IoList::new();
        for _ in 0..usize::from(size.get()).min(MAX_SMALL) {
            small.push(Io::allocate(disk.clone(), false)?);
        }
        Ok(Self {
            used,
            disk,
            small,
            large: IoList::new(),
            large_allocated: 0,
            submitted: 0,
            generation: 0,
        })
    }

    /// Returns the used half, for an I/O that is about to be submitted.
    #[inline]
    pub(super) fn submitting(&mut self) -> Arc<UsedSide> {
        self.submitted += 1;
        self.used.clone()
    }

    /// Returns the I/Os submitted since the start.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Returns whether there is an ordinary one.
    #[inline]
    pub(super) fn has_small(&self) -> bool {
        !self.small.is_empty()
    }

    /// Takes an I/O: a `large` one if there is one or memory for one, else an ordinary one. Allocates,
    /// and so may sleep. `None` when there will be one as soon as an I/O in flight has completed.
    #[inline]
    pub(super) fn take(&mut self, large: bool) -> Option<Io<Free, UsedSide>> {
        let large = if large { self.take_large() } else { None };
        let mut io = match large {
            Some(io) => io,
            None => self.small.pop()?,
        };
        io.set_generation(self.generation);
        Some(io)
    }

    #[cold]
    fn take_large(&mut self) -> Option<Io<Free, UsedSide>> {
        if let Some(io) = self.large.pop() {
            return Some(io);
        }
        if self.large_allocated == MAX_LARGE {
            return None;
        }
        let io = Io::allocate(self.disk.clone(), true).ok()?;
        self.large_allocated += 1;
        Some(io)
    }

    /// Puts a free one back.
    #[inline]
    pub(super) fn put(&mut self, io: Io<Free, UsedSide>) {
        if io.is_large() {
            self.large.push(io);
        } else {
            self.small.push(io);
        }
    }

    /// Puts completed ones back, and gives up their pins that only a thread can. May sleep.
    #[inline]
    pub(super) fn put_completed(&mut self, mut completed: CompletedIos) {
        while let Some(io) = completed.pop() {
            self.put(io.into_free());
        }
    }

    /// Begins a generation of I/Os.
    pub(super) fn begin_generation(&mut self) {
        self.generation = self.used.begin_generation(self.submitted);
    }

    /// Lets go of the memory of earlier generations. May sleep.
    pub(super) fn release_leases(&mut self) {
        for list in [&mut self.small, &mut self.large] {
            let mut kept = IoList::new();
            while let Some(mut io) = list.pop() {
                io.release_lease();
                kept.push(io);
            }
            *list = kept;
        }
    }
}

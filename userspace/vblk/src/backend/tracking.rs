// SPDX-License-Identifier: GPL-2.0

//! Memory in which a back-end notes what it has in flight, so that the one after it can go on when
//! it is killed. The vhost-user protocol calls this inflight I/O tracking.
//!
//! The memory is shared with the front-end, which keeps it and hands it to the next back-end.
//! Nothing that is read from it is trusted.

use std::sync::{atomic::Ordering, Arc};
use vblk_core::{queue::QueueSize, ring::Format};
use vm_memory::{AtomicAccess, Bytes, MmapRegion, VolatileMemory};

/// Returns the bytes before the notes of the descriptors, and of the notes of each: sizes of
/// `QueueRegionSplit` and `DescStateSplit` of the protocol, or of their like for packed rings.
const fn layout(format: Format) -> (usize, usize) {
    match format {
        Format::Split => (16, 16),
        Format::Packed => (32, 32),
    }
}

/// The notes of each queue begin at a multiple of this.
const ALIGN: usize = 64;

/// Returns the bytes of the notes of a queue.
pub fn queue_bytes(format: Format, size: QueueSize) -> usize {
    let (head, each) = layout(format);
    (head + each * usize::from(size.get())).next_multiple_of(ALIGN)
}

/// The memory for the notes of one queue.
#[derive(Clone, Debug)]
pub struct TrackingMemory {
    region: Arc<MmapRegion>,
    start: usize,
    bytes: usize,
    format: Format,
    entries: u16,
}

impl TrackingMemory {
    /// Returns the memory for the queue with this index, where all have room for queues of `size`.
    /// `None` when the region is too short.
    pub fn of_queue(
        region: &Arc<MmapRegion>,
        format: Format,
        size: QueueSize,
        index: u16,
    ) -> Option<Self> {
        let bytes = queue_bytes(format, size);
        let start = bytes.checked_mul(index.into())?;
        (start.checked_add(bytes)? <= region.size()).then(|| Self {
            region: region.clone(),
            start,
            bytes,
            format,
            entries: size.get(),
        })
    }

    /// Returns the size of the longest queue that there is room for.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Loads a number; 0 from outside the notes.
    pub fn load<T: AtomicAccess + Default>(&self, at: usize) -> T {
        let slice = self.region.get_slice(self.start, self.bytes);
        slice
            .and_then(|slice| slice.load(at, Ordering::Relaxed))
            .unwrap_or_default()
    }

    /// Stores a number, after all that this thread has stored before. Outside the notes it does
    /// nothing.
    pub fn store<T: AtomicAccess>(&self, at: usize, value: T) {
        if let Ok(slice) = self.region.get_slice(self.start, self.bytes) {
            let _ = slice.store(value, at, Ordering::Release);
            #[cfg(test)]
            killed::may_be();
        }
    }

    /// Loads a field of the notes of a descriptor, as [`Self::load`].
    pub fn load_field<T: AtomicAccess + Default>(&self, entry: u16, field: usize) -> T {
        self.load(self.at(entry, field))
    }

    /// Stores a field of the notes of a descriptor, as [`Self::store`].
    pub fn store_field<T: AtomicAccess>(&self, entry: u16, field: usize, value: T) {
        self.store(self.at(entry, field), value);
    }

    fn at(&self, entry: u16, field: usize) -> usize {
        let (head, each) = layout(self.format);
        head + usize::from(entry) * each + field
    }
}

/// A process of a test that is killed after some store.
#[cfg(test)]
pub mod killed {
    use std::{cell::Cell, panic::resume_unwind};

    thread_local! {
        /// Stores that are left to it.
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Calls `live`, with so many stores left.
    pub fn after<R>(stores: u64, live: impl FnOnce() -> R) -> R {
        LEFT.set(Some(stores));
        let result = live();
        LEFT.set(None);
        result
    }

    /// Ends it when none is left, without a word on the panic.
    pub fn may_be() {
        match LEFT.get() {
            Some(0) => resume_unwind(Box::new("killed")),
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Walks a descriptor chain into a list of buffers.
//!
//! Each descriptor is read once, and what was read is what is used: the guest may change them at
//! any time. The walk ends after at most as many descriptors as the queue is long, or as
//! [`chain::MAX_INDIRECT`] in an indirect table, which also ends every loop.

use crate::{
    addr::GuestAddr,
    chain::{
        self,
        Chain,
        ChainError,
        Segment,
        StoredChain, //
    },
    memory::{
        Fault,
        ReadGuest,
        SharedMemory, //
    },
    packed::{
        self,
        PackedRing, //
    },
    queue::{
        Head,
        QueueSize, //
    },
    split::{
        self,
        SplitRing, //
    },
};

impl From<split::Descriptor> for Segment {
    #[inline]
    fn from(desc: split::Descriptor) -> Self {
        Self {
            addr: GuestAddr(desc.addr),
            len: desc.len,
            writable: desc.flags & split::Descriptor::F_WRITE != 0,
        }
    }
}

impl From<packed::Descriptor> for Segment {
    #[inline]
    fn from(desc: packed::Descriptor) -> Self {
        Self {
            addr: GuestAddr(desc.addr),
            len: desc.len,
            writable: desc.flags & packed::Descriptor::F_WRITE != 0,
        }
    }
}

/// Collects segments within the bounds of one chain.
struct Walk<'s> {
    segments: &'s mut [Segment],
    filled: usize,
    bytes: u32,
    /// Number of segments, and of bytes, before the first writable one.
    readable: usize,
    readable_bytes: u32,
    ordered: bool,
    /// Descriptors that may still be read: the bound of every loop here.
    budget: u16,
    size: QueueSize,
}

impl<'s> Walk<'s> {
    #[inline]
    fn new(segments: &'s mut [Segment], size: QueueSize) -> Self {
        Self {
            segments,
            filled: 0,
            bytes: 0,
            readable: 0,
            readable_bytes: 0,
            ordered: true,
            budget: size.get(),
            size,
        }
    }

    /// Counts one descriptor.
    #[inline]
    fn spend(&mut self) -> Result<(), ChainError> {
        self.budget = self.budget.checked_sub(1).ok_or(ChainError::TooLong)?;
        Ok(())
    }

    /// Goes on in an indirect table, where a chain may be longer than in the ring.
    fn enter_table(&mut self) {
        let more = chain::max_buffers(self.size) - self.size.get();
        // The descriptor that refers to the table holds no buffer.
        self.budget = self.budget.saturating_add(more).saturating_add(1);
    }

    #[inline]
    fn take(&mut self, segment: Segment) -> Result<(), ChainError> {
        if segment.len == 0 {
            return Ok(());
        }
        // The length in a used entry has 32 bits.
        self.bytes = self
            .bytes
            .checked_add(segment.len)
            .ok_or(ChainError::TooManyBytes)?;
        if !segment.writable {
            if self.readable == self.filled {
                self.readable += 1;
                self.readable_bytes = self.bytes;
            } else {
                self.ordered = false;
            }
        }
        let slot = self
            .segments
            .get_mut(self.filled)
            .ok_or(ChainError::TooLong)?;
        *slot = segment;
        self.filled += 1;
        Ok(())
    }

    #[inline]
    fn finish(self) -> Chain<'s> {
        let stored = StoredChain::new(self.readable, self.filled);
        Chain::new(
            stored,
            self.segments,
            self.readable_bytes,
            self.bytes,
            self.ordered,
        )
    }
}

/// Bytes of a descriptor, in either format.
const DESC_BYTES: usize = 16;

/// Entries of an indirect table that are read at once.
const WINDOW: usize = 8;

/// An indirect table, read a few entries at a time.
struct IndirectTable<'a, G> {
    memory: &'a G,
    start: GuestAddr,
    entries: u32,
    window: [[u8; DESC_BYTES]; WINDOW],
    /// First of the entries that `window` holds.
    first: u32,
    /// Number of entries that `window` holds.
    filled: u32,
}

impl<'a, G: ReadGuest> IndirectTable<'a, G> {
    /// Opens the table that a descriptor refers to. `alone` says that no descriptor accompanies it
    /// that may not; `None` that indirect ones were not negotiated.
    fn open(memory: &'a G, alone: Option<bool>, addr: u64, len: u32) -> Result<Self, ChainError> {
        match alone {
            None => return Err(ChainError::IndirectNotNegotiated),
            Some(false) => return Err(ChainError::IndirectWithNext),
            Some(true) => (),
        }
        if len == 0 || len % DESC_BYTES as u32 != 0 {
            return Err(ChainError::IndirectSize);
        }
        Ok(Self {
            memory,
            start: GuestAddr(addr),
            entries: len / DESC_BYTES as u32,
            window: [[0; DESC_BYTES]; WINDOW],
            first: 0,
            filled: 0,
        })
    }

    fn get(&mut self, index: u32) -> Result<&[u8; DESC_BYTES], ChainError> {
        if index >= self.entries {
            return Err(ChainError::NextOutOfRange);
        }
        if index.wrapping_sub(self.first) >= self.filled {
            self.refill(index)?;
        }
        // In range also where a processor runs ahead of the comparisons: the guest chose `index`.
        let slot = index.wrapping_sub(self.first) as usize % WINDOW;
        self.window.get(slot).ok_or(ChainError::NextOutOfRange)
    }

    fn refill(&mut self, index: u32) -> Result<(), ChainError> {
        let count = (self.entries - index).min(WINDOW as u32);
        let offset = u64::from(index) * DESC_BYTES as u64;
        let from = self
            .start
            .checked_add(offset)
            .ok_or(ChainError::IndirectOutsideTable)?;
        let to = self
            .window
            .get_mut(..count as usize)
            .ok_or(ChainError::IndirectOutsideTable)?
            .as_flattened_mut();
        self.memory.read(from, to).map_err(|fault| match fault {
            Fault::OutsideTable => ChainError::IndirectOutsideTable,
            Fault::Inaccessible => ChainError::IndirectInaccessible,
        })?;
        self.first = index;
        self.filled = count;
        Ok(())
    }
}

// What is found so far is handed on by value, so that it stays in registers: these are the hottest
// loops.

impl<M: SharedMemory> SplitRing<M> {
    /// Reads the chain at `head`, see [`crate::ring::Ring::walk`].
    ///
    /// # Errors
    ///
    /// See [`ChainError`].
    #[inline(always)]
    pub fn walk<'s>(
        &self,
        head: Head,
        indirect: bool,
        memory: &impl ReadGuest,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError> {
        use split::Descriptor;
        let mut walk = Walk::new(segments, self.size());
        let mut index = head.index();
        loop {
            walk.spend()?;
            let desc = self.descriptor(index).ok_or(ChainError::NextOutOfRange)?;
            let last = desc.flags & Descriptor::F_NEXT == 0;
            if desc.flags & Descriptor::F_INDIRECT != 0 {
                let alone = indirect.then_some(last);
                return walk_split_table(walk, memory, alone, desc.addr, desc.len);
            }
            walk.take(desc.into())?;
            if last {
                return Ok(walk.finish());
            }
            index = desc.next;
        }
    }
}

impl<M: SharedMemory> PackedRing<M> {
    /// Reads the chain at `head`, see [`crate::ring::Ring::walk`]. The chain's end was found when
    /// it was taken, and its NEXT flags are not looked at again.
    ///
    /// # Errors
    ///
    /// See [`ChainError`].
    #[inline(never)]
    pub fn walk<'s>(
        &self,
        head: Head,
        indirect: bool,
        memory: &impl ReadGuest,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError> {
        use packed::Descriptor;
        let mut walk = Walk::new(segments, self.size());
        for ahead in 0..head.count() {
            walk.spend()?;
            let desc = self.descriptor(head.index().wrapping_add(ahead));
            if desc.flags & Descriptor::F_INDIRECT != 0 {
                // Unlike in a split ring, it must be the only one (virtio 1.2, 2.8.19).
                let alone = indirect.then_some(head.count() == 1);
                return walk_packed_table(walk, memory, alone, desc.addr, desc.len);
            }
            walk.take(desc.into())?;
        }
        Ok(walk.finish())
    }
}

/// Opens the table that a descriptor refers to, and follows its entries by their `next`.
#[inline(never)]
fn walk_split_table<'s>(
    mut walk: Walk<'s>,
    memory: &impl ReadGuest,
    alone: Option<bool>,
    addr: u64,
    len: u32,
) -> Result<Chain<'s>, ChainError> {
    use split::Descriptor;
    let mut entries = IndirectTable::open(memory, alone, addr, len)?;
    walk.enter_table();
    let mut index = 0;
    loop {
        walk.spend()?;
        let desc = Descriptor::from_bytes(entries.get(u32::from(index))?);
        if desc.flags & Descriptor::F_INDIRECT != 0 {
            return Err(ChainError::NestedIndirect);
        }
        walk.take(desc.into())?;
        if desc.flags & Descriptor::F_NEXT == 0 {
            return Ok(walk.finish());
        }
        index = desc.next;
    }
}

/// Opens the table that a descriptor refers to, and takes all of it, in order: of the flags only
/// WRITE counts (virtio 1.2, 2.8.7).
#[inline(never)]
fn walk_packed_table<'s>(
    mut walk: Walk<'s>,
    memory: &impl ReadGuest,
    alone: Option<bool>,
    addr: u64,
    len: u32,
) -> Result<Chain<'s>, ChainError> {
    use packed::Descriptor;
    let mut entries = IndirectTable::open(memory, alone, addr, len)?;
    walk.enter_table();
    for index in 0..entries.entries {
        walk.spend()?;
        walk.take(Descriptor::from_bytes(entries.get(index)?).into())?;
    }
    Ok(walk.finish())
}

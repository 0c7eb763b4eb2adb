// SPDX-License-Identifier: GPL-2.0

//! Walking a descriptor chain into a list of buffers.
//!
//! Each descriptor is read once, and what was read is what is used: the guest may change them at
//! any time. The walk ends after at most as many descriptors as the queue is long
//! (virtio 1.2, 2.7.5.3.1: "A driver MUST NOT create a descriptor chain longer than the Queue Size
//! of the device"), which also ends every loop.

use crate::{
    addr::GuestAddr,
    memory::{
        CopyIn,
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
    ring::Ring,
    split::{
        self,
        SplitRing, //
    },
    table::{
        MemoryTable,
        Region, //
    },
};
use core::ops::DerefMut;

/// A buffer of a chain. Its address is not checked against the memory table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: GuestAddr,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device may write to it, and only that; otherwise it may only read it.
    pub writable: bool,
}

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

/// Why a chain can't be walked to its end, so that its buffers are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainError {
    /// More descriptors than the queue has entries: a loop, or too long a chain.
    TooLong,
    /// `next` points outside its table. Only in split rings.
    NextOutOfRange,
    /// An indirect descriptor although the feature was not negotiated.
    IndirectNotNegotiated,
    /// An indirect descriptor with a successor (virtio 1.2, 2.7.5.3.1), or in a packed ring with
    /// any other (2.8.19).
    IndirectWithNext,
    /// An indirect descriptor inside an indirect table (virtio 1.2, 2.7.5.3.1). Only in split
    /// rings: tables of packed ones have no such flag (2.8.7).
    NestedIndirect,
    /// An indirect table of no entries, or of a part of one.
    IndirectSize,
    /// An indirect table outside the memory table.
    IndirectFault,
    /// Buffers of 2^32 bytes or more in all (virtio 1.2, 2.7.5.2 forbids more than 2^32).
    TooManyBytes,
}

/// The buffers of a chain, in order. Empty ones are left out.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    readable: &'a [Segment],
    writable: &'a [Segment],
    readable_bytes: u32,
    writable_bytes: u32,
    /// Whether all readable ones come before all writable ones (virtio 1.2, 2.7.4.2).
    ordered: bool,
}

impl<'a> Chain<'a> {
    /// The buffers that the device reads, if the chain is ordered.
    #[inline]
    pub fn readable(&self) -> &'a [Segment] {
        self.readable
    }

    /// The buffers that the device writes, if the chain is ordered.
    #[inline]
    pub fn writable(&self) -> &'a [Segment] {
        self.writable
    }

    /// Bytes in the readable buffers, if the chain is ordered.
    #[inline]
    pub fn readable_bytes(&self) -> u32 {
        self.readable_bytes
    }

    /// Bytes in the writable buffers, if the chain is ordered.
    #[inline]
    pub fn writable_bytes(&self) -> u32 {
        self.writable_bytes
    }

    /// Whether all readable buffers come before all writable ones, as they must.
    #[inline]
    pub fn ordered(&self) -> bool {
        self.ordered
    }

    /// The length for the used entry when nothing but the last byte was written: 1 if there is no
    /// gap before it, else 0 (see [`crate::request::Request::used_len`]).
    pub fn status_len(&self) -> u32 {
        u32::from(self.ordered && self.writable_bytes == 1)
    }

    /// The chain's last byte, when the device may write it.
    #[inline]
    pub fn last_writable_byte(&self) -> Option<GuestAddr> {
        let last = self.writable.last().filter(|last| last.writable)?;
        last.addr.checked_add(u64::from(last.len.checked_sub(1)?))
    }
}

/// Collects segments within the bounds of one chain.
struct Walk<'s> {
    segments: &'s mut [Segment],
    filled: usize,
    bytes: u32,
    /// How many segments, and how many bytes, come before the first writable one.
    before_writable: Option<(usize, u32)>,
    ordered: bool,
    /// Descriptors that may still be read: the bound of every loop here.
    budget: u16,
}

impl<'s> Walk<'s> {
    #[inline]
    fn new(segments: &'s mut [Segment], size: QueueSize) -> Self {
        Self {
            segments,
            filled: 0,
            bytes: 0,
            before_writable: None,
            ordered: true,
            budget: size.get(),
        }
    }

    #[inline]
    fn spend(&mut self) -> Result<(), ChainError> {
        self.budget = self.budget.checked_sub(1).ok_or(ChainError::TooLong)?;
        Ok(())
    }

    #[inline]
    fn take(&mut self, segment: Segment) -> Result<(), ChainError> {
        if segment.len == 0 {
            return Ok(());
        }
        match self.before_writable {
            None if segment.writable => self.before_writable = Some((self.filled, self.bytes)),
            Some(_) if !segment.writable => self.ordered = false,
            _ => (),
        }
        // The length in a used entry has 32 bits.
        self.bytes = self
            .bytes
            .checked_add(segment.len)
            .ok_or(ChainError::TooManyBytes)?;
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
        let (first_writable, readable_bytes) =
            self.before_writable.unwrap_or((self.filled, self.bytes));
        let segments: &'s [Segment] = self.segments;
        let (readable, writable) = segments
            .get(..self.filled)
            .and_then(|segments| segments.split_at_checked(first_writable))
            .unwrap_or((&[], &[]));
        Chain {
            readable,
            writable,
            readable_bytes,
            writable_bytes: self.bytes.saturating_sub(readable_bytes),
            ordered: self.ordered,
        }
    }
}

/// Bytes of a descriptor, in either format.
const DESC_BYTES: usize = 16;

/// Entries of an indirect table that are read at once.
const WINDOW: usize = 8;

/// An indirect table, read a few entries at a time.
struct IndirectTable<'a, R, C> {
    table: &'a MemoryTable<R>,
    memory: &'a C,
    start: GuestAddr,
    entries: u32,
    window: [[u8; DESC_BYTES]; WINDOW],
    /// The entries that `window` holds: this one and `filled - 1` more.
    first: u32,
    filled: u32,
}

impl<'a, R: DerefMut<Target = [Region]>, C: CopyIn> IndirectTable<'a, R, C> {
    /// The table that a descriptor refers to. `alone` says that no descriptor
    /// accompanies it that may not; `None` that indirect ones were not negotiated.
    fn open(
        table: &'a MemoryTable<R>,
        memory: &'a C,
        alone: Option<bool>,
        addr: u64,
        len: u32,
    ) -> Result<Self, ChainError> {
        match alone {
            None => return Err(ChainError::IndirectNotNegotiated),
            Some(false) => return Err(ChainError::IndirectWithNext),
            Some(true) => (),
        }
        if len == 0 || len % DESC_BYTES as u32 != 0 {
            return Err(ChainError::IndirectSize);
        }
        Ok(Self {
            table,
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
        let slot = index.wrapping_sub(self.first) as usize;
        self.window.get(slot).ok_or(ChainError::NextOutOfRange)
    }

    fn refill(&mut self, index: u32) -> Result<(), ChainError> {
        let count = (self.entries - index).min(WINDOW as u32);
        let offset = u64::from(index) * DESC_BYTES as u64;
        let from = self
            .start
            .checked_add(offset)
            .ok_or(ChainError::IndirectFault)?;
        let to = self
            .window
            .get_mut(..count as usize)
            .ok_or(ChainError::IndirectFault)?
            .as_flattened_mut();
        self.table
            .read(self.memory, from, to)
            .map_err(|_| ChainError::IndirectFault)?;
        self.first = index;
        self.filled = count;
        Ok(())
    }
}

/// A ring whose chains can be walked.
pub trait Chains {
    /// Reads the chain at `head` into `segments`, which must have room for as many entries as the
    /// queue has.
    ///
    /// `indirect` says whether VIRTIO_F_INDIRECT_DESC was negotiated; indirect tables are found
    /// through `table` and read through `memory`.
    ///
    /// # Errors
    ///
    /// See [`ChainError`]. The buffers found until then mean nothing.
    fn walk<'s, R, C>(
        &self,
        head: Head,
        indirect: bool,
        table: &MemoryTable<R>,
        memory: &C,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError>
    where
        R: DerefMut<Target = [Region]>,
        C: CopyIn;
}

impl<M: SharedMemory> Chains for Ring<M> {
    fn walk<'s, R, C>(
        &self,
        head: Head,
        indirect: bool,
        table: &MemoryTable<R>,
        memory: &C,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError>
    where
        R: DerefMut<Target = [Region]>,
        C: CopyIn,
    {
        match self {
            Self::Split(ring) => ring.walk(head, indirect, table, memory, segments),
            Self::Packed(ring) => ring.walk(head, indirect, table, memory, segments),
        }
    }
}

// What is found so far is handed on by value, so that it stays in registers: these are the hottest
// loops.

impl<M: SharedMemory> Chains for SplitRing<M> {
    // One copy, out of line: more registers for it, and for its caller.
    #[inline(never)]
    fn walk<'s, R, C>(
        &self,
        head: Head,
        indirect: bool,
        table: &MemoryTable<R>,
        memory: &C,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError>
    where
        R: DerefMut<Target = [Region]>,
        C: CopyIn,
    {
        use split::Descriptor;
        let mut walk = Walk::new(segments, self.size());
        let mut index = head.index();
        loop {
            walk.spend()?;
            let desc = self.descriptor(index).ok_or(ChainError::NextOutOfRange)?;
            let last = desc.flags & Descriptor::F_NEXT == 0;
            if desc.flags & Descriptor::F_INDIRECT != 0 {
                let alone = indirect.then_some(last);
                let entries = IndirectTable::open(table, memory, alone, desc.addr, desc.len)?;
                return walk_split_table(walk, entries);
            }
            walk.take(desc.into())?;
            if last {
                return Ok(walk.finish());
            }
            index = desc.next;
        }
    }
}

impl<M: SharedMemory> Chains for PackedRing<M> {
    /// Where the chain ends was found out when it was taken: that is not asked again.
    #[inline(never)]
    fn walk<'s, R, C>(
        &self,
        head: Head,
        indirect: bool,
        table: &MemoryTable<R>,
        memory: &C,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError>
    where
        R: DerefMut<Target = [Region]>,
        C: CopyIn,
    {
        use packed::Descriptor;
        let mut walk = Walk::new(segments, self.size());
        for ahead in 0..head.count() {
            walk.spend()?;
            let desc = self.descriptor(head.index().wrapping_add(ahead));
            if desc.flags & Descriptor::F_INDIRECT != 0 {
                // Unlike in a split ring, it must be the only one (virtio 1.2, 2.8.19).
                let alone = indirect.then_some(head.count() == 1);
                let entries = IndirectTable::open(table, memory, alone, desc.addr, desc.len)?;
                return walk_packed_table(walk, entries);
            }
            walk.take(desc.into())?;
        }
        Ok(walk.finish())
    }
}

#[inline(never)]
fn walk_split_table<'s, R, C>(
    mut walk: Walk<'s>,
    mut entries: IndirectTable<'_, R, C>,
) -> Result<Chain<'s>, ChainError>
where
    R: DerefMut<Target = [Region]>,
    C: CopyIn,
{
    use split::Descriptor;
    // The descriptor that refers to the table holds no buffer: a table as long as the queue is fine.
    walk.budget = walk.budget.saturating_add(1);
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

/// All of the table, in order: of the flags only WRITE counts (virtio 1.2, 2.8.7).
fn walk_packed_table<'s, R, C>(
    mut walk: Walk<'s>,
    mut entries: IndirectTable<'_, R, C>,
) -> Result<Chain<'s>, ChainError>
where
    R: DerefMut<Target = [Region]>,
    C: CopyIn,
{
    use packed::Descriptor;
    walk.budget = walk.budget.saturating_add(1);
    for index in 0..entries.entries {
        walk.spend()?;
        walk.take(Descriptor::from_bytes(entries.get(index)?).into())?;
    }
    Ok(walk.finish())
}

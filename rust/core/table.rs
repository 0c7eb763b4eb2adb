// SPDX-License-Identifier: GPL-2.0

//! The memory table: maps guest-physical memory to the address space of the process that owns the
//! device, the owner.
//!
//! ```
//! use vblk_core::{
//!     addr::{GuestAddr, HostAddr},
//!     memory::Fault,
//!     table::{HostSpan, MemoryTable, Region, TableError},
//! };
//!
//! let low = Region::new(GuestAddr(0), 0x1000, HostAddr(0x7000_0000)).unwrap();
//! let high = Region::new(GuestAddr(0x1000), 0x1000, HostAddr(0x9000_0000)).unwrap();
//! let table = MemoryTable::new(vec![high, low]).unwrap();
//! assert_eq!(table.host(GuestAddr(0x10)), Ok(HostAddr(0x7000_0010)));
//! assert_eq!(table.host(GuestAddr(0x2000)), Err(Fault::OutsideTable));
//! // What crosses the seam is two pieces.
//! let spans: Result<Vec<_>, _> = table.spans(GuestAddr(0xf00), 0x200).collect();
//! assert_eq!(spans.unwrap()[1], HostSpan { addr: HostAddr(0x9000_0000), len: 0x100 });
//!
//! assert_eq!(MemoryTable::new(vec![low, low]).err(), Some(TableError::Overlap));
//! ```

use crate::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        CopyIn,
        Fault,
        ReadGuest, //
    },
};
use core::ops::{
    Deref,
    DerefMut, //
};

/// Most regions of the table that VHOST_SET_MEM_TABLE takes, like `max_mem_regions` of the C vhost
/// by default.
///
/// [`MemoryTable`] itself has no limit: a table of the extents of pinned memory is far longer.
pub const MAX_REGIONS: usize = 64;

/// Number of regions up to which they are searched one by one.
const FEW_REGIONS: usize = 8;

/// A run of guest-physical memory that is contiguous in the owner too.
///
/// # Invariants
///
/// `first <= last`, and `host + (last - first)` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    first: GuestAddr,
    /// Inclusive, so that a region can reach the very end of the address space.
    last: GuestAddr,
    host: HostAddr,
}

/// Reason for which a region or a table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// A region of no bytes.
    Empty,
    /// A region reaches past the end of the guest's or the owner's address space.
    Wraps,
    /// Two regions claim the same guest-physical address.
    Overlap,
}

impl Region {
    /// Creates a region of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`TableError::Empty`] and [`TableError::Wraps`].
    pub fn new(first: GuestAddr, size: u64, host: HostAddr) -> Result<Self, TableError> {
        let span = size.checked_sub(1).ok_or(TableError::Empty)?;
        let last = first.checked_add(span).ok_or(TableError::Wraps)?;
        host.checked_add(span).ok_or(TableError::Wraps)?;
        // INVARIANT: `span` is not negative and was added to both without overflow.
        Ok(Self { first, last, host })
    }

    /// Returns the guest address of the first byte.
    pub fn first(&self) -> GuestAddr {
        self.first
    }

    /// Returns the length in bytes.
    pub fn bytes(&self) -> u64 {
        // A size of 64 bits made it: no overflow.
        (self.last.0 - self.first.0).saturating_add(1)
    }

    /// Returns the owner's address of the first byte.
    pub fn host(&self) -> HostAddr {
        self.host
    }

    /// Returns whether the region holds `addr`.
    #[inline]
    pub fn holds(&self, addr: GuestAddr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// Returns the piece of `[addr, addr + len)` that is in this region, which holds `addr`.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`] when `len` is 0.
    #[inline]
    pub fn span(&self, addr: GuestAddr, len: u64) -> Result<HostSpan, Fault> {
        let skip = addr.0.wrapping_sub(self.first.0);
        let rest = self.last.0.wrapping_sub(addr.0);
        // `rest` counts the bytes behind the first one, so that 2^64 bytes need not be counted.
        let more = len.checked_sub(1).ok_or(Fault::OutsideTable)?.min(rest);
        Ok(HostSpan {
            addr: self.host.checked_add(skip).ok_or(Fault::OutsideTable)?,
            len: more.saturating_add(1),
        })
    }
}

/// Sorts regions by guest address, where they are. The sort of the standard library takes up to ten
/// kilobytes of stack: more than a kernel has for it.
fn sort(regions: &mut [Region]) {
    for end in 1..regions.len() {
        for at in (1..=end).rev() {
            match regions.get_mut(at - 1..=at) {
                Some([a, b]) if a.first > b.first => core::mem::swap(a, b),
                _ => break,
            }
        }
    }
}

/// A piece of guest memory that is contiguous in the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpan {
    /// Address of the first byte.
    pub addr: HostAddr,
    /// Length in bytes, never 0.
    pub len: u64,
}

/// The regions of a guest, checked once and searched often.
///
/// `R` holds the regions: a `Vec`, or what a back-end has instead.
///
/// # Invariants
///
/// The regions are sorted by guest address and do not overlap.
pub struct MemoryTable<R> {
    regions: R,
}

impl<R: DerefMut<Target = [Region]>> MemoryTable<R> {
    /// Sorts and checks the regions. Very many of them should be sorted already: the time for others
    /// grows with the square of their number.
    ///
    /// # Errors
    ///
    /// [`TableError::Overlap`].
    pub fn new(mut regions: R) -> Result<Self, TableError> {
        sort(&mut regions);
        let overlap = |pair: &[Region]| matches!(pair, [a, b] if a.last >= b.first);
        if regions.windows(2).any(overlap) {
            return Err(TableError::Overlap);
        }
        // INVARIANT: sorted and compared just above.
        Ok(Self { regions })
    }
}

impl<R: Deref<Target = [Region]>> MemoryTable<R> {
    /// Returns the regions, sorted by guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Returns the owner's address of the byte at `addr`.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`] when no region holds it.
    #[inline]
    pub fn host(&self, addr: GuestAddr) -> Result<HostAddr, Fault> {
        let region = self.region(addr).ok_or(Fault::OutsideTable)?;
        let skip = addr.0.wrapping_sub(region.first.0);
        region.host.checked_add(skip).ok_or(Fault::OutsideTable)
    }

    /// Returns the longest piece of `[addr, addr + len)` that begins at `addr` and is contiguous in the
    /// owner.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`] when no region holds `addr`, or `len` is 0.
    #[inline]
    pub fn span(&self, addr: GuestAddr, len: u64) -> Result<HostSpan, Fault> {
        self.region(addr)
            .ok_or(Fault::OutsideTable)?
            .span(addr, len)
    }

    /// Finds the region that holds `addr`.
    #[inline]
    fn region(&self, addr: GuestAddr) -> Option<&Region> {
        let regions: &[Region] = &self.regions;
        // A guest has few regions, and most of its memory in the last ones.
        let found = if regions.len() <= FEW_REGIONS {
            regions.iter().rev().find(|region| region.first <= addr)
        } else {
            let after = regions.partition_point(|region| region.first <= addr);
            after.checked_sub(1).and_then(|index| regions.get(index))
        };
        found.filter(|region| region.holds(addr))
    }

    /// Returns the pieces of `[addr, addr + len)`, in order. Ends after the first [`Fault`].
    pub fn spans(&self, addr: GuestAddr, len: u64) -> Spans<'_, R> {
        Spans {
            table: self,
            next: Some(addr),
            left: len,
        }
    }

    /// Fills `to` from guest memory.
    ///
    /// # Errors
    ///
    /// The first [`Fault`] in the order of the bytes; `to` may be partly overwritten then.
    #[inline]
    pub fn read<M: CopyIn>(&self, memory: &M, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault> {
        // All in one piece is the rule.
        match self.span(from, to.len() as u64) {
            Ok(span) if span.len == to.len() as u64 => memory.copy_in(span.addr, to),
            _ => self.read_pieces(memory, from, to),
        }
    }

    #[cold]
    fn read_pieces<M: CopyIn>(
        &self,
        memory: &M,
        from: GuestAddr,
        to: &mut [u8],
    ) -> Result<(), Fault> {
        let mut rest = to;
        for span in self.spans(from, rest.len() as u64) {
            let span = span?;
            let len = usize::try_from(span.len).map_err(|_| Fault::OutsideTable)?;
            let (now, later) = core::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or(Fault::OutsideTable)?;
            memory.copy_in(span.addr, now)?;
            rest = later;
        }
        Ok(())
    }
}

/// Iterator of [`MemoryTable::spans`].
pub struct Spans<'a, R> {
    table: &'a MemoryTable<R>,
    /// `None` once the end of the address space was reached.
    next: Option<GuestAddr>,
    left: u64,
}

impl<R: Deref<Target = [Region]>> Iterator for Spans<'_, R> {
    type Item = Result<HostSpan, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let span = self
            .next
            .ok_or(Fault::OutsideTable)
            .and_then(|addr| self.table.span(addr, self.left));
        match span {
            Ok(span) => {
                self.next = self.next.and_then(|addr| addr.checked_add(span.len));
                self.left = self.left.saturating_sub(span.len);
            }
            Err(_) => self.left = 0,
        }
        Some(span)
    }
}

/// Guest memory as a table and a way to read the owner's memory behind it.
pub struct TableMemory<'a, R, C> {
    /// The guest's memory table.
    pub table: &'a MemoryTable<R>,
    /// The owner's memory.
    pub memory: &'a C,
}

impl<R: Deref<Target = [Region]>, C: CopyIn> ReadGuest for TableMemory<'_, R, C> {
    #[inline]
    fn read(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault> {
        self.table.read(self.memory, from, to)
    }
}

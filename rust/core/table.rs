// SPDX-License-Identifier: GPL-2.0

//! The memory table: where guest-physical memory lies in the owner's address space.

use crate::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        CopyIn,
        Fault, //
    },
};
use core::ops::DerefMut;

/// Most regions a table may have, like `max_mem_regions` of the C vhost by default.
pub const MAX_REGIONS: usize = 64;

/// Up to so many regions are searched one by one.
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

/// Why a region or a table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// More than [`MAX_REGIONS`].
    TooMany,
    /// A region of no bytes.
    Empty,
    /// A region reaches past the end of the guest's or the owner's address space.
    Wraps,
    /// Two regions claim the same guest-physical address.
    Overlap,
}

impl Region {
    /// A region of `size` bytes.
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
}

/// A piece of guest memory that is contiguous in the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpan {
    /// Where it begins.
    pub addr: HostAddr,
    /// Its length in bytes, never 0.
    pub len: u64,
}

/// The regions of a guest, checked once and searched often.
///
/// `R` is whatever holds the regions: a `KVec` in the kernel, a `Vec` or an array elsewhere.
///
/// # Invariants
///
/// The regions are sorted by guest address and do not overlap.
pub struct MemoryTable<R> {
    regions: R,
}

impl<R: DerefMut<Target = [Region]>> MemoryTable<R> {
    /// Sorts and checks the regions.
    ///
    /// # Errors
    ///
    /// [`TableError::TooMany`] and [`TableError::Overlap`].
    pub fn new(mut regions: R) -> Result<Self, TableError> {
        if regions.len() > MAX_REGIONS {
            return Err(TableError::TooMany);
        }
        regions.sort_unstable_by_key(|region| region.first);
        let overlap = |pair: &[Region]| matches!(pair, [a, b] if a.last >= b.first);
        if regions.windows(2).any(overlap) {
            return Err(TableError::Overlap);
        }
        // INVARIANT: sorted and compared just above.
        Ok(Self { regions })
    }

    /// Where the byte at `addr` lies in the owner.
    ///
    /// # Errors
    ///
    /// [`Fault`] when no region holds it.
    #[inline]
    pub fn host(&self, addr: GuestAddr) -> Result<HostAddr, Fault> {
        let region = self.region(addr).ok_or(Fault)?;
        let skip = addr.0.wrapping_sub(region.first.0);
        region.host.checked_add(skip).ok_or(Fault)
    }

    /// The longest piece of `[addr, addr + len)` that begins at `addr` and is contiguous in the
    /// owner.
    ///
    /// # Errors
    ///
    /// [`Fault`] when no region holds `addr`, or `len` is 0.
    #[inline]
    pub fn span(&self, addr: GuestAddr, len: u64) -> Result<HostSpan, Fault> {
        let region = self.region(addr).ok_or(Fault)?;
        let skip = addr.0.wrapping_sub(region.first.0);
        let rest = region.last.0.wrapping_sub(addr.0);
        // `rest` counts the bytes behind the first one, so that 2^64 bytes need not be counted.
        let len = len.checked_sub(1).ok_or(Fault)?.min(rest);
        Ok(HostSpan {
            addr: region.host.checked_add(skip).ok_or(Fault)?,
            len: len.saturating_add(1),
        })
    }

    /// The region that holds `addr`.
    #[inline]
    fn region(&self, addr: GuestAddr) -> Option<&Region> {
        let regions: &[Region] = &self.regions;
        // Guests have few regions, and most of their memory in the last ones.
        let found = if regions.len() <= FEW_REGIONS {
            regions.iter().rev().find(|region| region.first <= addr)
        } else {
            let after = regions.partition_point(|region| region.first <= addr);
            after.checked_sub(1).and_then(|index| regions.get(index))
        };
        found.filter(|region| addr <= region.last)
    }

    /// The pieces of `[addr, addr + len)`, in order. Ends after the first [`Fault`].
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
    /// [`Fault`] when a byte is outside the table or can't be read.
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
            let len = usize::try_from(span.len).map_err(|_| Fault)?;
            let (now, later) = core::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or(Fault)?;
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

impl<R: DerefMut<Target = [Region]>> Iterator for Spans<'_, R> {
    type Item = Result<HostSpan, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let span = self
            .next
            .ok_or(Fault)
            .and_then(|addr| self.table.span(addr, self.left));
        match span {
            Ok(span) => {
                self.next = self.next.and_then(|addr| addr.checked_add(span.len));
                self.left = self.left.saturating_sub(span.len);
            }
            Err(Fault) => self.left = 0,
        }
        Some(span)
    }
}

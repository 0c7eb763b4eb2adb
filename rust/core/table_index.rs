// SPDX-License-Identifier: GPL-2.0

//! A memory table of very many regions, searched in about constant time.
//!
//! The address space from the first to the last region is cut into chunks, about two for each
//! region. An index says for each chunk how many regions begin at or before it: the region of an
//! address is the last of these, or one of the few that begin in the chunk.
//!
//! ```
//! use vblk_core::{
//!     addr::{GuestAddr, HostAddr},
//!     table::{MemoryTable, Region},
//!     table_index::IndexedTable,
//! };
//!
//! let region = |n: u64| Region::new(GuestAddr(n << 12), 4096, HostAddr(n << 20)).unwrap();
//! let table = MemoryTable::new((0..1000).map(region).collect::<Vec<_>>()).unwrap();
//! let room = vec![0; IndexedTable::<Vec<Region>, Vec<u32>>::entries(&table)];
//! let table = IndexedTable::new(table, room);
//! let found = table.region(GuestAddr(0x12_3456)).unwrap();
//! assert_eq!(found.host(), HostAddr(0x123 << 20));
//! assert!(table.region(GuestAddr(1000 << 12)).is_none());
//! ```

use crate::{
    addr::GuestAddr,
    table::{
        MemoryTable,
        Region, //
    },
};
use core::ops::{
    Deref,
    DerefMut, //
};

/// A memory table with an index.
pub struct IndexedTable<R, I> {
    table: MemoryTable<R>,
    /// For each chunk, and for the end of the last one, the number of regions that begin at or before
    /// its first address.
    counts: I,
    base: u64,
    /// Each chunk has two to the power of this many bytes.
    shift: u32,
}

/// Returns the size of chunks, as a power of two, and their number, for a table.
fn chunks(regions: &[Region]) -> (u32, usize) {
    let (Some(first), Some(last)) = (regions.first(), regions.last()) else {
        return (0, 0);
    };
    let last_byte = last.first().0 + (last.bytes() - 1);
    let span = last_byte - first.first().0;
    let wanted = (regions.len() as u64).saturating_mul(2);
    let excess = span / wanted.max(1);
    // The smallest power of two with no more chunks than wanted.
    let shift = u64::BITS - excess.leading_zeros();
    let count = match span.checked_shr(shift) {
        Some(last_chunk) => last_chunk as usize + 1,
        None => 1,
    };
    (shift, count)
}

impl<R: Deref<Target = [Region]>, I: DerefMut<Target = [u32]>> IndexedTable<R, I> {
    /// Returns how many entries the index of a table has.
    pub fn entries(table: &MemoryTable<R>) -> usize {
        chunks(table.regions()).1 + 1
    }

    /// Indexes a table. `room` has as many entries as [`Self::entries`] says; with less, addresses at
    /// the end are not found.
    pub fn new(table: MemoryTable<R>, mut room: I) -> Self {
        let regions = table.regions();
        let base = regions.first().map_or(0, |first| first.first().0);
        let (shift, _) = chunks(regions);
        let mut count = 0;
        for (chunk, entry) in room.iter_mut().enumerate() {
            let start = (chunk as u64)
                .checked_mul(1u64.checked_shl(shift).unwrap_or(0))
                .and_then(|offset| base.checked_add(offset))
                .unwrap_or(u64::MAX);
            while regions
                .get(count)
                .is_some_and(|region| region.first().0 <= start)
            {
                count += 1;
            }
            *entry = u32::try_from(count).unwrap_or(u32::MAX);
        }
        Self {
            table,
            counts: room,
            base,
            shift,
        }
    }

    /// Returns the region that holds `addr`.
    #[inline]
    pub fn region(&self, addr: GuestAddr) -> Option<&Region> {
        let chunk = (addr.0.checked_sub(self.base)? >> (self.shift & 63)) as usize;
        let begin = *self.counts.get(chunk)? as usize;
        let end = *self.counts.get(chunk + 1)? as usize;
        let regions = self.table.regions();
        let in_chunk = regions.get(begin..end)?;
        let after = if in_chunk.is_empty() {
            begin
        } else {
            begin + in_chunk.partition_point(|region| region.first() <= addr)
        };
        regions
            .get(after.checked_sub(1)?)
            .filter(|region| region.holds(addr))
    }
}

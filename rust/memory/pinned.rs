// SPDX-License-Identifier: GPL-2.0

//! Guest memory that was pinned when the memory table was set.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::iotlb::Iotlb;
use super::{
    device_memory::DeviceMemory,
    guest_memory::GuestMemory,
    pinned_table::PinnedTable,
    status_byte::StatusByte, //
};
use crate::sys::{
    io_vectors::IoVectors,
    pinned_extents::{
        ExtentAddr,
        LeasedByte, //
    },
};
use core::cell::Cell;
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::GuestAddr,
    memory::{
        Fault,
        ReadGuest, //
    },
    table::{
        HostSpan,
        Region, //
    },
};

/// Guest memory that is pinned as long as the device has it.
pub(crate) struct PinnedMemory {
    table: Arc<PinnedTable>,
    /// Where the table comes from, if what is mapped may change without a word.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    iotlb: Option<Arc<Iotlb>>,
    /// The parts that the last headers, status bytes and indirect tables were in. Most often the next
    /// ones are there too.
    recent: Recent,
    /// The part that the last data was in: where pages are huge, often that of the next.
    last_data: Cell<Option<Region>>,
}

/// Two parts: a request's header is in one, and its indirect table in the other.
#[derive(Default)]
struct Recent {
    last: Cell<Option<Region>>,
    before: Cell<Option<Region>>,
}

impl Recent {
    /// Returns the one that holds `at`.
    #[inline(always)]
    fn holding(&self, at: GuestAddr) -> Option<Region> {
        let holds = |part: &Region| part.holds(at);
        let last = self.last.get().filter(holds);
        last.or_else(|| self.before.get().filter(holds))
    }

    fn note(&self, part: Region) {
        self.before.set(self.last.replace(Some(part)));
    }
}

impl PinnedMemory {
    fn set_table(&mut self, table: Arc<PinnedTable>) {
        self.table = table;
        self.recent = Recent::default();
        self.last_data.set(None);
    }

    /// Returns whose failure it is that an address is not in the table: the host's, if there was no
    /// memory for a table of what is mapped now.
    #[cold]
    fn judge(&self, fault: Fault) -> Fault {
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        if let Some(iotlb) = &self.iotlb {
            if iotlb.version() != self.table.version {
                return Fault::Inaccessible;
            }
        }
        fault
    }

    /// Returns the part that holds `at`.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`].
    #[inline(always)]
    fn part(&self, at: GuestAddr) -> Result<Region, Fault> {
        let part = self.table.part(at);
        part.copied().map_err(|fault| self.judge(fault))
    }

    /// Returns the piece of `[at, at + len)` that begins at `at` and is in one extent.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`].
    #[inline(always)]
    fn span(&self, at: GuestAddr, len: u64) -> Result<HostSpan, Fault> {
        let part = match self.recent.holding(at) {
            Some(part) => part,
            None => {
                let part = self.part(at)?;
                self.recent.note(part);
                part
            }
        };
        part.span(at, len)
    }

    /// Does what [`Self::span`] does, for data.
    #[inline(always)]
    fn data_span(&self, at: GuestAddr, len: u64) -> Result<HostSpan, Fault> {
        let part = match self.last_data.get() {
            Some(part) if part.holds(at) => part,
            _ => {
                let part = self.part(at)?;
                self.last_data.set(Some(part));
                part
            }
        };
        part.span(at, len)
    }

    /// Calls `f` for each piece of `len` bytes at `at` that is contiguous, with its place in the
    /// whole.
    #[inline(always)]
    fn for_each_piece(
        &self,
        at: GuestAddr,
        len: usize,
        mut f: impl FnMut(ExtentAddr, core::ops::Range<usize>) -> bool,
    ) -> Result<(), Fault> {
        let mut at = at;
        let mut done = 0;
        // Ends: each turn has a piece that is not empty.
        while done < len {
            let span = self.span(at, (len - done) as u64)?;
            let end = done + span.len as usize;
            if !f(ExtentAddr(span.addr.0), done..end) {
                // It may not be read, or not be written.
                return Err(Fault::OutsideTable);
            }
            done = end;
            if done < len {
                at = at.checked_add(span.len).ok_or(Fault::OutsideTable)?;
            }
        }
        Ok(())
    }
}

impl ReadGuest for PinnedMemory {
    #[inline]
    fn read(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault> {
        // All in one piece, where the last ones were, is the rule.
        if let Some(part) = self.recent.holding(from) {
            let span = part.span(from, to.len() as u64)?;
            let is_whole = span.len == to.len() as u64;
            if is_whole && self.table.extents.read(ExtentAddr(span.addr.0), to) {
                return Ok(());
            }
        }
        self.read_pieces(from, to)
    }
}

impl PinnedMemory {
    #[inline(never)]
    fn read_pieces(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault> {
        self.for_each_piece(from, to.len(), |at, range| {
            to.get_mut(range)
                .is_some_and(|to| self.table.extents.read(at, to))
        })
    }
}

impl GuestMemory for PinnedMemory {
    fn new(memory: &DeviceMemory) -> Result<Option<Self>> {
        let Some(table) = memory.pinned_table() else {
            return Ok(None);
        };
        Ok(Some(Self {
            table: table.clone(),
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            iotlb: match memory {
                DeviceMemory::Mapped(iotlb, _) => Some(iotlb.clone()),
                _ => None,
            },
            recent: Recent::default(),
            last_data: Cell::new(None),
        }))
    }

    fn replace(&mut self, memory: &DeviceMemory) {
        if let Some(table) = memory.pinned_table() {
            self.set_table(table.clone());
        }
    }

    fn write(&self, to: GuestAddr, from: &[u8]) -> Result<(), Fault> {
        self.for_each_piece(to, from.len(), |at, range| {
            from.get(range)
                .is_some_and(|from| self.table.extents.write(at, from))
        })
    }

    #[inline(always)]
    fn status_byte(&mut self, at: GuestAddr, _is_alone: bool) -> Result<StatusByte, Fault> {
        let span = self.span(at, 1)?;
        LeasedByte::new(&self.table.extents, ExtentAddr(span.addr.0))
            .map(StatusByte::Leased)
            .ok_or(Fault::OutsideTable)
    }

    #[inline(always)]
    fn add_to(&mut self, io: &mut IoVectors, at: GuestAddr, len: u64) -> Result<u64, Fault> {
        let span = self.data_span(at, len)?;
        let added = io.lease(&self.table.extents, ExtentAddr(span.addr.0), span.len);
        if added == 0 && io.bytes() == 0 {
            // There is room: it may not be read, or not be written.
            return Err(Fault::OutsideTable);
        }
        Ok(added as u64)
    }

    fn end_batch(&mut self) {}

    #[inline]
    fn refresh(&mut self) {
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        if let Some(iotlb) = &self.iotlb {
            if iotlb.version() != self.table.version {
                // Without memory for a new table the old one stays, see `judge`.
                if let Ok(table) = iotlb.table() {
                    self.set_table(table);
                }
            }
        }
    }
}

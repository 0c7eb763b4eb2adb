// SPDX-License-Identifier: GPL-2.0

//! Guest memory in the address space of the process that owns the device.

use super::{
    device_memory::DeviceMemory,
    guest_memory::GuestMemory,
    status_byte::StatusByte,
    table::OwnerTable, //
};
use crate::sys::{
    copy_from_user, copy_to_user,
    io_vectors::{
        IoVectors,
        PageScratch, //
    },
    pin::{
        LastPage,
        PinnedByte, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
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

/// The memory of the process that the current thread belongs to or works for.
struct CurrentProcess;

impl CopyIn for CurrentProcess {
    #[inline]
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault> {
        if copy_from_user(from, to) {
            Ok(())
        } else {
            Err(Fault::Inaccessible)
        }
    }
}

/// Guest memory whose pages are pinned for each request.
pub(crate) struct OwnerMemory {
    table: Arc<OwnerTable>,
    scratch: PageScratch,
    /// The page of the last status byte of a batch.
    status_page: LastPage,
}

impl ReadGuest for OwnerMemory {
    #[inline]
    fn read(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault> {
        self.table.read(&CurrentProcess, from, to)
    }
}

impl GuestMemory for OwnerMemory {
    fn new(memory: &DeviceMemory) -> Result<Option<Self>> {
        let DeviceMemory::Owner(table) = memory else {
            return Ok(None);
        };
        Ok(Some(Self {
            table: table.clone(),
            scratch: PageScratch::new()?,
            status_page: LastPage::default(),
        }))
    }

    fn replace(&mut self, memory: &DeviceMemory) {
        if let DeviceMemory::Owner(table) = memory {
            self.table = table.clone();
        }
    }

    fn write(&self, to: GuestAddr, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        for span in self.table.spans(to, from.len() as u64) {
            let span = span?;
            let (now, later) = rest
                .split_at_checked(span.len as usize)
                .ok_or(Fault::OutsideTable)?;
            if !copy_to_user(now, span.addr) {
                return Err(Fault::Inaccessible);
            }
            rest = later;
        }
        Ok(())
    }

    #[inline(always)]
    fn status_byte(&mut self, at: GuestAddr, is_alone: bool) -> Result<StatusByte, Fault> {
        let addr = self.table.host(at)?;
        let byte = if is_alone {
            PinnedByte::new(addr)
        } else {
            self.status_page.pin(addr)
        };
        byte.map(StatusByte::Pinned)
            .map_err(|_| Fault::Inaccessible)
    }

    #[inline(always)]
    fn add_to(&mut self, io: &mut IoVectors, at: GuestAddr, len: u64) -> Result<u64, Fault> {
        let span = self.table.span(at, len)?;
        io.pin(span.addr, span.len, &mut self.scratch)
            .map(|added| added as u64)
            .map_err(|_| Fault::Inaccessible)
    }

    fn end_batch(&mut self) {
        self.status_page = LastPage::default();
    }

    fn refresh(&mut self) {
        self.end_batch();
    }
}

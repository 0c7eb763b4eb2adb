// SPDX-License-Identifier: GPL-2.0

//! Guest memory as `vblk_core` wants to reach it.
//!
//! Addresses "in the owner" are guest-physical addresses here: vm-memory translates them again at
//! each access, and checks them.

use std::sync::atomic::{fence, Ordering};
use vblk_core::{
    addr::{GuestAddr, HostAddr},
    memory::{CopyIn, Fault, SharedMemory},
    table::{MemoryTable, Region, TableError},
};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    VolatileSlice,
};

/// One part of a ring. Accesses outside it or misaligned ones do nothing, as they must.
pub struct RingPart<'m>(pub VolatileSlice<'m>);

impl SharedMemory for RingPart<'_> {
    fn load_u16(&self, offset: usize) -> u16 {
        self.0.load(offset, Ordering::Relaxed).unwrap_or(0)
    }

    fn load_u64(&self, offset: usize) -> u64 {
        self.0.load(offset, Ordering::Relaxed).unwrap_or(0)
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.0.load(offset, Ordering::Acquire).unwrap_or(0)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        let _ = self.0.store(value, offset, Ordering::Relaxed);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let _ = self.0.store(value, offset, Ordering::Relaxed);
    }

    fn store_release_u16(&self, offset: usize, value: u16) {
        let _ = self.0.store(value, offset, Ordering::Release);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Reads guest memory.
pub struct GuestReader<'m>(pub &'m GuestMemoryMmap);

impl CopyIn for GuestReader<'_> {
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault> {
        self.0
            .read_slice(to, GuestAddress(from.0))
            .map_err(|_| Fault::Inaccessible)
    }
}

/// The regions of `memory`, each at its own guest-physical address.
pub fn table(memory: &GuestMemoryMmap) -> Result<MemoryTable<Vec<Region>>, TableError> {
    let region = |region: &vm_memory::GuestRegionMmap| {
        let start = region.start_addr().raw_value();
        Region::new(GuestAddr(start), region.len(), HostAddr(start))
    };
    MemoryTable::new(memory.iter().map(region).collect::<Result<Vec<_>, _>>()?)
}

// SPDX-License-Identifier: GPL-2.0

//! Guest memory in byte vectors, for tests within one thread.

use super::{
    DriverMemory,
    Layout, //
};
use crate::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        CopyIn,
        Fault,
        SharedMemory, //
    },
    queue::Parts,
    ring::Ring,
    table::{
        MemoryTable,
        Region, //
    },
};
use std::{
    cell::Cell,
    vec,
    vec::Vec, //
};

/// The memory of a guest: blocks of bytes, each at a guest address and at a host address that has
/// nothing to do with it. What lies between them is a hole.
///
/// Not `Sync`, so that no test takes it for shared memory: concurrent models bring their own.
pub struct Ram {
    blocks: Vec<Block>,
}

struct Block {
    guest: u64,
    host: u64,
    bytes: Vec<Cell<u8>>,
}

impl Block {
    /// Returns the bytes at `from`, when `from` counts in addresses that begin at `base`.
    fn slice(&self, base: u64, from: u64, len: usize) -> Option<&[Cell<u8>]> {
        let start = usize::try_from(from.checked_sub(base)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

impl Ram {
    /// Creates one block of zeroes at guest address 0. Its host address is another one, so that
    /// mixing them up does not go unnoticed.
    pub fn new(bytes: usize) -> Self {
        Self::with_blocks(&[(GuestAddr(0), bytes, HostAddr(1 << 40))])
    }

    /// Creates blocks of zeroes: guest address, number of bytes, host address.
    pub fn with_blocks(blocks: &[(GuestAddr, usize, HostAddr)]) -> Self {
        let block = |&(guest, bytes, host): &(GuestAddr, usize, HostAddr)| Block {
            guest: guest.0,
            host: host.0,
            bytes: vec![Cell::new(0); bytes],
        };
        Self {
            blocks: blocks.iter().map(block).collect(),
        }
    }

    /// Returns the memory table that describes this memory.
    ///
    /// # Panics
    ///
    /// When the blocks overlap or are empty.
    pub fn table(&self) -> MemoryTable<Vec<Region>> {
        let region = |block: &Block| {
            let (guest, host) = (GuestAddr(block.guest), HostAddr(block.host));
            Region::new(guest, block.bytes.len() as u64, host).expect("a region")
        };
        MemoryTable::new(self.blocks.iter().map(region).collect()).expect("a memory table")
    }

    /// Returns `len` bytes from `from` on, within one block, as a part of a ring.
    ///
    /// # Panics
    ///
    /// When there is no such memory.
    pub fn part(&self, from: GuestAddr, len: usize) -> RamPart<'_> {
        RamPart(self.at_guest(from, len))
    }

    /// Returns the parts of the ring at `layout`.
    ///
    /// # Panics
    ///
    /// When there is no such memory.
    pub fn parts(&self, layout: &Layout) -> Parts<RamPart<'_>> {
        let parts = layout.format.parts(layout.size);
        Parts {
            desc: self.part(layout.desc, parts.desc.bytes),
            driver: self.part(layout.avail, parts.driver.bytes),
            device: self.part(layout.used, parts.device.bytes),
        }
    }

    /// Returns the device's side of the ring at `layout`.
    ///
    /// # Panics
    ///
    /// When there is no such memory.
    pub fn ring(&self, layout: &Layout) -> Ring<RamPart<'_>> {
        Ring::new(layout.format, layout.size, self.parts(layout))
    }

    /// Writes as a device does, through a host address.
    ///
    /// # Errors
    ///
    /// [`Fault::Inaccessible`] when there is no such memory.
    pub fn copy_out(&self, to: HostAddr, from: &[u8]) -> Result<(), Fault> {
        copy_to_cells(self.at_host(to, from.len())?, from);
        Ok(())
    }

    fn at_guest(&self, from: GuestAddr, len: usize) -> &[Cell<u8>] {
        let mut found = self.blocks.iter();
        found
            .find_map(|block| block.slice(block.guest, from.0, len))
            .unwrap_or_else(|| panic!("no {len} bytes of guest memory at {:#x}", from.0))
    }

    fn at_host(&self, from: HostAddr, len: usize) -> Result<&[Cell<u8>], Fault> {
        let mut found = self.blocks.iter();
        found
            .find_map(|block| block.slice(block.host, from.0, len))
            .ok_or(Fault::Inaccessible)
    }
}

impl CopyIn for Ram {
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault> {
        copy_from_cells(self.at_host(from, to.len())?, to);
        Ok(())
    }
}

/// Orderings mean nothing within one thread.
impl DriverMemory for Ram {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        copy_from_cells(self.at_guest(from, to.len()), to);
    }

    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        copy_to_cells(self.at_guest(to, bytes.len()), bytes);
    }

    fn load_u16(&self, at: GuestAddr) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_ne_bytes(bytes)
    }

    fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
        self.load_u16(at)
    }

    fn store_u16(&self, at: GuestAddr, value: u16) {
        self.write(at, &value.to_ne_bytes());
    }

    fn store_release_u16(&self, at: GuestAddr, value: u16) {
        self.store_u16(at, value);
    }

    fn full_barrier(&self) {}
}

/// A part of a ring in [`Ram`].
#[derive(Clone, Copy)]
pub struct RamPart<'a>(&'a [Cell<u8>]);

impl RamPart<'_> {
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert_eq!(offset % N, 0, "a load of {N} bytes at {offset}");
        let mut bytes = [0; N];
        if let Some(cells) = offset
            .checked_add(N)
            .and_then(|end| self.0.get(offset..end))
        {
            copy_from_cells(cells, &mut bytes);
        }
        bytes
    }

    fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        assert_eq!(offset % N, 0, "a store of {N} bytes at {offset}");
        if let Some(cells) = offset
            .checked_add(N)
            .and_then(|end| self.0.get(offset..end))
        {
            copy_to_cells(cells, &bytes);
        }
    }
}

impl SharedMemory for RamPart<'_> {
    fn load_u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.load(offset))
    }

    fn load_u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.load(offset))
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.load_u16(offset)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        self.store(offset, value.to_ne_bytes());
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.store(offset, value.to_ne_bytes());
    }

    fn store_release_u16(&self, offset: usize, value: u16) {
        self.store_u16(offset, value);
    }

    fn full_barrier(&self) {}
}

fn copy_from_cells(from: &[Cell<u8>], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.get();
    }
}

fn copy_to_cells(to: &[Cell<u8>], from: &[u8]) {
    for (to, from) in to.iter().zip(from) {
        to.set(*from);
    }
}

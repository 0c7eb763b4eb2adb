// SPDX-License-Identifier: GPL-2.0

//! The reference of `vblk_core::testing` on the memory of these tests.

use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::Segment,
    testing::{
        reference,
        Ram, //
    },
};

pub use reference::{
    Expected,
    Parsed, //
};

/// Guest memory: the same blocks as in a [`Ram`], looked up one by one.
pub struct Memory<'a> {
    pub ram: &'a Ram,
    pub blocks: &'a [(GuestAddr, usize, HostAddr)],
}

impl Memory<'_> {
    fn with<R>(&self, f: impl FnOnce(&reference::Memory<'_, Ram>) -> R) -> R {
        let blocks = self.blocks.iter();
        let blocks: Vec<_> = blocks.map(|(addr, len, _)| (*addr, *len as u64)).collect();
        f(&reference::Memory {
            memory: self.ram,
            blocks: &blocks,
        })
    }

    /// Returns `len` bytes, if all are there.
    pub fn bytes(&self, addr: u128, len: u128) -> Option<Vec<u8>> {
        self.with(|memory| memory.bytes(addr, len))
    }

    /// Follows the chain at `head` in a table at `ring` with `size` entries.
    pub fn walk(&self, ring: u64, size: usize, head: u16, indirect: bool) -> Expected {
        self.with(|memory| reference::walk(memory, ring, size, head, indirect))
    }

    /// Takes the `count` descriptors from `place` on in a packed ring at `ring` with `size` entries.
    pub fn walk_packed(
        &self,
        ring: u64,
        size: usize,
        place: usize,
        count: usize,
        indirect: bool,
    ) -> Expected {
        let (first, count) = ((place % size) as u16, count as u16);
        self.with(|memory| reference::walk_packed(memory, ring, size, first, count, indirect))
    }

    /// Finds a request in buffers, none of which is empty; otherwise where a status could go.
    pub fn parse(&self, bufs: &[Segment]) -> Result<Parsed, Option<u64>> {
        self.with(|memory| reference::parse(memory, bufs))
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Shared by several tests: a guest with one ring, and chains walked in it.

// Each test crate uses its own part of this.
#![allow(dead_code)]

use vblk_core::{
    addr::GuestAddr,
    chain::{
        max_segments,
        Chain,
        ChainError,
        Segment, //
    },
    queue::{
        Head,
        Popped, //
    },
    ring::{
        Avail,
        Base,
        Ring, //
    },
    split::Descriptor,
    table::{
        MemoryTable,
        Region,
        TableMemory, //
    },
    testing::{
        Layout,
        Ram,
        RamPart,
        SplitDriver, //
    },
};

/// Address of the ring in tests. The first bytes of memory stay free of it.
pub const RING: GuestAddr = GuestAddr(0x1000);

/// The device's half of a guest with one ring.
pub struct Device<'a> {
    pub ram: &'a Ram,
    pub ring: Ring<RamPart<'a>>,
    pub table: MemoryTable<Vec<Region>>,
    pub avail: Avail,
    pub indirect: bool,
    segments: Vec<Segment>,
}

impl<'a> Device<'a> {
    /// Creates a device that begins with the first entry.
    pub fn new(ram: &'a Ram, layout: &Layout) -> Self {
        let ring = ram.ring(layout);
        let base = Base { avail: 0, used: 0 };
        Self {
            ram,
            avail: Avail::new(&ring, base, false),
            ring,
            table: ram.table(),
            indirect: true,
            segments: vec![Segment::default(); max_segments(layout.size)],
        }
    }

    /// Takes a chain that must be there.
    pub fn pop(&mut self) -> Head {
        match self.avail.pop(&self.ring, || 0) {
            Ok(Popped::Chain(head)) => head,
            other => panic!("a chain should be there, not {other:?}"),
        }
    }

    pub fn walk(&mut self, head: Head) -> Result<Chain<'_>, ChainError> {
        let memory = TableMemory {
            table: &self.table,
            memory: self.ram,
        };
        self.ring
            .walk(head, self.indirect, &memory, &mut self.segments)
    }

    /// Makes `head` available by the driver's raw operations, and walks the chain.
    pub fn walk_posted(
        &mut self,
        driver: &mut SplitDriver<&Ram>,
        head: u16,
    ) -> Result<Chain<'_>, ChainError> {
        driver.post(head);
        driver.publish();
        let head = self.pop();
        self.walk(head)
    }
}

/// Returns a descriptor of a plain buffer.
pub fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        addr,
        len,
        flags,
        next,
    }
}

pub const NEXT: u16 = Descriptor::F_NEXT;
pub const WRITE: u16 = Descriptor::F_WRITE;
pub const INDIRECT: u16 = Descriptor::F_INDIRECT;

/// Returns a segment.
pub fn seg(addr: u64, len: u32, writable: bool) -> Segment {
    Segment {
        addr: GuestAddr(addr),
        len,
        writable,
    }
}

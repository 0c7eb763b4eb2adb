// SPDX-License-Identifier: GPL-2.0

//! A chain in a guest, and its outcome.

use crate::common::{
    desc,
    seg,
    Device,
    INDIRECT,
    NEXT,
    RING, //
};
use vblk_core::{
    addr::GuestAddr,
    chain::{
        ChainError,
        Segment, //
    },
    split::Descriptor,
    testing::{
        DriverMemory,
        Layout,
        Ram,
        SplitDriver, //
    },
};

pub const SIZE: u16 = 8;
pub const MEMORY: usize = 0x10_0000;
pub const TABLE: u64 = 0x8000;

/// Outcome of a chain.
#[derive(Debug, PartialEq)]
pub struct Walked {
    pub readable: Vec<Segment>,
    pub writable: Vec<Segment>,
    pub ordered: bool,
}

/// Walks the chain at descriptor 0 of a ring with these descriptors, with these also written as
/// an indirect table at [`TABLE`].
pub fn walk(ring: &[Descriptor], indirect: &[Descriptor]) -> Result<Walked, ChainError> {
    walk_sized(SIZE, ring, indirect)
}

pub fn walk_sized(
    size: u16,
    ring: &[Descriptor],
    indirect: &[Descriptor],
) -> Result<Walked, ChainError> {
    walk_in(&Ram::new(MEMORY), size, TABLE, ring, indirect)
}

pub fn walk_in(
    ram: &Ram,
    size: u16,
    table: u64,
    ring: &[Descriptor],
    indirect: &[Descriptor],
) -> Result<Walked, ChainError> {
    let layout = Layout::with_size(size.into(), RING);
    let mut driver = SplitDriver::new(ram, layout, false);
    for (index, desc) in ring.iter().enumerate() {
        driver.write_descriptor(index as u16, desc);
    }
    // Byte by byte, because the table may straddle blocks of memory.
    for (index, desc) in indirect.iter().enumerate() {
        let scratch = GuestAddr(0x100);
        driver.write_raw_descriptor(scratch, desc);
        let at = table + (index * Descriptor::BYTES) as u64;
        for (offset, byte) in ram.read_vec(scratch, Descriptor::BYTES).iter().enumerate() {
            ram.write(GuestAddr(at + offset as u64), &[*byte]);
        }
    }
    let mut device = Device::new(ram, &layout);
    let chain = device.walk_posted(&mut driver, 0)?;
    let (readable, writable) = (chain.readable(), chain.writable());
    let bytes = |segments: &[Segment]| segments.iter().map(|s| s.len).sum::<u32>();
    if chain.ordered() {
        assert_eq!(chain.readable_bytes(), bytes(readable));
        assert_eq!(chain.writable_bytes(), bytes(writable));
    }
    Ok(Walked {
        readable: readable.to_vec(),
        writable: writable.to_vec(),
        ordered: chain.ordered(),
    })
}

pub fn ordered(readable: &[Segment], writable: &[Segment]) -> Result<Walked, ChainError> {
    Ok(Walked {
        readable: readable.to_vec(),
        writable: writable.to_vec(),
        ordered: true,
    })
}

/// Returns a descriptor for an indirect table of `entries` at [`TABLE`].
pub fn table_of(entries: u32) -> Descriptor {
    desc(TABLE, entries * Descriptor::BYTES as u32, INDIRECT, 0)
}

/// Returns `count` descriptors of one byte, chained in order.
pub fn line(count: u16) -> Vec<Descriptor> {
    let one = |i: u16| {
        let flags = if i + 1 < count { NEXT } else { 0 };
        desc(0x1_0000 + u64::from(i), 1, flags, i + 1)
    };
    (0..count).map(one).collect()
}

pub fn line_segments(count: u16) -> Vec<Segment> {
    (0..count)
        .map(|i| seg(0x1_0000 + u64::from(i), 1, false))
        .collect()
}

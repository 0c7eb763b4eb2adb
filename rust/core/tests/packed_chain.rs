// SPDX-License-Identifier: GPL-2.0

//! Chains of packed rings: which ones are walked, what is found in them, and how the others end.

mod common;

use common::{
    seg,
    Device,
    RING, //
};
use std::cell::Cell;
use vblk_core::{
    addr::GuestAddr,
    chain::{
        ChainError,
        Segment,
        MAX_INDIRECT, //
    },
    memory::SharedMemory,
    packed::Descriptor,
    queue::{
        Parts,
        Popped, //
    },
    ring::{
        Avail,
        Base,
        Ring, //
    },
    table::TableMemory,
    testing::{
        DriverMemory,
        Layout,
        PackedDriver,
        Ram,
        RamPart, //
    },
};

const SIZE: u16 = 8;
const MEMORY: usize = 0x10_0000;
const TABLE: u64 = 0x8_0000;
const NEXT: u16 = Descriptor::F_NEXT;
const WRITE: u16 = Descriptor::F_WRITE;
const INDIRECT: u16 = Descriptor::F_INDIRECT;

fn desc(addr: u64, len: u32, flags: u16) -> Descriptor {
    Descriptor {
        addr,
        len,
        id: 5,
        flags,
    }
}

/// Readable and writable buffers, if the chain is ordered.
type Walked = Result<(Vec<Segment>, Vec<Segment>), ChainError>;

/// Walks the one chain of a ring that begins at `start`, with these descriptors also written as an
/// indirect table at [`TABLE`]. Its head must give back all of it, however it is broken.
fn walk_from(start: u16, indirect: bool, chain: &[Descriptor], table: &[Descriptor]) -> Walked {
    walk_sized(SIZE, start, indirect, chain, table)
}

fn walk_sized(
    size: u16,
    start: u16,
    indirect: bool,
    chain: &[Descriptor],
    table: &[Descriptor],
) -> Walked {
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(size.into(), RING);
    let mut driver = PackedDriver::starting_at(&ram, layout, false, start);
    for (index, desc) in table.iter().enumerate() {
        driver.write_raw_descriptor(GuestAddr(TABLE + 16 * index as u64), desc);
    }
    driver.post(chain);
    driver.publish();
    let mut device = Device::new(&ram, &layout);
    let base = Base {
        avail: start,
        used: start,
    };
    device.avail = Avail::new(&device.ring, base, false);
    device.indirect = indirect;
    let Ok(Popped::Chain(head)) = device.avail.pop(&device.ring, || start) else {
        panic!("a chain should be there");
    };
    assert_eq!((head.id(), usize::from(head.count())), (5, chain.len()));
    let chain = device.walk(head)?;
    assert!(chain.ordered());
    Ok((chain.readable().to_vec(), chain.writable().to_vec()))
}

fn walk(chain: &[Descriptor], table: &[Descriptor]) -> Walked {
    walk_from(0, true, chain, table)
}

/// Returns a descriptor for an indirect table of `entries` at [`TABLE`].
fn table_of(entries: u32) -> Descriptor {
    desc(TABLE, entries * 16, INDIRECT)
}

/// Returns `count` descriptors of one byte, all but the last of which go on.
fn line(count: u16) -> Vec<Descriptor> {
    let one = |i: u16| {
        let flags = if i + 1 < count { NEXT } else { 0 };
        desc(0x1_0000 + u64::from(i), 1, flags)
    };
    (0..count).map(one).collect()
}

fn line_segments(count: u16) -> Vec<Segment> {
    let one = |i| seg(0x1_0000 + u64::from(i), 1, false);
    (0..count).map(one).collect()
}

#[test]
fn a_chain_gives_its_buffers_in_order_wherever_it_begins() {
    let chain = [
        desc(0x1000, 16, NEXT),
        desc(0x2000, 0x100, NEXT),
        desc(0x3000, 0, NEXT),
        desc(0x4000, 0x200, NEXT | WRITE),
        desc(0x9000, 1, WRITE),
    ];
    let expected = (
        vec![seg(0x1000, 16, false), seg(0x2000, 0x100, false)],
        vec![seg(0x4000, 0x200, true), seg(0x9000, 1, true)],
    );
    for start in (0..16).chain(65520..=65535) {
        assert_eq!(walk_from(start, true, &chain, &[]), Ok(expected.clone()));
    }
}

#[test]
fn the_longest_chain_has_as_many_descriptors_as_the_queue() {
    for start in [0, 3, 65535] {
        let walked = walk_from(start, true, &line(SIZE), &[]);
        assert_eq!(walked, Ok((line_segments(SIZE), vec![])));
    }
}

#[test]
fn all_of_an_indirect_table_is_taken_in_order_whatever_its_flags() {
    // "The VIRTQ_DESC_F_WRITE flags bit is the only valid flag for descriptors in the indirect
    // table. Others are reserved and are ignored by the device" (virtio 1.2, 2.8.7).
    let table = [
        desc(0x1000, 16, 0),
        desc(0x2000, 1, NEXT | INDIRECT),
        desc(0x3000, 2, 0x8080),
        desc(0x4000, 3, WRITE | 0xFFF8),
    ];
    let expected = (
        vec![
            seg(0x1000, 16, false),
            seg(0x2000, 1, false),
            seg(0x3000, 2, false),
        ],
        vec![seg(0x4000, 3, true)],
    );
    assert_eq!(walk(&[table_of(4)], &table), Ok(expected.clone()));
    // WRITE means nothing in the descriptor that refers to it.
    let outer = desc(TABLE, 64, INDIRECT | WRITE);
    assert_eq!(walk(&[outer], &table), Ok(expected));
}

#[test]
fn an_indirect_table_has_up_to_1024_entries_or_as_many_as_the_queue_and_no_more() {
    for (size, most) in [
        (1, MAX_INDIRECT),
        (SIZE, MAX_INDIRECT),
        (1024, MAX_INDIRECT),
        (2048, 2048),
        (8192, 8192),
    ] {
        let table = line(most + 1);
        let walk = |entries| walk_sized(size, 0, true, &[table_of(entries)], &table);
        let walked = walk(most.into());
        assert_eq!(walked, Ok((line_segments(most), vec![])), "{size}");
        assert_eq!(walk(u32::from(most) + 1), Err(ChainError::TooLong));
    }
    // Empty entries are no way around that.
    let empty = vec![desc(0, 0, 0); 1025];
    assert_eq!(walk(&[table_of(1025)], &empty), Err(ChainError::TooLong));
    assert_eq!(walk(&[table_of(1024)], &empty), Ok((vec![], vec![])));
}

#[test]
fn an_indirect_table_stands_alone() {
    // "A driver MUST NOT write direct descriptors with VIRTQ_DESC_F_INDIRECT set in a
    // scatter-gather list linked by VIRTQ_DESC_F_NEXT" (virtio 1.2, 2.8.19).
    let table = line(2);
    let with = |flags| desc(TABLE, 32, INDIRECT | flags);
    for chain in [
        vec![with(NEXT), desc(0x9000, 1, WRITE)],
        vec![desc(0x9000, 1, NEXT), with(0)],
        vec![with(NEXT), with(0)],
    ] {
        assert_eq!(walk(&chain, &table), Err(ChainError::IndirectWithNext));
    }
}

#[test]
fn an_indirect_table_needs_the_feature_and_whole_entries() {
    let table = line(2);
    let walked = walk_from(0, false, &[table_of(2)], &table);
    assert_eq!(walked, Err(ChainError::IndirectNotNegotiated));
    for len in [0, 1, 15, 17, 31, u32::MAX] {
        let outer = desc(TABLE, len, INDIRECT);
        assert_eq!(walk(&[outer], &table), Err(ChainError::IndirectSize));
    }
    for addr in [MEMORY as u64, MEMORY as u64 - 16, u64::MAX - 15, u64::MAX] {
        let outer = desc(addr, 32, INDIRECT);
        assert_eq!(
            walk(&[outer], &table),
            Err(ChainError::IndirectOutsideTable)
        );
    }
}

#[test]
fn buffers_have_less_than_four_gigabytes_in_all() {
    for flags in [0, WRITE] {
        let chain = |more| [desc(0, u32::MAX - 1, NEXT), desc(0, more, flags)];
        assert!(walk(&chain(1), &[]).is_ok());
        assert_eq!(walk(&chain(2), &[]), Err(ChainError::TooManyBytes));
    }
}

#[test]
fn descriptors_are_little_endian() {
    let bytes: [u8; 16] = core::array::from_fn(|i| i as u8 + 1);
    let expected = Descriptor {
        addr: 0x0807_0605_0403_0201,
        len: 0x0C0B_0A09,
        id: 0x0E0D,
        flags: 0x100F,
    };
    assert_eq!(Descriptor::from_bytes(&bytes), expected);
    // In the ring they are loaded as two words.
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(SIZE.into(), RING);
    ram.write(layout.descriptor(2), &bytes);
    let Ring::Packed(ring) = ram.ring(&layout) else {
        panic!("a packed ring");
    };
    for position in [2, 10, 65530] {
        assert_eq!(ring.descriptor(position), expected);
    }
}

/// Ring memory of a driver that changes NEXT in every descriptor each time it is read.
struct MutatingGuest<'a> {
    part: RamPart<'a>,
    loads: &'a Cell<usize>,
    mutates: bool,
}

impl MutatingGuest<'_> {
    fn mutate(&self, flags_at: usize) {
        self.loads.set(self.loads.get() + 1);
        if self.mutates {
            let flags = self.part.load_u16(flags_at);
            self.part.store_u16(flags_at, flags ^ NEXT.to_le());
        }
    }
}

impl SharedMemory for MutatingGuest<'_> {
    fn load_u16(&self, offset: usize) -> u16 {
        let value = self.part.load_u16(offset);
        self.mutate(offset | 14);
        value
    }
    fn load_u64(&self, offset: usize) -> u64 {
        let value = self.part.load_u64(offset);
        self.mutate(offset | 14);
        value
    }
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.load_u16(offset)
    }
    fn store_u16(&self, offset: usize, value: u16) {
        self.part.store_u16(offset, value);
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.part.store_u32(offset, value);
    }
    fn store_release_u16(&self, offset: usize, value: u16) {
        self.part.store_u16(offset, value);
    }
    fn full_barrier(&self) {}
}

#[test]
fn flags_that_change_while_they_are_read_make_no_difference_to_the_length() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(SIZE.into(), RING);
    for count in 1..=SIZE {
        let mut driver = PackedDriver::new(&ram, layout, false);
        driver.post(&line(count));
        driver.publish();
        let loads = Cell::new(0);
        let parts = ram.parts(&layout);
        let mutating_guest = |part, mutates| MutatingGuest {
            part,
            loads: &loads,
            mutates,
        };
        let parts = Parts {
            desc: mutating_guest(parts.desc, true),
            driver: mutating_guest(parts.driver, false),
            device: mutating_guest(parts.device, false),
        };
        let ring = Ring::new(layout.format, layout.size, parts);
        let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
        let Ok(Popped::Chain(head)) = avail.pop(&ring, || 0) else {
            panic!("a chain should be there");
        };
        // Flags of each, one id, and a look at what comes next.
        assert_eq!(loads.get(), usize::from(count) + 2);
        assert_eq!(head.count(), count);
        assert_eq!(avail.position(), count);
        loads.set(0);
        let mut segments = [Segment::default(); SIZE as usize];
        let memory = TableMemory {
            table: &ram.table(),
            memory: &ram,
        };
        let chain = ring.walk(head, true, &memory, &mut segments);
        let chain = chain.expect("a chain");
        assert_eq!(chain.readable(), line_segments(count));
        assert_eq!(loads.get(), 2 * usize::from(count));
    }
}

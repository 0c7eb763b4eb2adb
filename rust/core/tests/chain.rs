// SPDX-License-Identifier: GPL-2.0

//! Chains: which ones are walked, what is found in them, and how the others end.

mod common;

use common::{
    desc,
    seg,
    Device,
    INDIRECT,
    NEXT,
    RING,
    WRITE, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::{
        ChainError,
        Segment, //
    },
    queue::Popped,
    split::{
        Descriptor,
        SplitRing, //
    },
    testing::{
        Buf,
        DriverMemory,
        Layout,
        Ram,
        SplitDriver, //
    },
};

const SIZE: u16 = 8;
const MEMORY: usize = 0x10_0000;
const TABLE: u64 = 0x8000;

/// What became of one chain.
#[derive(Debug, PartialEq)]
struct Walked {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    ordered: bool,
}

/// Walks the chain at descriptor 0 of a ring with these descriptors, with these also written as
/// an indirect table at [`TABLE`].
fn walk(ring: &[Descriptor], indirect: &[Descriptor]) -> Result<Walked, ChainError> {
    walk_sized(SIZE, ring, indirect)
}

fn walk_sized(
    size: u16,
    ring: &[Descriptor],
    indirect: &[Descriptor],
) -> Result<Walked, ChainError> {
    walk_in(&Ram::new(MEMORY), size, TABLE, ring, indirect)
}

fn walk_in(
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

fn ordered(readable: &[Segment], writable: &[Segment]) -> Result<Walked, ChainError> {
    Ok(Walked {
        readable: readable.to_vec(),
        writable: writable.to_vec(),
        ordered: true,
    })
}

/// A descriptor for an indirect table of `entries` at [`TABLE`].
fn table_of(entries: u32) -> Descriptor {
    desc(TABLE, entries * Descriptor::BYTES as u32, INDIRECT, 0)
}

/// `count` descriptors of one byte, chained in order.
fn line(count: u16) -> Vec<Descriptor> {
    let one = |i: u16| {
        let flags = if i + 1 < count { NEXT } else { 0 };
        desc(0x1_0000 + u64::from(i), 1, flags, i + 1)
    };
    (0..count).map(one).collect()
}

fn line_segments(count: u16) -> Vec<Segment> {
    (0..count)
        .map(|i| seg(0x1_0000 + u64::from(i), 1, false))
        .collect()
}

#[test]
fn a_chain_gives_its_buffers_in_order() {
    let ring = [
        desc(0x1000, 16, NEXT, 3),
        desc(0x9000, 1, WRITE, 0),
        desc(0x3000, 0x200, NEXT | WRITE, 1),
        desc(0x2000, 0x100, NEXT, 2),
    ];
    assert_eq!(
        walk(&ring, &[]),
        ordered(
            &[seg(0x1000, 16, false), seg(0x2000, 0x100, false)],
            &[seg(0x3000, 0x200, true), seg(0x9000, 1, true)],
        ),
    );
}

#[test]
fn next_without_its_flag_is_ignored() {
    let ring = [desc(0x1000, 16, 0, 7)];
    assert_eq!(walk(&ring, &[]), ordered(&[seg(0x1000, 16, false)], &[]));
    let ring = [desc(0x1000, 16, WRITE, 0xFFFF)];
    assert_eq!(walk(&ring, &[]), ordered(&[], &[seg(0x1000, 16, true)]));
}

#[test]
fn unknown_flags_are_ignored() {
    let ring = [desc(0x1000, 16, !(NEXT | INDIRECT), 7)];
    assert_eq!(walk(&ring, &[]), ordered(&[], &[seg(0x1000, 16, true)]));
}

#[test]
fn a_descriptor_that_is_its_own_successor_ends_the_walk() {
    let too_long = Err(ChainError::TooLong);
    assert_eq!(walk(&[desc(0x1000, 1, NEXT, 0)], &[]), too_long);
    // Also where no buffer is ever found.
    assert_eq!(walk(&[desc(0x1000, 0, NEXT, 0)], &[]), too_long);
    assert_eq!(walk_sized(1, &[desc(0x1000, 1, NEXT, 0)], &[]), too_long);
    assert_eq!(walk(&[table_of(1)], &[desc(0x1000, 0, NEXT, 0)]), too_long);
}

#[test]
fn a_loop_through_the_whole_ring_ends_the_walk() {
    let mut ring = line(SIZE);
    ring[7].flags = NEXT;
    for back in 0..SIZE {
        ring[7].next = back;
        assert_eq!(walk(&ring, &[]), Err(ChainError::TooLong));
        assert_eq!(walk(&[table_of(8)], &ring), Err(ChainError::TooLong));
    }
}

#[test]
fn next_outside_its_table_is_an_error() {
    for next in [SIZE, SIZE + 1, 0x7FFF, 0x8000, 0xFFFF] {
        let bad = [desc(0x1000, 1, NEXT, next)];
        assert_eq!(walk(&bad, &[]), Err(ChainError::NextOutOfRange));
        assert_eq!(walk(&[table_of(8)], &bad), Err(ChainError::NextOutOfRange),);
    }
    // The size of the indirect table counts, not that of the ring.
    let short = [desc(0x1000, 1, NEXT, 2)];
    assert_eq!(
        walk(&[table_of(2)], &short),
        Err(ChainError::NextOutOfRange)
    );
}

#[test]
fn a_head_outside_the_ring_is_no_chain() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(SIZE.into(), RING);
    let mut driver = SplitDriver::new(&ram, layout, false);
    let mut device = Device::new(&ram, &layout);
    for head in [SIZE, SIZE + 1, 0x8000, 0xFFFF] {
        driver.post(head);
        driver.publish();
        assert_eq!(
            device.avail.pop(&device.ring, || 0),
            Ok(Popped::OutOfRange(head))
        );
    }
    // The entry was consumed: the next one is found behind it.
    driver.post(SIZE - 1);
    driver.publish();
    assert_eq!(device.pop().index(), SIZE - 1);
}

#[test]
fn a_chain_as_long_as_the_queue_is_fine_and_one_longer_is_not() {
    for size in [1, 2, 8, 256] {
        assert_eq!(
            walk_sized(size, &line(size), &[]),
            ordered(&line_segments(size), &[]),
        );
        assert_eq!(
            walk_sized(size, &[table_of(size.into())], &line(size)),
            ordered(&line_segments(size), &[]),
        );
        let longer = line(size + 1);
        assert_eq!(
            walk_sized(size, &[table_of(longer.len() as u32)], &longer),
            Err(ChainError::TooLong),
        );
    }
}

#[test]
fn the_ring_part_and_the_table_together_are_as_long_as_the_queue() {
    let mut ring = line(4);
    ring[3] = table_of(6);
    assert_eq!(walk(&ring, &line(5)).map(|w| w.readable.len()), Ok(8));
    assert_eq!(walk(&ring, &line(6)), Err(ChainError::TooLong));
}

#[test]
fn a_table_may_have_more_entries_than_the_queue_if_the_chain_has_not() {
    let mut entries = vec![desc(0, 0, 0, 0); 300];
    entries[0] = desc(0x1000, 16, NEXT, 299);
    entries[299] = desc(0x2000, 1, NEXT | WRITE, 100);
    entries[100] = desc(0x3000, 1, WRITE, 0);
    assert_eq!(
        walk(&[table_of(300)], &entries),
        ordered(
            &[seg(0x1000, 16, false)],
            &[seg(0x2000, 1, true), seg(0x3000, 1, true)],
        ),
    );
}

#[test]
fn table_entries_are_found_in_any_order() {
    // Back and forth over more entries than are read at once.
    let order = [0, 40, 1, 39, 8, 7, 16, 31];
    let mut entries = vec![desc(0xBAD, 0xBAD, NEXT, 0); 41];
    for (step, &at) in order.iter().enumerate() {
        let next = order.get(step + 1);
        let flags = if next.is_some() { NEXT } else { 0 };
        entries[at] = desc(step as u64, 1, flags, next.map_or(0, |&n| n as u16));
    }
    let expected: Vec<_> = (0..8).map(|step| seg(step, 1, false)).collect();
    assert_eq!(walk(&[table_of(41)], &entries), ordered(&expected, &[]));
}

#[test]
fn the_write_flag_of_the_descriptor_for_a_table_is_ignored() {
    // "The device MUST ignore the write-only flag (flags&VIRTQ_DESC_F_WRITE) in the descriptor that
    // refers to an indirect table" (virtio 1.2, 2.7.5.3.2).
    let mut outer = table_of(1);
    outer.flags |= WRITE;
    let entries = [desc(0x1000, 16, 0, 0)];
    assert_eq!(
        walk(&[outer], &entries),
        ordered(&[seg(0x1000, 16, false)], &[])
    );
}

#[test]
fn buffers_may_come_before_the_table() {
    // "The device MUST handle the case of zero or more normal chained descriptors followed by a
    // single descriptor with flags&VIRTQ_DESC_F_INDIRECT" (virtio 1.2, 2.7.5.3.2).
    let ring = [desc(0x1000, 16, NEXT, 1), table_of(1)];
    let entries = [desc(0x2000, 1, WRITE, 0)];
    assert_eq!(
        walk(&ring, &entries),
        ordered(&[seg(0x1000, 16, false)], &[seg(0x2000, 1, true)]),
    );
}

#[test]
fn a_table_with_a_successor_is_an_error() {
    let mut outer = table_of(1);
    outer.flags |= NEXT;
    let entries = [desc(0x1000, 16, 0, 0)];
    assert_eq!(walk(&[outer], &entries), Err(ChainError::IndirectWithNext));
}

#[test]
fn a_table_inside_a_table_is_an_error() {
    let nested = Err(ChainError::NestedIndirect);
    assert_eq!(walk(&[table_of(1)], &[table_of(1)]), nested);
    let entries = [desc(0x1000, 16, NEXT, 1), table_of(1)];
    assert_eq!(walk(&[table_of(2)], &entries), nested);
}

#[test]
fn a_table_of_no_entries_or_of_parts_of_them_is_an_error() {
    let entries = line(4);
    for len in [0, 1, 15, 17, 31, 33, 63, 65, u32::MAX] {
        let outer = desc(TABLE, len, INDIRECT, 0);
        assert_eq!(
            walk(&[outer], &entries),
            Err(ChainError::IndirectSize),
            "{len}"
        );
    }
}

#[test]
fn a_table_that_was_not_negotiated_is_an_error() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(SIZE.into(), RING);
    let mut driver = SplitDriver::new(&ram, layout, false);
    let mut device = Device::new(&ram, &layout);
    let head = driver.add_indirect(&[Buf::readable(GuestAddr(0x9000), 16)], GuestAddr(TABLE));
    device.indirect = false;
    let chain = device.walk_posted(&mut driver, head.expect("descriptors"));
    assert_eq!(chain.err(), Some(ChainError::IndirectNotNegotiated));
}

#[test]
fn a_table_need_not_be_aligned() {
    let ram = Ram::new(MEMORY);
    let at = TABLE + 3;
    let outer = desc(at, 32, INDIRECT, 0);
    assert_eq!(
        walk_in(&ram, SIZE, at, &[outer], &line(2)),
        ordered(&line_segments(2), &[]),
    );
}

#[test]
fn a_table_outside_the_memory_table_is_an_error() {
    let fault = Err(ChainError::IndirectFault);
    for addr in [
        MEMORY as u64 - 15,
        MEMORY as u64,
        u64::MAX - 15,
        u64::MAX - 14,
        u64::MAX,
    ] {
        assert_eq!(
            walk(&[desc(addr, 16, INDIRECT, 0)], &[]),
            fault,
            "{addr:#x}"
        );
    }
    // Only its second entry is outside, and the chain goes there.
    let last = MEMORY as u64 - 16;
    let outer = desc(last, 32, INDIRECT, 0);
    let walked = walk_in(
        &Ram::new(MEMORY),
        SIZE,
        last,
        &[outer],
        &[desc(0, 1, NEXT, 1)],
    );
    assert_eq!(walked, fault);
}

#[test]
fn a_table_straddles_regions_with_different_host_addresses() {
    for cut in 0..=48 {
        let ram = Ram::with_blocks(&[
            (GuestAddr(0), 0x8000 + cut, HostAddr(1 << 40)),
            (GuestAddr(0x8000 + cut as u64), 0x1000, HostAddr(0x77)),
        ]);
        assert_eq!(
            walk_in(&ram, SIZE, TABLE, &[table_of(3)], &line(3)),
            ordered(&line_segments(3), &[]),
            "cut at {cut}",
        );
    }
}

#[test]
fn a_table_with_a_hole_in_it_is_an_error() {
    let ram = Ram::with_blocks(&[
        (GuestAddr(0), 0x8000, HostAddr(1 << 40)),
        (GuestAddr(0x8010), 0x1000, HostAddr(1 << 30)),
    ]);
    let outer = desc(0x7FF0, 48, INDIRECT, 0);
    assert_eq!(
        walk_in(&ram, SIZE, 0x7FF0, &[outer], &[desc(0, 1, NEXT, 1)]),
        Err(ChainError::IndirectFault),
    );
}

#[test]
fn empty_buffers_are_left_out_and_do_not_count_for_the_order() {
    let ring = [
        desc(0x1000, 0, NEXT | WRITE, 1),
        desc(0x2000, 16, NEXT, 2),
        desc(0x3000, 0, NEXT | WRITE, 3),
        desc(0x4000, 1, NEXT, 4),
        desc(0x5000, 1, NEXT | WRITE, 5),
        desc(0x6000, 0, 0, 0),
    ];
    assert_eq!(
        walk(&ring, &[]),
        ordered(
            &[seg(0x2000, 16, false), seg(0x4000, 1, false)],
            &[seg(0x5000, 1, true)],
        ),
    );
}

#[test]
fn empty_buffers_count_for_the_length_of_the_chain() {
    let mut chain = line(SIZE + 1);
    chain.iter_mut().for_each(|desc| desc.len = 0);
    let outer = table_of(u32::from(SIZE) + 1);
    assert_eq!(walk(&[outer], &chain), Err(ChainError::TooLong));
    chain[SIZE as usize - 1].flags = 0;
    assert_eq!(walk(&[outer], &chain), ordered(&[], &[]));
    assert_eq!(walk(&chain[..SIZE as usize], &[]), ordered(&[], &[]));
}

#[test]
fn a_chain_of_empty_buffers_has_none() {
    let ring = [desc(0x1000, 0, NEXT, 1), desc(0x1000, 0, WRITE, 0)];
    assert_eq!(walk(&ring, &[]), ordered(&[], &[]));
}

#[test]
fn a_readable_buffer_behind_a_writable_one_is_noticed() {
    let ring = [
        desc(0x1000, 16, NEXT, 1),
        desc(0x2000, 1, NEXT | WRITE, 2),
        desc(0x3000, 1, 0, 0),
    ];
    let walked = walk(&ring, &[]).expect("walkable");
    assert!(!walked.ordered);
    // Also when the two are on either side of the step into a table.
    let ring = [desc(0x2000, 1, NEXT | WRITE, 1), table_of(1)];
    let walked = walk(&ring, &[desc(0x3000, 1, 0, 0)]).expect("walkable");
    assert!(!walked.ordered);
}

#[test]
fn the_last_byte_is_where_the_chain_ends() {
    let last = |descs: &[Descriptor]| {
        let ram = Ram::new(MEMORY);
        let layout = Layout::with_size(SIZE.into(), RING);
        let mut driver = SplitDriver::new(&ram, layout, false);
        for (index, desc) in descs.iter().enumerate() {
            driver.write_descriptor(index as u16, desc);
        }
        let mut device = Device::new(&ram, &layout);
        let chain = device.walk_posted(&mut driver, 0).expect("walkable");
        chain.last_writable_byte().map(|addr| addr.0)
    };
    assert_eq!(last(&[desc(0x1000, 16, 0, 0)]), None);
    assert_eq!(last(&[desc(0x1000, 16, WRITE, 0)]), Some(0x100F));
    assert_eq!(
        last(&[desc(1, 1, NEXT | WRITE, 1), desc(0x1000, 16, 0, 0)]),
        None,
    );
    assert_eq!(
        last(&[desc(0x1000, 3, NEXT | WRITE, 1), desc(0x5000, 0, 0, 0)]),
        Some(0x1002),
    );
    assert_eq!(last(&[desc(u64::MAX, 1, WRITE, 0)]), Some(u64::MAX));
    assert_eq!(last(&[desc(u64::MAX, 2, WRITE, 0)]), None);
    assert_eq!(last(&[]), None);
}

#[test]
fn two_to_the_32_bytes_do_not_fit_into_a_used_entry() {
    let big = |readable: u32, more: u32, flags: u16| {
        let ring = [desc(0, readable, NEXT, 1), desc(0, more, flags, 0)];
        walk(&ring, &[]).map(|walked| walked.ordered)
    };
    for flags in [0, WRITE] {
        assert_eq!(big(u32::MAX - 1, 1, flags), Ok(true));
        assert_eq!(big(u32::MAX, 1, flags), Err(ChainError::TooManyBytes));
        assert_eq!(big(1, u32::MAX, flags), Err(ChainError::TooManyBytes));
        assert_eq!(
            big(u32::MAX, u32::MAX, flags),
            Err(ChainError::TooManyBytes)
        );
    }
}

#[test]
fn descriptors_are_little_endian() {
    let bytes: [u8; 16] = core::array::from_fn(|i| i as u8 + 1);
    let expected = desc(0x0807_0605_0403_0201, 0x0C0B_0A09, 0x0E0D, 0x100F);
    assert_eq!(Descriptor::from_bytes(&bytes), expected);
    // In the ring they are loaded as two words.
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(SIZE.into(), RING);
    ram.write(layout.descriptor(2), &bytes);
    let ring = SplitRing::new(layout.size, ram.parts(&layout));
    assert_eq!(ring.descriptor(2), Some(expected));
    assert_eq!(ring.descriptor(SIZE), None);
}

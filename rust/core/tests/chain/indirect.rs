// SPDX-License-Identifier: GPL-2.0

//! Descriptors in indirect tables.

use crate::{
    common::{
        desc,
        seg,
        Device,
        INDIRECT,
        NEXT,
        RING,
        WRITE, //
    },
    walked::{
        line,
        line_segments,
        ordered,
        table_of,
        walk,
        walk_in,
        walk_sized,
        Walked,
        MEMORY,
        SIZE,
        TABLE, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::{
        max_segments,
        ChainError,
        Segment,
        MAX_INDIRECT, //
    },
    queue::QueueSize,
    table::{
        MemoryTable,
        Region,
        TableMemory, //
    },
    testing::{
        Buf,
        Layout,
        Ram,
        SplitDriver, //
    },
};

#[test]
fn a_chain_in_the_ring_is_as_long_as_the_queue() {
    for size in [1, 2, 8, 256] {
        let mut ring = line(size);
        assert_eq!(
            walk_sized(size, &ring, &[]),
            ordered(&line_segments(size), &[]),
        );
        // Its last descriptor leads back: one more than there are.
        ring[usize::from(size) - 1].flags = NEXT;
        ring[usize::from(size) - 1].next = 0;
        assert_eq!(walk_sized(size, &ring, &[]), Err(ChainError::TooLong));
    }
}

/// Walks the chain of an indirect table of `count` buffers, which lies behind any ring.
fn walk_table(size: u16, count: u16) -> Result<Walked, ChainError> {
    let at = 0x8_0000;
    let outer = desc(at, u32::from(count) * 16, INDIRECT, 0);
    walk_in(&Ram::new(MEMORY), size, at, &[outer], &line(count))
}

#[test]
fn a_table_has_up_to_1024_buffers_or_as_many_as_the_queue_and_no_more() {
    assert_eq!(MAX_INDIRECT, 1024);
    for (size, most) in [
        (1, 1024),
        (8, 1024),
        (512, 1024),
        (1024, 1024),
        (2048, 2048),
        (8192, 8192),
    ] {
        let queue_size = QueueSize::new(size.into()).expect("a size");
        assert_eq!(max_segments(queue_size), usize::from(most));
        let whole = ordered(&line_segments(most), &[]);
        assert_eq!(walk_table(size, most), whole, "{size}");
        assert_eq!(walk_table(size, most + 1), Err(ChainError::TooLong));
    }
    // Any number up to there, over the ends of what is read at once.
    for count in 1..40 {
        let all = ordered(&line_segments(count), &[]);
        assert_eq!(walk_table(8, count), all);
    }
    let largest = QueueSize::new(32768).expect("a size");
    assert_eq!(max_segments(largest), 32768);
}

#[test]
fn the_ring_part_and_the_table_together_are_as_long_as_a_table() {
    let mut ring = line(4);
    ring[3] = table_of(1022);
    let most = usize::from(MAX_INDIRECT);
    let walked = walk(&ring, &line(1021)).map(|w| w.readable.len());
    assert_eq!(walked, Ok(most));
    assert_eq!(walk(&ring, &line(1022)), Err(ChainError::TooLong));
}

#[test]
fn a_table_may_have_more_entries_than_a_chain_may_have_buffers() {
    let mut entries = vec![desc(0, 0, 0, 0); 1300];
    entries[0] = desc(0x1000, 16, NEXT, 1299);
    entries[1299] = desc(0x2000, 1, NEXT | WRITE, 100);
    entries[100] = desc(0x3000, 1, WRITE, 0);
    assert_eq!(
        walk(&[table_of(1300)], &entries),
        ordered(
            &[seg(0x1000, 16, false)],
            &[seg(0x2000, 1, true), seg(0x3000, 1, true)],
        ),
    );
}

#[test]
fn segments_without_room_for_a_chain_are_an_error() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(SIZE.into(), RING);
    let mut driver = SplitDriver::new(&ram, layout, false);
    let bufs = [Buf::readable(GuestAddr(0x9000), 16); 4];
    driver.add_indirect(&bufs, GuestAddr(TABLE));
    driver.publish();
    let mut device = Device::new(&ram, &layout);
    let head = device.pop();
    let memory = TableMemory {
        table: &device.table,
        memory: &ram,
    };
    let mut segments = [Segment::default(); 4];
    let walked = device.ring.walk(head, true, &memory, &mut segments[..3]);
    assert_eq!(walked.err(), Some(ChainError::TooLong));
    assert!(device.ring.walk(head, true, &memory, &mut segments).is_ok());
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
    let fault = Err(ChainError::IndirectOutsideTable);
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
        Err(ChainError::IndirectOutsideTable),
    );
}

#[test]
fn a_table_that_the_host_can_not_read_is_not_the_mistake_of_the_guest() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(SIZE.into(), RING);
    let mut driver = SplitDriver::new(&ram, layout, false);
    let mut device = Device::new(&ram, &layout);
    // The memory table promises more than there is.
    let region = Region::new(GuestAddr(0), 2 * MEMORY as u64, HostAddr(1 << 40));
    device.table = MemoryTable::new(vec![region.expect("a region")]).expect("a table");
    driver.write_descriptor(0, &desc(MEMORY as u64, 16, INDIRECT, 0));
    let error = device.walk_posted(&mut driver, 0).expect_err("no memory");
    assert_eq!(error, ChainError::IndirectInaccessible);
    assert!(error.is_host_failure());
    for mistake in [
        ChainError::TooLong,
        ChainError::NextOutOfRange,
        ChainError::IndirectNotNegotiated,
        ChainError::IndirectWithNext,
        ChainError::NestedIndirect,
        ChainError::IndirectSize,
        ChainError::IndirectOutsideTable,
        ChainError::TooManyBytes,
    ] {
        assert!(!mistake.is_host_failure());
    }
}

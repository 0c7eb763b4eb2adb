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
    chain::ChainError,
    testing::{
        Buf,
        Layout,
        Ram,
        SplitDriver, //
    },
};

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

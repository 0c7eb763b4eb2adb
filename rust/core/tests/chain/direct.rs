// SPDX-License-Identifier: GPL-2.0

//! Descriptors in the ring itself.

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
        ordered,
        table_of,
        walk,
        walk_sized,
        MEMORY,
        SIZE, //
    },
};
use vblk_core::{
    chain::{
        ChainError,
        MAX_INDIRECT, //
    },
    queue::Popped,
    split::{
        Descriptor,
        SplitRing, //
    },
    testing::{
        DriverMemory,
        Layout,
        Ram,
        SplitDriver, //
    },
};

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
    let mut chain = line(MAX_INDIRECT + 1);
    chain.iter_mut().for_each(|desc| desc.len = 0);
    let outer = table_of(u32::from(MAX_INDIRECT) + 1);
    assert_eq!(walk(&[outer], &chain), Err(ChainError::TooLong));
    chain[MAX_INDIRECT as usize - 1].flags = 0;
    assert_eq!(walk(&[outer], &chain), ordered(&[], &[]));
    // In the ring itself the bound is its size.
    chain[SIZE as usize - 1].next = 0;
    let ring = &mut chain[..SIZE as usize];
    assert_eq!(walk(ring, &[]), Err(ChainError::TooLong));
    ring[SIZE as usize - 1].flags = 0;
    assert_eq!(walk(ring, &[]), ordered(&[], &[]));
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
fn the_length_of_a_status_alone_is_told_if_there_is_no_gap_before_it() {
    // "The device MUST write at least len bytes to descriptor, beginning at the first
    // device-writable buffer" (virtio 1.2, 2.7.8.2).
    let len = |descs: &[Descriptor]| {
        let ram = Ram::new(MEMORY);
        let layout = Layout::with_size(SIZE.into(), RING);
        let mut driver = SplitDriver::new(&ram, layout, false);
        for (index, desc) in descs.iter().enumerate() {
            driver.write_descriptor(index as u16, desc);
        }
        let mut device = Device::new(&ram, &layout);
        let chain = device.walk_posted(&mut driver, 0).expect("walkable");
        chain.status_len()
    };
    let header = desc(0x1000, 16, NEXT, 1);
    assert_eq!(len(&[header, desc(0x2000, 1, WRITE, 0)]), 1);
    assert_eq!(len(&[desc(0x2000, 1, WRITE, 0)]), 1);
    assert_eq!(len(&[header, desc(0x2000, 2, WRITE, 0)]), 0);
    let data = desc(0x2000, 512, NEXT | WRITE, 2);
    assert_eq!(len(&[header, data, desc(0x3000, 1, WRITE, 0)]), 0);
    assert_eq!(len(&[header, desc(0x2000, 1, 0, 0)]), 0);
    // Not in order: where the writable bytes begin is not looked at.
    let early = desc(0x1000, 1, NEXT | WRITE, 1);
    assert_eq!(len(&[early, desc(0x2000, 1, 0, 0)]), 0);
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

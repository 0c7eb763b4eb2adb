// SPDX-License-Identifier: GPL-2.0

//! Chains that are taken and given back.

use crate::{
    common::RING,
    queue::{
        Queue,
        MEMORY, //
    },
};
use vblk_core::{
    addr::GuestAddr,
    queue::{
        Popped,
        QueueSize,
        RingError, //
    },
    split::{
        parts,
        Avail,
        Used, //
    },
    testing::{
        Buf,
        DriverMemory,
        Layout,
        Ram,
        UsedEntry, //
    },
};

#[test]
fn sizes_are_powers_of_two_up_to_32768() {
    let valid: Vec<_> = (0..=70_000)
        .filter(|&s| QueueSize::new(s).is_some())
        .collect();
    assert_eq!(valid, (0..16).map(|i| 1 << i).collect::<Vec<u32>>());
    for size in [1 << 16, 1 << 20, 1 << 31, u32::MAX] {
        assert_eq!(QueueSize::new(size), None);
    }
}

#[test]
fn parts_are_as_long_as_the_specification_says() {
    // 16 * size, 6 + 2 * size, 6 + 8 * size (virtio 1.2, 2.7).
    for size in (0..16).map(|i| 1 << i) {
        let queue = QueueSize::new(size).expect("a size");
        let size = size as usize;
        let parts = parts(queue);
        assert_eq!((parts.desc.bytes, parts.desc.align), (16 * size, 16));
        assert_eq!((parts.driver.bytes, parts.driver.align), (6 + 2 * size, 2));
        assert_eq!((parts.device.bytes, parts.device.align), (6 + 8 * size, 4));
        let written = [parts.desc, parts.driver, parts.device].map(|part| part.written);
        assert_eq!(written, [false, false, true]);
    }
}

#[test]
fn an_empty_ring_has_nothing() {
    let ram = Ram::new(MEMORY);
    for start in [0, 1, 32768, 65535] {
        let mut queue = Queue::new(&ram, 8, false, start);
        assert_eq!(queue.pop(), Ok(Popped::Empty));
        assert_eq!(queue.avail.position(), start);
    }
}

#[test]
fn chains_are_taken_in_order_once_they_are_published() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 0);
    let buf = [Buf::readable(GuestAddr(0), 1)];
    let heads = [(); 3].map(|()| queue.driver.add(&buf).expect("a free descriptor"));
    assert_eq!(queue.pop(), Ok(Popped::Empty));
    queue.driver.publish();
    for head in heads {
        assert_eq!(queue.take().index(), head);
    }
    assert_eq!(queue.pop(), Ok(Popped::Empty));
    assert_eq!(queue.avail.position(), 3);
}

#[test]
fn a_full_ring_is_possible_and_one_more_entry_is_not() {
    let ram = Ram::new(MEMORY);
    for size in [1, 2, 8, 32768] {
        for start in [0, 5, 32768, 65535] {
            let mut queue = Queue::new(&ram, size, false, start);
            let claimed = start.wrapping_add(size as u16).wrapping_add(1);
            queue.driver.write_avail_index(claimed);
            let impossible = RingError::AvailIndex {
                next: start,
                claimed,
            };
            assert_eq!(queue.pop(), Err(impossible));
            assert_eq!(queue.enable_notify(), Err(impossible));
            assert_eq!(queue.avail.position(), start);
            // It is not believed the second time either, but may be mended.
            assert_eq!(queue.pop(), Err(impossible));
            queue.driver.write_avail_index(claimed.wrapping_sub(1));
            for _ in 0..size {
                assert!(matches!(queue.pop(), Ok(Popped::Chain(_))));
            }
            assert_eq!(queue.pop(), Ok(Popped::Empty));
        }
    }
}

#[test]
fn an_index_that_goes_back_is_impossible() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 3);
    queue.driver.write_avail_index(2);
    let impossible = RingError::AvailIndex {
        next: 3,
        claimed: 2,
    };
    assert_eq!(queue.pop(), Err(impossible));
}

#[test]
fn any_index_is_judged_by_its_distance() {
    let ram = Ram::new(MEMORY);
    for start in [0, 4, 65532] {
        for claimed in 0..=u16::MAX {
            let mut queue = Queue::new(&ram, 8, false, start);
            queue.driver.write_avail_index(claimed);
            let distance = (i32::from(claimed) - i32::from(start)).rem_euclid(1 << 16);
            match queue.pop() {
                Ok(Popped::Empty) => assert_eq!(distance, 0),
                Ok(_) => assert!((1..=8).contains(&distance)),
                Err(_) => assert!(distance > 8),
            }
        }
    }
}

#[test]
fn used_entries_come_in_order_with_head_and_length() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 4, false, 65534);
    let heads = [(); 4].map(|()| queue.submit());
    let taken = [(); 4].map(|()| queue.take());
    // Given back in another order than taken, across the wrap of the index.
    for (at, len) in [(2, 0), (0, 1), (3, u32::MAX), (1, 7)] {
        queue.give(taken[at], len);
        let id = heads[at].into();
        assert_eq!(queue.driver.poll_used(), Some(UsedEntry { id, len }));
        assert_eq!(queue.driver.poll_used(), None);
    }
    assert_eq!(queue.driver.used_index(), 2);
    assert_eq!(queue.driver.free(), 4);
}

#[test]
fn the_used_half_goes_on_where_the_ring_stands() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 4, false, 65533);
    queue.turn();
    queue.used = Used::new(&queue.ring, false);
    queue.turn();
    assert_eq!(queue.driver.used_index(), 65535);
}

#[test]
fn the_available_half_goes_on_at_its_base() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 4, true, 65535);
    let (first, second) = (queue.submit(), queue.submit());
    assert_eq!(queue.take().index(), first);
    // Not what was seen, but what was taken, is the position.
    assert_eq!(queue.avail.position(), 0);
    queue.avail = Avail::new(queue.avail.position(), true);
    assert_eq!(queue.take().index(), second);
    assert_eq!(queue.pop(), Ok(Popped::Empty));
}

/// Runs `rounds` batches of 1 to `size` chains through a queue, obeying every suppression on both
/// sides, and checks that nothing gets stuck: each side only looks when it was told to.
fn run_by_the_rules(size: u32, event_idx: bool, rounds: u32) {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, size, event_idx, 65000);
    assert_eq!(queue.enable_notify(), Ok(false));
    assert!(!queue.driver.enable_interrupt());
    for round in 0..rounds {
        let batch = 1 + round % size;
        for _ in 0..batch {
            queue.submit();
        }
        assert!(queue.driver.needs_kick(), "round {round}");
        queue.disable_notify();
        let mut popped = 0;
        loop {
            while let Popped::Chain(head) = queue.pop().expect("possible") {
                queue.give(head, popped);
                popped += 1;
            }
            if !queue.enable_notify().expect("possible") {
                break;
            }
        }
        assert_eq!(popped, batch);
        assert!(queue.should_interrupt(), "round {round}");
        assert!(!queue.should_interrupt() || !event_idx);
        for len in 0..batch {
            let entry = queue.driver.poll_used().expect("a used entry");
            assert_eq!(entry.len, len);
        }
        assert!(!queue.driver.enable_interrupt());
    }
    assert_eq!(queue.driver.free(), size as usize);
}

#[test]
fn nothing_is_lost_across_the_wrap_with_flags() {
    run_by_the_rules(1, false, 70_000);
    run_by_the_rules(8, false, 40_000);
    run_by_the_rules(256, false, 2_000);
}

#[test]
fn nothing_is_lost_across_the_wrap_with_event_index() {
    run_by_the_rules(1, true, 70_000);
    run_by_the_rules(8, true, 40_000);
    run_by_the_rules(256, true, 2_000);
}

#[test]
fn the_largest_queue_works_to_its_last_entry() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 32768, true, 40_000);
    let heads: Vec<_> = (0..32768).map(|_| queue.submit()).collect();
    let taken: Vec<_> = heads.iter().map(|_| queue.take()).collect();
    assert_eq!(queue.pop(), Ok(Popped::Empty));
    for (head, taken) in heads.iter().zip(taken) {
        queue.give(taken, 9);
        let id = u32::from(*head);
        assert_eq!(queue.driver.poll_used(), Some(UsedEntry { id, len: 9 }));
    }
}

#[test]
fn only_the_fields_of_the_device_are_written() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(8, RING);
    let mut queue = Queue::new(&ram, 8, true, 0);
    ram.fill(layout.end(), 64, 0xA5);
    let before = ram.read_vec(RING, (layout.used.0 - RING.0) as usize);
    queue.enable_notify().expect("possible");
    queue.disable_notify();
    let driver_side = ram.read_vec(RING, before.len());
    assert_eq!(driver_side, before);
    (0..9).for_each(|_| queue.turn());
    let avail = layout.avail.0 - RING.0;
    let now = ram.read_vec(RING, before.len());
    // Only what the driver itself wrote there: descriptors are as it left them, event index too.
    assert_eq!(now[avail as usize..][..2], before[avail as usize..][..2]);
    assert_eq!(now[before.len() - 2..], before[before.len() - 2..]);
    assert_eq!(ram.read_vec(layout.end(), 64), [0xA5; 64]);
}

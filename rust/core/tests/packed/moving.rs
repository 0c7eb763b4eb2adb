// SPDX-License-Identifier: GPL-2.0

//! Chains that are taken and given back, many times around the ring.

use crate::{
    common::RING,
    queue::Queue,
    MEMORY, //
};
use vblk_core::{
    addr::GuestAddr,
    packed::{
        parts,
        Avail,
        Descriptor,
        Used, //
    },
    queue::{
        Popped,
        QueueSize, //
    },
    testing::{
        Buf,
        DriverMemory,
        Layout,
        Ram,
        UsedEntry, //
    },
    wrap::{
        off_wrap,
        position, //
    },
};

#[test]
fn parts_are_as_long_as_the_specification_says() {
    // 16 * size, 4, 4 (virtio 1.2, 2.8.10.1).
    for size in (0..16).map(|i| 1 << i) {
        let parts = parts(QueueSize::new(size).expect("a size"));
        assert_eq!(
            (parts.desc.bytes, parts.desc.align),
            (16 * size as usize, 16)
        );
        assert_eq!((parts.driver.bytes, parts.driver.align), (4, 4));
        assert_eq!((parts.device.bytes, parts.device.align), (4, 4));
        let written = [parts.desc, parts.driver, parts.device].map(|part| part.written);
        assert_eq!(written, [true, false, true]);
    }
}

#[test]
fn positions_are_places_with_a_wrap_counter_that_begins_with_one() {
    for size in (0..16).map(|i| 1 << i) {
        let queue = QueueSize::new(size).expect("a size");
        let (mut place, mut wrap) = (0, 1);
        for at in 0..=u16::MAX {
            assert_eq!(off_wrap(queue, at), place | wrap << 15);
            let back = position(queue, off_wrap(queue, at)).expect("a place");
            assert_eq!(u32::from(at.wrapping_sub(back)) % (2 * size), 0);
            place += 1;
            if u32::from(place) == size {
                (place, wrap) = (0, wrap ^ 1);
            }
        }
        let outside = (size as u16..=0x7FFF).flat_map(|off| [off, off | 1 << 15]);
        assert!(outside
            .into_iter()
            .all(|off| position(queue, off).is_none()));
    }
}

#[test]
fn an_empty_ring_has_nothing_whatever_the_wrap_counter() {
    let ram = Ram::new(MEMORY);
    for size in [1, 2, 8, 32768] {
        for start in [0, 1, 7, 8, 15, 32767, 32768, 65535] {
            let mut queue = Queue::new(&ram, size, false, start);
            assert_eq!(queue.pop(), Ok(Popped::Empty));
            assert_eq!(queue.avail.position(), start);
            assert!(!queue.enable_notify());
        }
    }
}

#[test]
fn chains_are_taken_in_order_once_they_are_published() {
    let ram = Ram::new(MEMORY);
    for start in [0, 3, 6, 65533] {
        let mut queue = Queue::new(&ram, 8, false, start);
        let buf = [Buf::readable(GuestAddr(0), 1); 3];
        let ids = [3, 1, 2].map(|count| queue.driver.add(&buf[..count]).expect("room"));
        assert_eq!(queue.pop(), Ok(Popped::Empty));
        queue.driver.publish();
        for (id, (from, count)) in ids.into_iter().zip([(0, 3), (3, 1), (4, 2)]) {
            let head = queue.take();
            assert_eq!(head.index(), start.wrapping_add(from));
            assert_eq!((head.id(), head.count()), (id, count));
        }
        assert_eq!(queue.pop(), Ok(Popped::Empty));
        assert_eq!(queue.avail.position(), start.wrapping_add(6));
    }
}

#[test]
fn the_flags_are_those_of_the_wrap_counter() {
    // Driver and device write what virtio 1.2, 2.8.1 says, seen from outside of both.
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(4, RING);
    let mut queue = Queue::new(&ram, 4, false, 0);
    for round in 0..5 {
        let (avail, used) = if round % 2 == 0 {
            (0x80, 0x8080)
        } else {
            (0x8000, 0)
        };
        for place in 0..4 {
            let flags = || ram.load_u16(layout.packed_flags(place)) & 0x8080;
            queue.submit();
            assert_eq!(u16::from_le(flags()), avail);
            let head = queue.take();
            queue.give(head, 0);
            assert_eq!(u16::from_le(flags()), used);
            queue.driver.poll_used().expect("a used descriptor");
        }
    }
}

#[test]
fn chains_come_back_in_any_order_with_id_and_length() {
    let ram = Ram::new(MEMORY);
    for start in [0, 1, 5, 7, 65534] {
        let mut queue = Queue::new(&ram, 8, false, start);
        for round in 0..5 {
            let ids = [2, 1, 4, 1].map(|count| queue.submit_long(count));
            assert!(queue
                .driver
                .add(&[Buf::readable(GuestAddr(0), 1)])
                .is_none());
            let taken = [(); 4].map(|()| queue.take());
            assert_eq!(queue.pop(), Ok(Popped::Empty));
            for (at, len) in [(2, 0), (0, 1), (3, u32::MAX), (1, 7)] {
                queue.give(taken[at], len);
                let id = ids[at].into();
                assert_eq!(queue.driver.poll_used(), Some(UsedEntry { id, len }));
                assert_eq!(queue.driver.poll_used(), None);
            }
            assert_eq!(queue.driver.free(), 8, "round {round}");
        }
    }
}

#[test]
fn a_used_descriptor_says_whether_its_length_counts() {
    // "Element length is reserved for used descriptors without the VIRTQ_DESC_F_WRITE flag"
    // (virtio 1.2, 2.8.4).
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 4, false, 0);
    for (at, len) in [0, 1, 513, 0].into_iter().enumerate() {
        queue.submit();
        let head = queue.take();
        queue.give(head, len);
        let written = queue.driver.flags(at as u16) & Descriptor::F_WRITE != 0;
        assert_eq!(written, len > 0);
    }
}

#[test]
fn the_id_is_that_of_the_last_descriptor() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 6);
    const NEXT: u16 = Descriptor::F_NEXT;
    let desc = |id, flags| Descriptor {
        id,
        flags,
        ..Descriptor::default()
    };
    queue
        .driver
        .post(&[desc(1, NEXT), desc(2, NEXT), desc(3, 0)]);
    queue.driver.publish();
    assert_eq!(queue.take().id(), 3);
}

/// Runs `rounds` batches of chains of 1 to 3 descriptors through a queue, obeying every
/// suppression on both sides, and checks that nothing gets stuck: each side only looks when it was
/// told to.
fn run_by_the_rules(size: u32, event_idx: bool, rounds: u32) {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, size, event_idx, 65000);
    assert!(!queue.enable_notify());
    assert!(!queue.driver.enable_interrupt_after(0));
    for round in 0..rounds {
        let mut batch = 0;
        let mut room = 1 + round % size;
        while room > 0 {
            let count = (1 + (round + batch) % 3).min(room);
            queue.submit_long(count as usize);
            batch += 1;
            room -= count;
        }
        assert!(queue.driver.needs_kick(), "round {round}");
        queue.disable_notify();
        let mut popped = 0;
        loop {
            while let Popped::Chain(head) = queue.pop().expect("possible") {
                queue.give(head, popped);
                popped += 1;
            }
            if !queue.enable_notify() {
                break;
            }
        }
        assert_eq!(popped, batch);
        assert!(queue.should_interrupt(), "round {round}");
        assert!(!queue.should_interrupt() || !event_idx);
        for len in 0..batch {
            let entry = queue.driver.poll_used().expect("a used descriptor");
            assert_eq!(entry.len, len);
        }
        assert!(!queue.driver.enable_interrupt_after(0));
    }
    assert_eq!(queue.driver.free(), size as usize);
}

#[test]
fn nothing_is_lost_many_times_around_with_flags() {
    run_by_the_rules(1, false, 70_000);
    run_by_the_rules(8, false, 40_000);
    run_by_the_rules(256, false, 2_000);
}

#[test]
fn nothing_is_lost_many_times_around_with_event_index() {
    run_by_the_rules(1, true, 70_000);
    run_by_the_rules(2, true, 70_000);
    run_by_the_rules(8, true, 40_000);
    run_by_the_rules(256, true, 2_000);
}

#[test]
fn the_largest_queue_works_over_the_wrap_of_positions() {
    let ram = Ram::new(MEMORY);
    for start in [0, 32768, 40_000] {
        let mut queue = Queue::new(&ram, 32768, true, start);
        for round in 0..3 {
            let ids: Vec<_> = (0..32768 / 4).map(|_| queue.submit_long(4)).collect();
            let taken: Vec<_> = ids.iter().map(|_| queue.take()).collect();
            assert_eq!(queue.pop(), Ok(Popped::Empty), "round {round}");
            for (id, taken) in ids.iter().zip(taken) {
                queue.give(taken, 9);
                let id = u32::from(*id);
                assert_eq!(queue.driver.poll_used(), Some(UsedEntry { id, len: 9 }));
            }
        }
    }
}

#[test]
fn both_halves_go_on_at_their_positions() {
    let ram = Ram::new(MEMORY);
    for start in [0, 3, 7, 11, 65535] {
        let mut queue = Queue::new(&ram, 4, true, start);
        for _ in 0..9 {
            let (first, second) = (queue.submit(), queue.submit_long(2));
            let head = queue.take();
            assert_eq!(head.id(), first);
            queue.give(head, 0);
            let stands = (queue.avail.position(), queue.used.position());
            let stands = [stands.0, stands.1].map(|at| off_wrap(queue.size(), at));
            let [avail, used] = stands.map(|at| position(queue.size(), at).expect("a place"));
            queue.avail = Avail::new(avail, true);
            queue.used = Used::new(used, true);
            let head = queue.take();
            assert_eq!((head.id(), head.count()), (second, 2));
            queue.give(head, 0);
            assert!(queue.driver.poll_used().is_some() && queue.driver.poll_used().is_some());
        }
    }
}

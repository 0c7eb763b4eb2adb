// SPDX-License-Identifier: GPL-2.0

//! Both halves of a ring: taking and giving back across the wrap, kicks and interrupts.

mod common;

use common::RING;
use vblk_core::{
    addr::GuestAddr,
    queue::{
        Head,
        Popped,
        QueueSize, //
    },
    split::{
        parts,
        Avail,
        ImpossibleIndex,
        SplitRing,
        Used, //
    },
    testing::{
        Buf,
        DriverMemory,
        Layout,
        Ram,
        RamPart,
        SplitDriver,
        UsedEntry, //
    },
};

const MEMORY: usize = 0x10_0000;

/// A driver and a device on one ring, both beginning at the same index.
struct Queue<'a> {
    driver: SplitDriver<&'a Ram>,
    ring: SplitRing<RamPart<'a>>,
    avail: Avail,
    used: Used,
}

impl<'a> Queue<'a> {
    fn new(ram: &'a Ram, size: u32, event_idx: bool, start: u16) -> Self {
        let layout = Layout::with_size(size, RING);
        let driver = SplitDriver::starting_at(ram, layout, event_idx, start);
        let ring = SplitRing::new(layout.size, ram.parts(&layout));
        Self {
            driver,
            avail: Avail::new(start, event_idx),
            used: Used::new(&ring, event_idx),
            ring,
        }
    }

    /// Makes one chain of one buffer available.
    fn submit(&mut self) -> u16 {
        let head = self.driver.add(&[Buf::readable(GuestAddr(0), 1)]);
        self.driver.publish();
        head.expect("a free descriptor")
    }

    fn pop(&mut self) -> Result<Popped, ImpossibleIndex> {
        self.avail.pop(&self.ring)
    }

    fn take(&mut self) -> Head {
        match self.pop() {
            Ok(Popped::Chain(head)) => head,
            other => panic!("a chain should be there, not {other:?}"),
        }
    }

    fn give(&mut self, head: Head, len: u32) {
        self.used.push(&self.ring, head, len);
    }

    /// One chain all the way there and back, nobody being told.
    fn turn(&mut self) {
        self.submit();
        let head = self.take();
        self.give(head, 0);
        self.driver.poll_used().expect("a used entry");
    }

    fn enable_notify(&mut self) -> Result<bool, ImpossibleIndex> {
        self.avail.enable_notify(&self.ring)
    }

    fn disable_notify(&mut self) {
        self.avail.disable_notify(&self.ring);
    }

    fn should_interrupt(&mut self) -> bool {
        self.used.should_interrupt(&self.ring)
    }
}

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
            let impossible = ImpossibleIndex {
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
    let impossible = ImpossibleIndex {
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
    let mut queue = Queue::new(&ram, 4, false, 65535);
    queue.turn();
    queue.used = Used::new(&queue.ring, false);
    queue.turn();
    assert_eq!(queue.driver.used_index(), 1);
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
fn kicks_are_suppressed_while_the_queue_is_served() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        for start in [0, 65533, 65535] {
            let mut queue = Queue::new(&ram, 8, event_idx, start);
            assert_eq!(queue.enable_notify(), Ok(false));
            queue.submit();
            assert!(queue.driver.needs_kick());
            queue.disable_notify();
            queue.take();
            for _ in 0..3 {
                queue.submit();
                assert!(!queue.driver.needs_kick());
            }
            for _ in 0..3 {
                queue.take();
            }
            assert_eq!(queue.enable_notify(), Ok(false));
            queue.submit();
            assert!(queue.driver.needs_kick());
        }
    }
}

#[test]
fn enabling_finds_what_came_in_between() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        for start in [0, 65535] {
            let mut queue = Queue::new(&ram, 8, event_idx, start);
            assert_eq!(queue.enable_notify(), Ok(false));
            queue.submit();
            queue.driver.needs_kick();
            queue.disable_notify();
            queue.take();
            assert_eq!(queue.pop(), Ok(Popped::Empty));
            // Here comes another, for which no kick is due.
            let head = queue.submit();
            assert!(!queue.driver.needs_kick());
            assert_eq!(queue.enable_notify(), Ok(true));
            assert_eq!(queue.take().index(), head);
            assert_eq!(queue.enable_notify(), Ok(false));
        }
    }
}

#[test]
fn enabling_takes_back_a_suppression_that_was_left_in_the_ring() {
    // Whoever served the ring before stopped in the middle.
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 0);
    queue.disable_notify();
    queue.enable_notify().expect("possible");
    queue.disable_notify();
    assert_eq!(queue.driver.used_flags(), 1);
    queue.avail = Avail::new(0, false);
    assert_eq!(queue.enable_notify(), Ok(false));
    assert_eq!(queue.driver.used_flags(), 0);
    queue.submit();
    assert!(queue.driver.needs_kick());
}

#[test]
fn enabling_asks_for_the_next_entry_with_event_index() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, true, 65534);
    for expected in [65534, 65535, 0, 1] {
        assert_eq!(queue.enable_notify(), Ok(false));
        assert_eq!(queue.driver.avail_event(), expected);
        // "The device MUST set flags to 0" with event index (virtio 1.2, 2.7.10.2).
        assert_eq!(queue.driver.used_flags(), 0);
        queue.turn();
    }
}

#[test]
fn interrupts_are_suppressed_by_flag() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 65535);
    for _ in 0..3 {
        queue.driver.disable_interrupt();
        queue.turn();
        assert!(!queue.should_interrupt());
        queue.driver.enable_interrupt();
        queue.turn();
        assert!(queue.should_interrupt());
    }
    // Other bits of the flags mean nothing.
    queue.driver.write_avail_flags(0xFFFE);
    queue.turn();
    assert!(queue.should_interrupt());
}

#[test]
fn the_flag_of_the_driver_is_ignored_with_event_index() {
    // "The device MUST ignore the lower bit of flags" (virtio 1.2, 2.7.7.2).
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, true, 0);
    queue.driver.write_avail_flags(1);
    queue.turn();
    assert!(queue.should_interrupt());
    queue.driver.enable_interrupt();
    queue.turn();
    assert!(queue.should_interrupt());
}

#[test]
fn the_first_decision_with_event_index_is_to_interrupt() {
    // What was decided before is not known, so that the safe answer is given.
    let ram = Ram::new(MEMORY);
    for event in [0, 1, 2, 32768, 65535] {
        let mut queue = Queue::new(&ram, 8, true, 0);
        queue.turn();
        queue.driver.write_used_event(event);
        assert!(queue.should_interrupt());
    }
}

#[test]
fn one_interrupt_answers_a_batch_with_event_index() {
    let ram = Ram::new(MEMORY);
    for start in [0, 65530, 65533, 65535] {
        let mut queue = Queue::new(&ram, 8, true, start);
        queue.turn();
        assert!(queue.should_interrupt());
        // Only when the third of these was given back.
        assert!(!queue.driver.enable_interrupt_after(2));
        for third in [false, false, true, false, false] {
            queue.turn();
            assert_eq!(queue.should_interrupt(), third);
        }
        // The same, decided once for all.
        assert!(!queue.driver.enable_interrupt_after(2));
        (0..5).for_each(|_| queue.turn());
        assert!(queue.should_interrupt());
        assert!(!queue.should_interrupt());
    }
}

#[test]
fn a_driver_that_enabled_interrupts_sees_what_came_in_between() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        let mut queue = Queue::new(&ram, 8, event_idx, 65535);
        queue.turn();
        queue.should_interrupt();
        queue.driver.disable_interrupt();
        queue.submit();
        let head = queue.take();
        queue.give(head, 0);
        assert!(!queue.should_interrupt());
        assert!(queue.driver.enable_interrupt());
    }
}

#[test]
fn no_interrupt_is_lost_when_the_used_index_went_all_the_way_round() {
    // "Again after the 65536th buffer" (virtio 1.2, 2.7.7.2).
    let ram = Ram::new(MEMORY);
    for pushes in [65535, 65536, 65537, 65535 + 65536] {
        let mut queue = Queue::new(&ram, 8, true, 0);
        queue.turn();
        assert!(queue.should_interrupt());
        queue.driver.enable_interrupt();
        (0..pushes).for_each(|_| queue.turn());
        assert!(queue.should_interrupt(), "after {pushes}");
    }
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

// SPDX-License-Identifier: GPL-2.0

//! Kicks and interrupts, at every place of the ring.

use crate::{
    common::RING,
    queue::Queue,
    MEMORY, //
};
use vblk_core::{
    addr::GuestAddr,
    queue::Popped,
    testing::{
        DriverMemory,
        Layout,
        Ram, //
    },
    wrap::off_wrap,
};

const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

#[test]
fn kicks_are_suppressed_while_the_queue_is_served() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        for start in (0..16).chain(65520..=65535) {
            let mut queue = Queue::new(&ram, 8, event_idx, start);
            assert!(!queue.enable_notify());
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
            assert!(!queue.enable_notify());
            queue.submit();
            assert!(queue.driver.needs_kick());
        }
    }
}

#[test]
fn a_drain_without_end_is_kicked_at_most_once_in_twice_around() {
    let ram = Ram::new(MEMORY);
    for (event_idx, most) in [(false, 0), (true, 10)] {
        let mut queue = Queue::new(&ram, 8, event_idx, 5);
        queue.enable_notify();
        queue.submit();
        assert!(queue.driver.needs_kick());
        queue.disable_notify();
        queue.take();
        let mut kicks = 0;
        for _ in 0..160 {
            queue.submit();
            kicks += u32::from(queue.driver.needs_kick());
            let head = queue.take();
            queue.give(head, 0);
            queue.driver.poll_used();
        }
        assert!(kicks <= most, "{kicks}");
    }
}

#[test]
fn enabling_finds_what_came_in_between() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        for start in [0, 6, 7, 8, 65535] {
            let mut queue = Queue::new(&ram, 8, event_idx, start);
            assert!(!queue.enable_notify());
            queue.submit();
            queue.driver.needs_kick();
            queue.disable_notify();
            queue.take();
            assert_eq!(queue.pop(), Ok(Popped::Empty));
            // Here comes another, for which no kick is due.
            let id = queue.submit();
            assert!(!queue.driver.needs_kick());
            assert!(queue.enable_notify());
            assert_eq!(queue.avail.known_left(), 1);
            assert_eq!(queue.take().id(), id);
            assert!(!queue.enable_notify());
        }
    }
}

#[test]
fn enabling_takes_back_what_was_left_in_the_ring() {
    // The device that served the ring before stopped in the middle, perhaps with other features.
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(8, RING);
    for (event_idx, flags) in [(false, ENABLE), (true, DESC)] {
        for before in [DISABLE, DESC, ENABLE] {
            let mut queue = Queue::new(&ram, 8, event_idx, 0);
            ram.store_u16(GuestAddr(layout.used.0 + 2), before.to_le());
            assert!(!queue.enable_notify());
            assert_eq!(queue.driver.device_event().1, flags);
            queue.submit();
            assert!(queue.driver.needs_kick());
        }
    }
}

#[test]
fn enabling_asks_for_the_next_place_with_event_index() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 4, true, 2);
    for expected in [0x8002, 0x8003, 0, 1, 2, 3, 0x8000, 0x8001, 0x8002] {
        assert!(!queue.enable_notify());
        assert_eq!(queue.driver.device_event(), (expected, DESC));
        assert!(queue.driver.device_waits());
        queue.disable_notify();
        assert_eq!(queue.driver.device_event(), (expected, DESC));
        queue.turn();
    }
}

#[test]
fn interrupts_are_suppressed_by_flag() {
    let ram = Ram::new(MEMORY);
    for event_idx in [false, true] {
        let mut queue = Queue::new(&ram, 8, event_idx, 65535);
        for _ in 0..3 {
            queue.driver.disable_interrupt();
            queue.turn();
            assert!(!queue.should_interrupt());
            queue.driver.enable_interrupt_after(0);
            queue.turn();
            assert!(queue.should_interrupt());
        }
        // Reserved bits mean nothing.
        for (flags, wanted) in [(0xFFFC, true), (0xFFFD, false), (3, true)] {
            queue.driver.write_driver_event(0, flags);
            queue.turn();
            assert_eq!(queue.should_interrupt(), wanted, "{flags:x}");
        }
    }
}

#[test]
fn a_place_to_interrupt_at_is_everywhere_without_event_index() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 0);
    for event in [0, 1, 5, 0x8000, 0xFFFF] {
        queue.driver.write_driver_event(event, DESC);
        queue.turn();
        assert!(queue.should_interrupt());
    }
}

#[test]
fn a_place_outside_the_ring_gets_every_interrupt() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, true, 0);
    queue.turn();
    queue.should_interrupt();
    for event in [8, 9, 0x7FFF, 0x8008, 0xFFFF] {
        queue.driver.write_driver_event(event, DESC);
        queue.turn();
        assert!(queue.should_interrupt());
    }
}

#[test]
fn the_first_decision_is_to_interrupt() {
    // What was decided before is not known, so that the safe answer is given.
    let ram = Ram::new(MEMORY);
    for event in [0, 1, 2, 0x8000, 0x8007] {
        let mut queue = Queue::new(&ram, 8, true, 0);
        queue.turn();
        queue.driver.write_driver_event(event, DESC);
        assert!(queue.should_interrupt());
    }
}

#[test]
fn every_place_and_every_step_of_an_interrupt() {
    // Against counting: was any of the descriptors that were given back at the place?
    let ram = Ram::new(MEMORY);
    for size in [1, 2, 4, 8] {
        for start in 0..2 * size as u16 {
            for moved in 0..=size as usize {
                for event in 0..2 * size as u16 {
                    let mut queue = Queue::new(&ram, size, true, start);
                    let event = off_wrap(queue.size(), event);
                    queue.should_interrupt();
                    queue.driver.write_driver_event(event, DESC);
                    (0..moved).for_each(|_| queue.turn());
                    let mut passed = (0..moved as u16).map(|n| start.wrapping_add(n));
                    let expected = passed.any(|at| off_wrap(queue.size(), at) == event);
                    assert_eq!(
                        queue.should_interrupt(),
                        expected,
                        "size {size}, {moved} from {start}, event {event:x}",
                    );
                }
            }
        }
    }
}

#[test]
fn a_place_in_the_middle_of_a_chain_is_passed_with_it() {
    let ram = Ram::new(MEMORY);
    for start in 0..16 {
        for skip in 0..4 {
            let mut queue = Queue::new(&ram, 8, true, start);
            queue.should_interrupt();
            assert!(!queue.driver.enable_interrupt_after(skip));
            for (count, third) in [(1, skip == 0), (3, skip > 0), (1, false)] {
                queue.turn_long(count);
                assert_eq!(
                    queue.should_interrupt(),
                    third,
                    "start {start}, skip {skip}"
                );
            }
        }
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
        assert!(queue.driver.enable_interrupt_after(0));
    }
}

#[test]
fn no_interrupt_is_lost_after_many_times_around_without_a_decision() {
    let ram = Ram::new(MEMORY);
    for pushes in [16, 17, 65535, 65536, 65537, 65535 + 65536] {
        let mut queue = Queue::new(&ram, 8, true, 0);
        queue.turn();
        assert!(queue.should_interrupt());
        queue.driver.enable_interrupt_after(0);
        (0..pushes).for_each(|_| queue.turn());
        assert!(queue.should_interrupt(), "after {pushes}");
    }
}

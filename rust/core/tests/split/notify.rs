// SPDX-License-Identifier: GPL-2.0

//! Kicks and interrupts.

use crate::queue::{
    Queue,
    MEMORY, //
};
use vblk_core::{
    queue::Popped,
    split::Avail,
    testing::Ram, //
};

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
    // The device that served the ring before stopped in the middle.
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

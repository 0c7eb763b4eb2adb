// SPDX-License-Identifier: GPL-2.0

//! Drivers without rules, and what the device leaves alone.

use crate::{
    common::RING,
    queue::Queue,
    MEMORY, //
};
use vblk_core::{
    addr::GuestAddr,
    packed::Descriptor,
    queue::{
        Popped,
        RingError, //
    },
    testing::{
        Buf,
        DriverMemory,
        Layout,
        Ram,
        UsedEntry, //
    },
};

const NEXT: u16 = Descriptor::F_NEXT;

#[test]
fn every_id_comes_back_as_it_was() {
    // It is the driver's own; only Linux takes care that it is less than the size.
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 0);
    for id in [0, 7, 8, 0x7FFF, 0x8000, 0xFFFF] {
        queue.post(id, &[NEXT, 0]);
        let head = queue.take();
        assert_eq!((head.id(), head.count()), (id, 2));
        queue.give(head, 1);
        let id = id.into();
        assert_eq!(queue.driver.poll_used(), Some(UsedEntry { id, len: 1 }));
    }
}

#[test]
fn a_head_that_looks_available_in_a_full_ring_is_an_overrun() {
    let ram = Ram::new(MEMORY);
    for start in [0, 5, 8, 65535] {
        let mut queue = Queue::new(&ram, 8, false, start);
        let heads: Vec<_> = [3, 4, 1]
            .into_iter()
            .map(|count| {
                queue.submit_long(count);
                queue.take()
            })
            .collect();
        // All is in the hands of the device.
        assert_eq!(queue.pop(), Ok(Popped::Empty));
        let next = start.wrapping_add(8);
        let flags = queue.driver.avail_flags(next);
        queue.driver.write_flags(next, flags);
        let overrun = RingError::ChainOverrun { next, free: 0 };
        assert!(queue.enable_notify());
        assert_eq!(queue.pop(), Err(overrun));
        // It is not believed the second time either, but may be mended.
        assert_eq!(queue.pop(), Err(overrun));
        assert_eq!(queue.avail.position(), next);
        queue.give(heads[0], 0);
        queue.driver.poll_used();
        queue.submit();
        assert_eq!(queue.take().index(), next);
    }
}

#[test]
fn a_chain_into_descriptors_of_the_device_is_an_overrun() {
    let ram = Ram::new(MEMORY);
    for start in [0, 3, 7, 65535] {
        let mut queue = Queue::new(&ram, 8, false, start);
        let head = {
            queue.submit_long(5);
            queue.take()
        };
        let next = start.wrapping_add(5);
        // Three are left; the fourth would be the first of those of the device.
        queue.post(9, &[NEXT, NEXT, NEXT]);
        let overrun = RingError::ChainOverrun { next, free: 3 };
        assert_eq!(queue.pop(), Err(overrun));
        assert_eq!(queue.pop(), Err(overrun));
        // Given back, they are the driver's again: now it may be a chain of five.
        queue.give(head, 0);
        queue.driver.poll_used();
        queue.driver.write_flags(start.wrapping_add(8), 0);
        assert_eq!(queue.take().count(), 4);
    }
}

#[test]
fn a_chain_around_the_ring_is_an_overrun() {
    let ram = Ram::new(MEMORY);
    for size in [1, 2, 8, 32768] {
        for start in [0, 5, 65535] {
            let mut queue = Queue::new(&ram, size, false, start);
            queue.post(1, &vec![NEXT; size as usize]);
            let overrun = RingError::ChainOverrun {
                next: start,
                free: size as u16,
            };
            assert_eq!(queue.pop(), Err(overrun));
            // One less, and it is the longest chain that there may be.
            let last = start.wrapping_add(size as u16).wrapping_sub(1);
            let flags = queue.driver.avail_flags(last);
            queue.driver.write_flags(last, flags);
            assert_eq!(queue.take().count(), size as u16);
            assert_eq!(queue.avail.position(), start.wrapping_add(size as u16));
        }
    }
}

#[test]
fn every_pair_of_bits_is_judged_by_the_wrap_counter() {
    let ram = Ram::new(MEMORY);
    for start in [0, 8, 16, 65528] {
        let even = start / 8 % 2 == 0;
        for (flags, there) in [(0, false), (0x80, even), (0x8000, !even), (0x8080, false)] {
            for others in [0, 2, 4, 0x7F7E] {
                let mut queue = Queue::new(&ram, 8, false, start);
                queue.driver.write_flags(start, flags | others);
                assert_eq!(queue.enable_notify(), there);
                assert_eq!(matches!(queue.pop(), Ok(Popped::Chain(_))), there);
            }
        }
    }
}

#[test]
fn the_other_half_is_asked_once_around_the_ring() {
    let ram = Ram::new(MEMORY);
    let mut queue = Queue::new(&ram, 8, false, 0);
    let asked = std::cell::Cell::new(0);
    for _ in 0..80 {
        queue.submit();
        let used = || {
            asked.set(asked.get() + 1);
            queue.used.position()
        };
        let Ok(Popped::Chain(head)) = queue.avail.pop(&queue.ring, used) else {
            panic!("a chain should be there");
        };
        queue.give(head, 0);
        queue.driver.poll_used();
    }
    assert_eq!(asked.get(), 10);
}

#[test]
fn only_the_fields_of_the_device_are_written() {
    let ram = Ram::new(MEMORY);
    let layout = Layout::packed(8, RING);
    let mut queue = Queue::new(&ram, 8, true, 0);
    ram.fill(layout.end(), 64, 0xA5);
    ram.fill(GuestAddr(RING.0 - 64), 64, 0xA5);
    let (driver, descs) = (layout.avail, 8 * Descriptor::BYTES);
    let before = (ram.read_vec(layout.desc, descs), ram.read_vec(driver, 4));
    queue.enable_notify();
    queue.disable_notify();
    queue.should_interrupt();
    assert_eq!(
        (ram.read_vec(layout.desc, descs), ram.read_vec(driver, 4)),
        before
    );

    let buf = Buf::writable(GuestAddr(0x1234_5678_9ABC_DEF0), 77);
    queue.driver.add(&[buf; 3]);
    queue.driver.publish();
    let mut expected = ram.read_vec(layout.desc, descs);
    let head = queue.take();
    queue.give(head, 0x0A0B_0C0D);
    // Of three descriptors one is overwritten, and its address is left as it was.
    expected[8..12].copy_from_slice(&[0x0D, 0x0C, 0x0B, 0x0A]);
    expected[12..14].copy_from_slice(&head.id().to_le_bytes());
    expected[14..16].copy_from_slice(&[0x82, 0x80]);
    assert_eq!(ram.read_vec(layout.desc, descs), expected);
    assert_eq!(ram.read_vec(driver, 4), before.1);
    assert_eq!(ram.read_vec(layout.end(), 64), [0xA5; 64]);
    assert_eq!(ram.read_vec(GuestAddr(RING.0 - 64), 64), [0xA5; 64]);
}

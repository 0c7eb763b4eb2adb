// SPDX-License-Identifier: GPL-2.0

//! A ring that is looked at when it is empty: the driver is not asked to kick until that ends.

use crate::recorder::{
    ram,
    Meanwhile::Ruins,
    Queue,
    SETUPS, //
};
use vblk_core::{
    drain::{
        Handled,
        Next,
        Polled, //
    },
    ring::Format, //
};

#[test]
fn the_driver_is_not_asked_to_kick_while_the_ring_is_polled() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 3);
        assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
        assert_eq!(queue.counts(), (3, 1));
        for _ in 0..3 {
            assert!(!queue.handler.driver.device_waits());
            assert_eq!(queue.poll(true), Polled::Nothing);
        }
    }
}

#[test]
fn a_look_finds_what_came_without_a_kick() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 1);
        assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
        assert_eq!(queue.poll(true), Polled::Nothing);
        queue.handler.add(2);
        for goes_on in [true, false] {
            assert_eq!(queue.poll(goes_on), Polled::Found);
            assert!(!queue.handler.driver.device_waits());
        }
        queue.calls();
        assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
        assert_eq!(queue.counts(), (2, 1));
    }
}

#[test]
fn the_driver_is_asked_to_kick_when_polling_ends() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 1);
        assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
        assert_eq!(queue.poll(true), Polled::Nothing);
        assert_eq!(queue.poll(false), Polled::Over);
        assert!(queue.handler.driver.device_waits());
        // And may be polled again after what it kicks for.
        queue.handler.add(1);
        assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
        assert!(!queue.handler.driver.device_waits());
    }
}

#[test]
fn what_ends_a_drain_early_comes_before_polling() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 2);
        queue.handler.results = [Handled::Unfinished(Next::Completion)].into();
        assert_eq!(queue.drain_to_poll(), Ok(Next::Completion));
        let mut queue = Queue::with_chains(&ram, setup, 400);
        assert_eq!(queue.drain_to_poll(), Ok(Next::Soon));
    }
}

#[test]
fn a_ruined_ring_is_left_to_the_drain() {
    let ram = ram();
    let setup = (Format::Split, false);
    let mut queue = Queue::with_chains(&ram, setup, 1);
    queue.handler.on_handle = [Ruins].into();
    // The one chain was known: what follows it is looked at when the ring is polled.
    assert_eq!(queue.drain_to_poll(), Ok(Next::Poll));
    for goes_on in [true, false] {
        assert_eq!(queue.poll(goes_on), Polled::Found);
    }
    assert!(queue.drain_to_poll().is_err());
}

// SPDX-License-Identifier: GPL-2.0

//! Ends of a drain before the queue is empty: what was taken is signalled once, the rest stays.

use crate::recorder::{
    ram,
    Meanwhile::{
        Nothing,
        Ruins, //
    },
    Queue,
    SETUPS, //
};
use vblk_core::{
    drain::{
        Handled,
        Next, //
    },
    queue::RingError,
    ring::Format, //
};

/// Returns whether a ring of that format was found ruined.
fn is_error(format: Format, result: Result<Next, RingError>) -> bool {
    match format {
        Format::Split => matches!(result, Err(RingError::AvailIndex { .. })),
        Format::Packed => matches!(result, Err(RingError::ChainOverrun { .. })),
    }
}

#[test]
fn an_unfinished_request_ends_the_drain_with_when_it_goes_on() {
    let ram = ram();
    for setup in SETUPS {
        for chains in 1..4 {
            for next in [Next::Soon, Next::Completion] {
                let mut queue = Queue::with_chains(&ram, setup, chains);
                queue.handler.results = [Handled::Unfinished(next)].into();
                assert_eq!(queue.drain(), Ok(next));
                assert_eq!(queue.counts(), (1, 1));
                assert!(!queue.handler.driver.device_waits());
            }
        }
    }
}

#[test]
fn a_failure_ends_the_drain_for_good() {
    let ram = ram();
    for setup in SETUPS {
        for before in 0..3 {
            let mut queue = Queue::with_chains(&ram, setup, 3);
            queue.handler.results = vec![Handled::Taken(0); before].into();
            queue.handler.results.push_back(Handled::Failed);
            assert_eq!(queue.drain(), Ok(Next::Never));
            assert_eq!(queue.counts(), (before + 1, 1));
            assert!(!queue.handler.driver.device_waits());
        }
    }
}

#[test]
fn nothing_is_taken_while_the_handler_is_not_ready() {
    let ram = ram();
    for setup in SETUPS {
        for before in 0..3 {
            let mut queue = Queue::with_chains(&ram, setup, 3);
            queue.handler.ready = vec![true; before].into();
            queue.handler.ready.push_back(false);
            assert_eq!(queue.drain(), Ok(Next::Completion));
            assert_eq!(queue.counts(), (before, 1));
            assert!(!queue.handler.driver.device_waits());
            // An I/O has finished: the drain goes on with that very chain.
            assert_eq!(queue.drain(), Ok(Next::Kick));
            assert_eq!(queue.counts(), (3 - before, 1));
        }
    }
}

#[test]
fn an_empty_queue_does_not_ask_whether_the_handler_is_ready() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::new(&ram, setup);
        queue.handler.ready = [false].into();
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.handler.ready.len(), 1);
    }
}

#[test]
fn chains_before_a_ruined_ring_are_handled_and_signalled() {
    let ram = ram();
    for setup in SETUPS {
        for chains in 2..5 {
            let mut queue = Queue::with_chains(&ram, setup, chains);
            queue.handler.on_handle = vec![Nothing; chains as usize - 1].into();
            queue.handler.on_handle.push_back(Ruins);
            assert!(is_error(setup.0, queue.drain()));
            assert_eq!(queue.counts(), (chains as usize, 1));
        }
    }
}

#[test]
fn a_ring_that_is_ruined_from_the_beginning_is_an_error() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 1);
        queue.handler.on_handle = [Ruins].into();
        assert!(is_error(setup.0, queue.drain()));
        queue.calls();
        assert!(is_error(setup.0, queue.drain()));
        assert_eq!(queue.counts(), (0, 1));
    }
}

#[test]
fn a_ring_that_is_ruined_while_kicks_are_asked_for_is_an_error() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 2);
        queue.handler.on_signal = [Ruins].into();
        assert!(is_error(setup.0, queue.drain()));
        assert_eq!(queue.counts().0, 2);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Calls of the handler in their order, and kicks.

use crate::recorder::{
    ram,
    Call::{
        BeginBatch,
        EndBatch,
        Handle,
        Refresh,
        SignalUsed,
        SkipEntry, //
    },
    Meanwhile,
    Queue,
    SETUPS, //
};
use vblk_core::{
    drain::Next,
    ring::Format, //
};

#[test]
fn an_empty_queue_waits_for_a_kick() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::new(&ram, setup);
        for _ in 0..2 {
            assert!(queue.handler.driver.device_waits());
            assert_eq!(queue.drain(), Ok(Next::Kick));
            assert_eq!(queue.calls(), [SignalUsed]);
        }
    }
}

#[test]
fn a_single_chain_needs_no_batch() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 1);
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.calls(), [Refresh, Handle(0, true), SignalUsed]);
    }
}

#[test]
fn chains_are_handled_in_order_and_the_last_is_told() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 3);
        assert_eq!(queue.drain(), Ok(Next::Kick));
        let calls = queue.calls();
        let without: Vec<_> = calls
            .iter()
            .copied()
            .filter(|call| *call != Refresh)
            .collect();
        let chains = [Handle(0, false), Handle(1, false), Handle(2, true)];
        // In a packed ring one is known at a time.
        let known = if setup.0 == Format::Packed { 1 } else { 3 };
        let expected = [&[BeginBatch(known)], &chains[..], &[EndBatch, SignalUsed]].concat();
        assert_eq!(without, expected);
    }
}

/// A batch is of chains that were there when it began. In a packed ring the next chain is found when
/// one is taken, which is before memory is looked up for that one: what was looked up for it must not
/// serve a chain that came later.
#[test]
fn what_may_change_is_looked_at_before_a_batch_and_in_a_packed_ring_before_each_chain() {
    let ram = ram();
    for (format, event_idx) in SETUPS {
        let mut queue = Queue::with_chains(&ram, (format, event_idx), 3);
        assert_eq!(queue.drain(), Ok(Next::Kick));
        let calls = queue.calls();
        match format {
            Format::Split => assert_eq!(
                calls,
                [
                    Refresh,
                    BeginBatch(3),
                    Handle(0, false),
                    Handle(1, false),
                    Handle(2, true),
                    EndBatch,
                    SignalUsed,
                ]
            ),
            Format::Packed => assert_eq!(
                calls,
                [
                    Refresh,
                    BeginBatch(1),
                    Handle(0, false),
                    Refresh,
                    Handle(1, false),
                    Refresh,
                    Handle(2, true),
                    EndBatch,
                    SignalUsed,
                ]
            ),
        }
    }
}

#[test]
fn a_chain_that_comes_after_the_batch_is_found_and_the_next_is_kicked_for() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 2);
        queue.handler.on_signal = [Meanwhile::Adds].into();
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.counts(), (3, 2));
        queue.handler.add(1);
        assert!(queue.handler.driver.needs_kick());
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.counts(), (1, 1));
    }
}

#[test]
fn a_chain_that_comes_while_another_is_handled_is_found() {
    let ram = ram();
    for setup in SETUPS {
        for chains in [1, 2] {
            let mut queue = Queue::with_chains(&ram, setup, chains);
            queue.handler.on_handle = [Meanwhile::Adds; 2].into();
            assert_eq!(queue.drain(), Ok(Next::Kick));
            assert_eq!(queue.counts().0, 2 + chains as usize);
            assert!(queue.handler.driver.device_waits());
        }
    }
}

#[test]
fn entries_that_name_no_chain_are_skipped() {
    let ram = ram();
    for event_idx in [false, true] {
        let mut queue = Queue::new(&ram, (Format::Split, event_idx));
        let driver = queue.handler.driver.split();
        driver.post(512);
        driver.publish();
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.calls(), [Refresh, SkipEntry, SignalUsed]);

        let driver = queue.handler.driver.split();
        driver.post(512);
        driver.post(u16::MAX);
        queue.handler.add(1);
        assert_eq!(queue.drain(), Ok(Next::Kick));
        let calls = [
            Refresh,
            BeginBatch(3),
            SkipEntry,
            SkipEntry,
            Handle(0, true),
            EndBatch,
            SignalUsed,
        ];
        assert_eq!(queue.calls(), calls);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How much one drain takes.

use crate::recorder::{
    ram,
    Call,
    Meanwhile,
    Queue,
    SETUPS, //
};
use vblk_core::{
    drain::{
        Handled,
        Next,
        VQ_BYTE_WEIGHT,
        VQ_WEIGHT, //
    },
    ring::Format, //
};

#[test]
fn answers_are_signalled_every_64_requests() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 130);
        assert_eq!(queue.drain(), Ok(Next::Kick));
        let calls = queue.calls();
        let batches: Vec<_> = calls
            .split(|call| *call == Call::SignalUsed)
            .map(|batch| {
                batch
                    .iter()
                    .filter(|call| matches!(call, Call::Handle(..)))
                    .count()
            })
            .collect();
        assert_eq!(batches, [64, 64, 2, 0]);
    }
}

#[test]
fn skipped_entries_count_as_requests() {
    let ram = ram();
    for event_idx in [false, true] {
        let mut queue = Queue::new(&ram, (Format::Split, event_idx));
        let driver = queue.handler.driver.split();
        (0..=VQ_WEIGHT).for_each(|_| driver.post(512));
        driver.publish();
        assert_eq!(queue.drain(), Ok(Next::Soon));
        let skipped = queue
            .calls()
            .iter()
            .filter(|call| **call == Call::SkipEntry)
            .count();
        assert_eq!(skipped, VQ_WEIGHT as usize);
    }
}

#[test]
fn other_queues_are_served_after_256_requests() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 300);
        assert_eq!(queue.drain(), Ok(Next::Soon));
        assert_eq!(queue.counts(), (256, 4));
        assert!(!queue.handler.driver.device_waits());
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.counts(), (44, 1));
        assert!(queue.handler.driver.device_waits());
    }
}

#[test]
fn a_driver_that_always_adds_one_more_does_not_keep_the_worker() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 1);
        queue.handler.on_signal = [Meanwhile::Adds; 10].into();
        assert_eq!(queue.drain(), Ok(Next::Soon));
        assert_eq!(queue.counts(), (4, 4));
    }
}

#[test]
fn other_queues_are_served_after_4_mib() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 6);
        queue.handler.results = [Handled::Taken(1 << 20); 6].into();
        assert_eq!(queue.drain(), Ok(Next::Soon));
        assert_eq!(queue.counts(), (4, 1));
        assert!(!queue.handler.driver.device_waits());
        // The rest begins anew.
        assert_eq!(queue.drain(), Ok(Next::Kick));
        assert_eq!(queue.counts(), (2, 1));
    }
}

#[test]
fn bytes_add_up_over_batches() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 200);
        // Less than the bound in each batch, and all of it in 128 requests.
        queue.handler.results = [Handled::Taken(VQ_BYTE_WEIGHT / 128); 200].into();
        assert_eq!(queue.drain(), Ok(Next::Soon));
        assert_eq!(queue.counts(), (128, 2));
    }
}

#[test]
fn a_single_large_request_ends_the_drain_and_one_byte_less_does_not() {
    let ram = ram();
    for setup in SETUPS {
        for (bytes, next) in [
            (VQ_BYTE_WEIGHT, Next::Soon),
            (VQ_BYTE_WEIGHT - 1, Next::Kick),
        ] {
            let mut queue = Queue::with_chains(&ram, setup, 1);
            queue.handler.results = [Handled::Taken(bytes)].into();
            assert_eq!(queue.drain(), Ok(next));
            assert_eq!(queue.counts(), (1, 1));
        }
    }
}

#[test]
fn more_bytes_than_32_bits_can_count_are_many() {
    let ram = ram();
    for setup in SETUPS {
        let mut queue = Queue::with_chains(&ram, setup, 2);
        queue.handler.results = [Handled::Taken(1), Handled::Taken(u32::MAX)].into();
        assert_eq!(queue.drain(), Ok(Next::Soon));
    }
}

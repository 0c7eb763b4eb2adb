// SPDX-License-Identifier: GPL-2.0

//! Checks that nothing is lost when driver and device go to sleep and wake each other, in any
//! order.

use crate::{disk::NullBlk, fixtures::in_flight::small_read, prelude::*, vm::Queue};
use std::time::Duration;
use vblk_core::features::bit;

pub const TESTS: &[Test] = tests!["harness":
    nothing_is_lost_with_event_idx(120),
    nothing_is_lost_without_event_idx(120),
    nothing_is_lost_on_an_interrupting_disk(120),
];

/// Requests of the two long tests together.
const MILLION: u64 = 1_000_000;

/// Performs `count` requests. After each batch of random size the driver sleeps for as long as
/// it has nothing to do, so that a lost kick or interrupt ends in a wait that runs out of time.
fn race(context: &Context, setup: &Setup, disk: &Disk, count: u64) -> Outcome {
    let mut rng = context.rng();
    let mut vm = Vm::with_disk(setup, disk)?;
    let requests: Vec<_> = (0..64).map(|slot| small_read(&vm, slot)).collect();
    requests
        .iter()
        .for_each(|request| request.prepare(&*vm.memory));
    let bufs: Vec<_> = requests.iter().map(BlockRequest::buffers).collect();
    let (mut sent, mut done) = (0, 0);
    let queue = vm.queue();
    while done < count {
        let depth = if rng.one_in(2) {
            rng.within(1..4)
        } else {
            rng.within(1..65)
        };
        while sent < count && sent - done < depth {
            // Buffers may be shared by requests: they are not looked at before the end.
            let added = queue.driver.add(&bufs[(sent % 64) as usize]);
            assert!(added.is_some(), "room in the ring");
            sent += 1;
            // Sometimes one by one, to meet the device as it falls asleep.
            if rng.one_in(3) {
                queue.notify();
            }
        }
        queue.notify();
        done += reap(queue, rng.bits(), sent - done);
    }
    assert_eq!((sent, done), (count, count));
    assert!(
        queue.driver.poll_used().is_none(),
        "more answers than requests"
    );
    let stats = vm.device.stats()?;
    assert_eq!(
        (stats.requests, stats.malformed, stats.io_errors),
        (count, 0, 0)
    );
    assert!(requests
        .iter()
        .all(|request| vm.memory.read_u8(request.status) == OK));
    Ok(())
}

/// Takes answers in one of the ways that drivers have. At least one.
fn reap(queue: &mut Queue, how: u64, outstanding: u64) -> u64 {
    let mut done = 0;
    let mut take_rest = |queue: &mut Queue| {
        while queue.driver.poll_used().is_some() {
            done += 1;
        }
        done
    };
    match how % 4 {
        // Sleep for the first, then see what else is there.
        0 | 1 => {
            queue.next_used();
            1 + take_rest(queue)
        }
        // Sleep until all are done, with a look after each interrupt.
        2 => {
            for _ in 0..outstanding {
                queue.next_used();
            }
            outstanding
        }
        // Ask for an interrupt behind some of them only.
        _ => {
            let skip = (how >> 8) % outstanding;
            let ready = queue.driver.enable_interrupt_after(skip as u16);
            if !ready && queue.call.wait(PATIENCE).expect("call") == 0 {
                panic!("no interrupt after {skip} of {outstanding}");
            }
            queue.driver.disable_interrupt();
            match take_rest(queue) {
                // A call for an earlier batch, which was reaped without waiting.
                0 => reap(queue, 0, outstanding),
                some => some,
            }
        }
    }
}

fn nothing_is_lost_with_event_idx(context: &Context) -> Outcome {
    let count = context.times(MILLION / 2);
    race(context, &Setup::default(), &Disk::ram(), count)
}

fn nothing_is_lost_without_event_idx(context: &Context) -> Outcome {
    let setup = Setup::default().without(bit::RING_EVENT_IDX);
    race(context, &setup, &Disk::ram(), context.times(MILLION / 2))
}

fn nothing_is_lost_on_an_interrupting_disk(context: &Context) -> Outcome {
    let delay = Some(Duration::from_micros(20));
    let disk = Disk::null(&NullBlk {
        delay,
        keeps_data: false,
        ..NullBlk::default()
    })?;
    race(
        context,
        &Setup::default(),
        &disk,
        context.times(MILLION / 20),
    )
}

// SPDX-License-Identifier: GPL-2.0

//! A hostile driver's mistakes in the ring itself, and many mistakes at once.

use crate::{
    fixtures::descriptors::{desc, Checker, Parts, DATA, HOLE, NEXT, SIZE, WRITE},
    prelude::*,
    vm::tells_errors,
};
use std::time::Duration;

pub const TESTS: &[Test] = tests!["harness":
    head_out_of_range_is_skipped(20),
    impossible_index_stops_one_queue(40),
    a_burst_of_mistakes_is_told_once(20),
    only_mistakes_for_a_while(40),
];

fn head_out_of_range_is_skipped(_: &Context) -> Outcome {
    let mut checker = Checker::new(&Setup::size(SIZE.into()))?;
    for head in [SIZE, SIZE + 1, 0x8000, u16::MAX] {
        let before = checker.vm.device.stats()?;
        let queue = checker.queue();
        queue.driver.split().post(head);
        queue.notify();
        let name = format!("head {head}");
        if tells_errors() {
            assert_eq!(queue.err.wait(PATIENCE)?, 1, "{name}: error eventfd");
        }
        checker.check_alive(&name)?;
        let after = checker.vm.device.stats()?;
        assert_eq!(after.malformed - before.malformed, 1, "{name}: malformed");
        assert_eq!(
            after.requests - before.requests,
            1,
            "{name}: only the good one is given back"
        );
        checker.queue().driver.split().forget_posted();
    }
    Ok(())
}

fn impossible_index_stops_one_queue(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for (ahead, base) in [
        (SIZE + 1, 0),
        (0x8000, 17),
        (u16::MAX, 5),
        (SIZE + 1, 65500),
    ] {
        let setup = Setup {
            queues: 2,
            base,
            ..Setup::size(SIZE.into())
        };
        let mut vm = Vm::with_disk(&setup, &disk)?;
        let read = Parts::of(&vm).read();
        assert_eq!(vm.queues[0].request(&read), Answer::new(OK, 513));
        let stands = vm.queues[0].driver.next_avail();
        let queue = &mut vm.queues[0];
        queue
            .driver
            .split()
            .write_avail_index(stands.wrapping_add(ahead));
        queue.kick();
        vm.await_error("impossible index")?;
        assert_eq!(vm.device.stats()?.malformed, 1);
        // It stays stopped, also when the index is put right.
        let queue = &mut vm.queues[0];
        read.prepare(queue.driver.memory());
        queue.driver.add(&read.buffers()).expect("room");
        queue.driver.publish();
        queue.kick();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(
            queue.driver.used_index(),
            stands,
            "answers of a stopped queue"
        );
        // The other one goes on meanwhile: it has a buffer of its own.
        let other = BlockRequest {
            header: GuestAddr(read.header.0 + 256),
            status: GuestAddr(read.status.0 + 256),
            ..read.clone()
        };
        for _ in 0..10 {
            assert_eq!(vm.queues[1].request(&other), Answer::new(OK, 513));
        }
        assert_eq!(
            vm.device.vring_base(0)?,
            u32::from(stands),
            "nothing was taken"
        );
        // Set up again, it serves what is there.
        vm.device.detach()?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        assert_eq!(vm.queues[0].next_used().len, 513);
        assert_eq!(vm.queues[0].request(&read), Answer::new(OK, 513));
    }
    Ok(())
}

fn a_burst_of_mistakes_is_told_once(_: &Context) -> Outcome {
    const BURST: u16 = 20;
    let mut checker = Checker::new(&Setup::size(SIZE.into()))?;
    let queue = checker.queue();
    for index in 0..BURST {
        queue
            .driver
            .split()
            .write_descriptor(index, &desc(DATA, 16, NEXT, index));
        queue.driver.split().post(index);
    }
    queue.notify();
    for index in 0..BURST {
        let used = queue.next_used();
        assert_eq!((used.id, used.len), (u32::from(index), 0));
    }
    if tells_errors() {
        assert_eq!(queue.err.wait(PATIENCE)?, 1, "signals for one burst");
    }
    assert_eq!(checker.vm.device.stats()?.malformed, u64::from(BURST));
    checker.check_alive("burst")
}

/// Thousands of bad chains among good ones: the device neither tires nor talks.
fn only_mistakes_for_a_while(context: &Context) -> Outcome {
    let mut checker = Checker::new(&Setup::size(SIZE.into()))?;
    let rounds = context.times(2000);
    for _ in 0..rounds {
        let queue = checker.queue();
        for index in 0..SIZE / 2 {
            queue
                .driver
                .split()
                .write_descriptor(index, &desc(HOLE, u32::MAX, NEXT | WRITE, index + 1));
            queue
                .driver
                .split()
                .post(if index % 8 == 7 { SIZE + index } else { index });
        }
        queue.notify();
        for _ in 0..SIZE / 2 - SIZE / 16 {
            assert_eq!(queue.next_used().len, 0);
        }
        queue.driver.split().forget_posted();
    }
    checker.queue().err.take()?;
    let malformed = checker.vm.device.stats()?.malformed;
    assert_eq!(malformed, rounds * u64::from(SIZE / 2));
    // The error eventfd may be signalled once more by the end of the last burst.
    std::thread::sleep(Duration::from_millis(20));
    checker.queue().err.take()?;
    checker.check_alive("in the end")
}

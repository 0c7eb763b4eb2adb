// SPDX-License-Identifier: GPL-2.0

//! Wake-ups of the worker: one for each kick, and none for an answer, which the disk's
//! interrupt gives. Counted by the scheduler and by the device.

use crate::{
    disk::NullBlk,
    fixtures::{place::Place, worker::only_worker},
    prelude::*,
};
use std::{
    error::Error,
    fs,
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = tests!["harness":
    writes_between_flushes_wake_the_worker_once(60),
    kicks_are_counted_exactly(60),
];

/// A disk without a volatile cache, so that a flush ends where it is submitted, and all else in an
/// interrupt.
fn disk() -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        delay: Some(Duration::from_micros(500)),
        ..NullBlk::default()
    })
}

/// Returns how often a thread went to sleep.
fn sleeps(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let name = "voluntary_ctxt_switches:";
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.ok_or(name)?.trim().parse()?)
}

/// Waits until a thread sleeps.
fn await_sleep(pid: u32) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(") ").ok_or("stat")?;
        if rest.starts_with(['S', 'I']) {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "the worker never sleeps");
        std::thread::yield_now();
    }
}

/// Waits until a thread went to sleep more than `before` times.
fn await_sleep_after(before: u64, pid: u32) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while sleeps(pid)? <= before {
        assert!(Instant::now() < deadline, "the worker sleeps no more");
        std::thread::yield_now();
    }
    Ok(())
}

/// Performs a request with exactly one kick, while the worker sleeps, and waits until it went back to
/// sleep.
fn perform(vm: &mut Vm, worker: u32, request: &BlockRequest) -> Outcome {
    await_sleep(worker)?;
    let before = sleeps(worker)?;
    request.prepare(&*vm.memory);
    let queue = vm.queue();
    queue.driver.add(&request.buffers()).expect("room");
    queue.driver.publish();
    queue.kick();
    let len = queue.next_used().len;
    let status = vm.memory.read_u8(request.status);
    assert_eq!(Answer::new(status, len), Answer::new(OK, 1));
    await_sleep_after(before, worker)
}

fn writes_between_flushes_wake_the_worker_once(context: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let (worker, place) = (only_worker()?, Place::of(&vm));
    let (flush, write) = (place.flush(), place.write(0, 4096));
    let pairs = context.times(1000);
    perform(&mut vm, worker, &write)?;
    await_sleep(worker)?;
    let before = sleeps(worker)?;
    for _ in 0..pairs {
        perform(&mut vm, worker, &flush)?;
        perform(&mut vm, worker, &write)?;
    }
    await_sleep(worker)?;
    let count = sleeps(worker)? - before;
    // A tenth for what else a thread may sleep for. A write whose answer the worker must give costs a
    // third one in each pair.
    let most = 2 * pairs + pairs / 10;
    assert!(count <= most, "slept {count} times for {pairs} pairs");
    Ok(())
}

fn kicks_are_counted_exactly(context: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let (worker, place) = (only_worker()?, Place::of(&vm));
    let (flush, write) = (place.flush(), place.write(0, 4096));
    await_sleep(worker)?;
    let before = vm.device.stats()?;
    let rounds = context.times(500);
    for round in 0..rounds {
        perform(
            &mut vm,
            worker,
            if round % 2 == 0 { &flush } else { &write },
        )?;
    }
    await_sleep(worker)?;
    let stats = vm.device.stats()?;
    assert_eq!(stats.requests - before.requests, rounds);
    assert_eq!(stats.kicks - before.kicks, rounds, "kicks");
    // A kick for nothing counts too.
    vm.queue().kick();
    std::thread::sleep(Duration::from_millis(20));
    await_sleep(worker)?;
    assert_eq!(vm.device.stats()?.kicks - before.kicks, rounds + 1);
    Ok(())
}

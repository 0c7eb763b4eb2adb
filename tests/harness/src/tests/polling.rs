// SPDX-License-Identifier: GPL-2.0

//! Workers that look at empty rings: no kicks while they do, and nothing lost when they stop.

use crate::{
    fixtures::{
        place::Place,
        worker::{in_another_thread, only_worker, part_from_workers, LONG_POLL_US},
    },
    prelude::*,
    sys::process::run_on,
};
use std::{
    error::Error,
    fs, thread,
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = tests!["harness":
    polling_times_are_kept_until_reset(20),
    a_polled_ring_needs_no_kicks(40),
    polling_ends_when_nothing_comes(40),
    polling_stops_for_other_work(40),
    a_polled_queue_that_was_detached_is_left_alone(40),
    nothing_is_lost_when_polling_ends(120),
];

/// Returns how long a thread ran.
fn cpu_time(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanos = text.split(' ').next().ok_or("schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Performs reads one after the other.
fn perform(vm: &mut Vm, count: u64) {
    let place = Place::of(vm);
    for round in 0..count {
        let read = place.read(round % 64, 512);
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    }
}

fn polling_times_are_kept_until_reset(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    for (index, us) in [(0, 50), (0, u32::MAX), (255, 7)] {
        assert_eq!(vm.device.vring_busyloop_timeout(1)?, 0);
        vm.device.set_vring_busyloop_timeout(index, us)?;
        assert_eq!(vm.device.vring_busyloop_timeout(index)?, us);
    }
    perform(&mut vm, 10);
    vm.device.detach()?;
    assert_eq!(vm.device.vring_busyloop_timeout(0)?, u32::MAX);
    vm.device.reset_owner()?;
    vm.device.set_owner()?;
    assert_eq!(vm.device.vring_busyloop_timeout(0)?, 0);
    Ok(())
}

fn a_polled_ring_needs_no_kicks(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let count = context.times(400);
    let mut kicks_for = |us| {
        vm.device.set_vring_busyloop_timeout(0, us)?;
        perform(&mut vm, 2);
        let before = vm.device.stats()?.kicks;
        perform(&mut vm, count);
        Ok::<_, Errno>(vm.device.stats()?.kicks - before)
    };
    in_another_thread(|| -> Result<(), Errno> {
        part_from_workers()?;
        for _ in 0..2 {
            let kicks = kicks_for(LONG_POLL_US)?;
            // Polling stops for other work, if there is some.
            assert!(kicks < count / 2, "{kicks} kicks for {count} requests");
            let kicks = kicks_for(0)?;
            // A worker that is late to ask for the next kick finds the request by itself.
            assert!(kicks > count / 2, "{kicks} kicks for {count} requests");
        }
        Ok(())
    })?;
    Ok(())
}

/// Has the worker learn a gap that is as long as this pause.
fn learn(vm: &mut Vm, pause: Duration) {
    perform(vm, 1);
    thread::sleep(pause);
    // The drain that learns is not yet followed by polling.
    perform(vm, 2);
}

fn polling_ends_when_nothing_comes(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let worker = only_worker()?;
    let limit = Duration::from_millis(20 * context.slowness);
    vm.device
        .set_vring_busyloop_timeout(0, limit.as_micros() as u32)?;
    for _ in 0..5 {
        learn(&mut vm, limit / 2);
        let before = cpu_time(worker)?;
        thread::sleep(limit * 5);
        let taken = cpu_time(worker)? - before;
        assert!(taken < limit * 2, "polled for {taken:?}");
        vm.queue().await_wanted_kicks();
        // It has yet to go to sleep.
        thread::sleep(Duration::from_millis(20 * context.slowness));
        let before = cpu_time(worker)?;
        thread::sleep(Duration::from_millis(100));
        assert_eq!(cpu_time(worker)?, before, "the worker runs");
    }
    Ok(())
}

fn polling_stops_for_other_work(_: &Context) -> Outcome {
    let disk = Disk::ram();
    // In a thread of its own: the worker is where that is.
    in_another_thread(|| busy_on_the_cpu_of_the_worker(&disk).map_err(|e| e.to_string()))?;
    Ok(())
}

fn busy_on_the_cpu_of_the_worker(disk: &Disk) -> Outcome {
    run_on(0, 0)?;
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    let worker = only_worker()?;
    vm.device.set_vring_busyloop_timeout(0, LONG_POLL_US)?;
    learn(&mut vm, Duration::from_millis(400));
    let (start, before) = (Instant::now(), cpu_time(worker)?);
    let work = Duration::from_millis(500);
    while start.elapsed() < work {
        std::hint::spin_loop();
    }
    let taken = cpu_time(worker)? - before;
    // One look, and the way to sleep.
    assert!(taken < work / 20, "the worker took {taken:?} of {work:?}");
    Ok(())
}

fn a_polled_queue_that_was_detached_is_left_alone(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::new(&Setup::default())?;
    vm.device.set_vring_busyloop_timeout(0, LONG_POLL_US)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    for _ in 0..context.times(100) {
        perform(&mut vm, 3);
        vm.reset_queue(&disk)?;
        // Nothing was learnt about the new ring.
        vm.queue().await_wanted_kicks();
    }
    perform(&mut vm, 3);
    let worker = only_worker()?;
    vm.device.detach()?;
    let before = cpu_time(worker)?;
    thread::sleep(Duration::from_millis(100));
    // It may find that out only now.
    let taken = cpu_time(worker)? - before;
    assert!(
        taken < Duration::from_millis(20),
        "the worker took {taken:?}"
    );
    Ok(())
}

/// Pauses that end before, at and after the end of polling.
fn nothing_is_lost_when_polling_ends(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let setup = Setup {
        queues: 4,
        ..Setup::default()
    };
    let mut vm = Vm::with_disk(&setup, &disk)?;
    for index in 0..setup.queues {
        vm.device.set_vring_busyloop_timeout(index, 50)?;
    }
    let place = Place::of(&vm);
    let mut rng = context.rng();
    for _ in 0..context.rounds(context.times(20_000)) {
        let read = place.read(rng.within(0..64), 512);
        let queue = rng.index(0..vm.queues.len());
        assert_eq!(vm.queues[queue].request(&read), Answer::new(OK, 513));
        let pause = Duration::from_nanos(rng.within(0..120_000));
        let start = Instant::now();
        while start.elapsed() < pause {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

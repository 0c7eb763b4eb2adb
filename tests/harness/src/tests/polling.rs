// SPDX-License-Identifier: GPL-2.0

//! Workers that look at empty rings: no kicks while they do, and nothing lost when they stop.

use crate::{
    context::{Context, Outcome, Test},
    disk::{Disk, Mode},
    fixtures::{
        place::Place,
        vdpa::{plain, Used},
        worker::only_worker,
    },
    sys::process::run_on,
    vhost_vdpa::info,
    vm::{Answer, Setup, Vm, OK},
};
use std::{
    error::Error,
    fs, thread,
    time::{Duration, Instant},
};
use vblk_core::uapi::VdpaAdd;

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/polling_times_are_kept_until_reset", limit: 20, run: kept },
    Test { name: "harness/a_polled_ring_needs_no_kicks", limit: 40, run: no_kicks },
    Test { name: "harness/polling_ends_when_nothing_comes", limit: 40, run: ends },
    Test { name: "harness/polling_stops_for_other_work", limit: 40, run: other_work },
    Test { name: "harness/a_polled_queue_that_was_detached_is_left_alone", limit: 40, run: detached },
    Test { name: "harness/nothing_is_lost_when_polling_ends", limit: 120, run: nothing_lost },
    Test { name: "vdpa/a_polled_ring_needs_no_kicks", limit: 40, run: by_vdpa },
];

/// A time for polling that no pause of these tests exceeds.
const LONG_US: u32 = 1_000_000;

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

fn kept(_: &Context) -> Outcome {
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

fn no_kicks(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let count = context.times(2000);
    let kicks_for = |vm: &mut Vm, us| -> Result<u64, Box<dyn Error>> {
        vm.device.set_vring_busyloop_timeout(0, us)?;
        perform(vm, 2);
        let before = vm.device.stats()?.kicks;
        perform(vm, count);
        Ok(vm.device.stats()?.kicks - before)
    };
    for _ in 0..2 {
        let kicks = kicks_for(&mut vm, LONG_US)?;
        // Polling stops for other work, if there is some.
        assert!(kicks < count / 2, "{kicks} kicks for {count} requests");
        let kicks = kicks_for(&mut vm, 0)?;
        assert!(kicks >= count - 1, "{kicks} kicks for {count} requests");
    }
    Ok(())
}

/// Has the worker learn a gap that is as long as this pause.
fn learn(vm: &mut Vm, pause: Duration) {
    perform(vm, 1);
    thread::sleep(pause);
    // The drain that learns is not yet followed by polling.
    perform(vm, 2);
}

fn ends(context: &Context) -> Outcome {
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

fn other_work(_: &Context) -> Outcome {
    let disk = Disk::ram();
    // In a thread of its own: the worker is where that is.
    thread::scope(|scope| {
        let busy = scope.spawn(|| busy_on_the_cpu_of_the_worker(&disk).map_err(|e| e.to_string()));
        busy.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(())
}

fn busy_on_the_cpu_of_the_worker(disk: &Disk) -> Outcome {
    run_on(0, 0)?;
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    let worker = only_worker()?;
    vm.device.set_vring_busyloop_timeout(0, LONG_US)?;
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

fn detached(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::new(&Setup::default())?;
    vm.device.set_vring_busyloop_timeout(0, LONG_US)?;
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
fn nothing_lost(context: &Context) -> Outcome {
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

fn by_vdpa(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let count = context.times(1000);
    for poll_us in [LONG_US, 0] {
        let add = VdpaAdd {
            poll_us,
            ..plain(1, 0)
        };
        let mut used = Used::prepared_on(&disk.open(Mode::ReadWrite)?, add)?;
        used.start(used.driver.base())?;
        assert_eq!(info()?.poll_us, poll_us);
        // What the administrator chose outlives a reset.
        used.restart()?;
        used.works()?;
        let before = used.device.stats(0)?.kicks;
        for _ in 0..count {
            used.works()?;
        }
        let kicks = used.device.stats(0)?.kicks - before;
        let is_polled = kicks < count / 2;
        assert_eq!(
            is_polled,
            poll_us != 0,
            "{kicks} kicks for {count} requests"
        );
    }
    Ok(())
}

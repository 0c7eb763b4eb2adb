// SPDX-License-Identifier: GPL-2.0

//! Kick and call: nothing is lost, nothing is sent in vain.

use crate::{
    context::{Context, Outcome, Test},
    disk::{Disk, NullBlk},
    memory::MIDDLE,
    sys::poll::EventFd,
    vm::{Answer, Queue, Setup, Vm, OK, PATIENCE},
};
use std::time::{Duration, Instant};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    testing::{BlockRequest, DriverMemory},
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/nothing_is_lost_with_event_idx", limit: 120, run: with_event_idx },
    Test { name: "harness/nothing_is_lost_without_event_idx", limit: 120, run: without_event_idx },
    Test { name: "harness/nothing_is_lost_on_an_interrupting_disk", limit: 120, run: on_slow_disk },
    Test { name: "harness/kick_before_attach_counts", limit: 20, run: kick_before_attach },
    Test { name: "harness/signalled_eventfd_counts_as_kick", limit: 20, run: signalled_eventfd },
    Test { name: "harness/no_kick_eventfd", limit: 20, run: no_kick_eventfd },
    Test { name: "harness/no_call_eventfd", limit: 20, run: no_call_eventfd },
    Test { name: "harness/eventfds_replaced_while_running", limit: 40, run: replaced },
    Test { name: "harness/unwanted_interrupts_are_not_sent", limit: 20, run: unwanted },
    Test { name: "harness/event_idx_asks_for_one_interrupt", limit: 20, run: event_idx_interrupt },
    Test { name: "harness/kicks_are_asked_for_when_idle", limit: 20, run: idle_wants_kicks },
    Test { name: "harness/kicks_without_requests_do_nothing", limit: 20, run: empty_kicks },
];

/// Requests of the two long tests together.
const MILLION: u64 = 1_000_000;
const DATA: GuestAddr = GuestAddr(MIDDLE.guest);

/// A small read with header and status of its own.
fn small_read(vm: &Vm, slot: u64) -> BlockRequest {
    let header = GuestAddr(vm.free().0 + slot * 32);
    let status = GuestAddr(header.0 + 16);
    BlockRequest::read(0, header, status).data(GuestAddr(DATA.0 + slot * 512), 512)
}

/// Gives the worker time to go to sleep and to count what it did.
fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Performs `count` requests. After each batch of random size the driver sleeps for as long as
/// it has nothing to do, so that a lost kick or interrupt ends in a wait that runs out of time.
fn race(context: &Context, setup: &Setup, disk: &Disk, count: u64) -> Outcome {
    let mut rng = context.rng();
    let mut vm = Vm::with_disk(setup, disk)?;
    let requests: Vec<_> = (0..64).map(|slot| small_read(&vm, slot)).collect();
    requests.iter().for_each(|request| request.prepare(&*vm.memory));
    let bufs: Vec<_> = requests.iter().map(BlockRequest::buffers).collect();
    let (mut sent, mut done) = (0, 0);
    let queue = vm.queue();
    while done < count {
        let depth = if rng.one_in(2) { rng.within(1..4) } else { rng.within(1..65) };
        while sent < count && sent - done < depth {
            // Buffers may be shared by requests: nobody looks at them before the end.
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
    assert!(queue.driver.poll_used().is_none(), "more answers than requests");
    let stats = vm.device.stats()?;
    assert_eq!((stats.requests, stats.malformed, stats.io_errors), (count, 0, 0));
    assert!(requests.iter().all(|request| vm.memory.read_u8(request.status) == OK));
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

fn with_event_idx(context: &Context) -> Outcome {
    let count = context.times(MILLION / 2);
    race(context, &Setup::default(), &Disk::ram(), count)
}

fn without_event_idx(context: &Context) -> Outcome {
    let setup = Setup::default().without(bit::RING_EVENT_IDX);
    race(context, &setup, &Disk::ram(), context.times(MILLION / 2))
}

fn on_slow_disk(context: &Context) -> Outcome {
    let delay = Some(Duration::from_micros(20));
    let disk = Disk::null(&NullBlk { delay, keeps_data: false, ..NullBlk::default() })?;
    race(context, &Setup::default(), &disk, context.times(MILLION / 20))
}

fn kick_before_attach(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for kicked in [true, false] {
        let mut vm = Vm::new(&Setup::default())?;
        let read = small_read(&vm, 0);
        read.prepare(&*vm.memory);
        vm.queue().driver.add(&read.buffers()).expect("room");
        vm.queue().driver.publish();
        if kicked {
            vm.queue().kick();
        }
        assert_eq!(vm.queue().driver.used_index(), 0, "no disk yet");
        vm.device.attach(&disk.open(crate::disk::Mode::ReadWrite)?)?;
        assert_eq!(vm.queue().next_used().len, 513);
    }
    Ok(())
}

fn signalled_eventfd(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    vm.device.set_vring_kick(0, None)?;
    let read = small_read(&vm, 0);
    read.prepare(&*vm.memory);
    vm.queue().driver.add(&read.buffers()).expect("room");
    vm.queue().driver.publish();
    let kick = EventFd::new()?;
    kick.signal()?;
    vm.device.set_vring_kick(0, Some(&kick))?;
    assert_eq!(vm.queue().next_used().len, 513);
    Ok(())
}

fn no_kick_eventfd(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let read = small_read(&vm, 0);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    vm.device.set_vring_kick(0, None)?;
    settle();
    // The eventfd that was unbound does nothing any more.
    read.prepare(&*vm.memory);
    vm.queue().driver.add(&read.buffers()).expect("room");
    vm.queue().driver.publish();
    vm.queue().kick();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(vm.queue().driver.used_index(), 1, "served without a kick");
    // It was not read by anyone: bound again, it counts.
    vm.device.set_vring_kick(0, Some(&vm.queues[0].kick))?;
    assert_eq!(vm.queue().next_used().len, 513);
    Ok(())
}

fn no_call_eventfd(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    vm.device.set_vring_call(0, None)?;
    vm.device.set_vring_err(0, None)?;
    let read = small_read(&vm, 0);
    for _ in 0..100 {
        read.prepare(&*vm.memory);
        vm.queue().submit(&read.buffers());
        poll_used(vm.queue());
        assert_eq!(vm.memory.read_u8(read.status), OK);
    }
    assert_eq!(vm.queue().call.take()?, 0);
    vm.device.set_vring_call(0, Some(&vm.queues[0].call))?;
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

/// Waits for an answer without any interrupt.
fn poll_used(queue: &mut Queue) {
    let deadline = Instant::now() + PATIENCE;
    while queue.driver.poll_used().is_none() {
        assert!(Instant::now() < deadline, "no answer");
        std::thread::yield_now();
    }
}

fn replaced(context: &Context) -> Outcome {
    let delay = Some(Duration::from_micros(50));
    let disk = Disk::null(&NullBlk { delay, keeps_data: false, ..NullBlk::default() })?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let mut rng = context.rng();
    let reads: Vec<_> = (0..8).map(|slot| small_read(&vm, slot)).collect();
    for _ in 0..context.times(500) {
        for read in &reads {
            read.prepare(&*vm.memory);
            vm.queue().driver.add(&read.buffers()).expect("room");
        }
        vm.queue().notify();
        // A new eventfd behaves as the one before: what was signalled to that is seen first.
        if rng.one_in(2) {
            vm.queue().kick = EventFd::new()?;
            vm.device.set_vring_kick(0, Some(&vm.queues[0].kick))?;
            // A kick may have been on its way: a VMM signals the new one to be sure.
            vm.queue().kick();
        }
        if rng.one_in(2) {
            let old = std::mem::replace(&mut vm.queue().call, EventFd::new()?);
            vm.device.set_vring_call(0, Some(&vm.queues[0].call))?;
            // From here on only the new one is signalled.
            old.take()?;
            vm.queue().call.signal()?;
        }
        reads.iter().for_each(|_| {
            vm.queue().next_used();
        });
        assert!(reads.iter().all(|read| vm.memory.read_u8(read.status) == OK));
    }
    Ok(())
}

fn unwanted(_: &Context) -> Outcome {
    for event_idx in [true, false] {
        let mut setup = Setup::default();
        if !event_idx {
            setup = setup.without(bit::RING_EVENT_IDX);
        }
        let mut vm = Vm::with_disk(&setup, &Disk::ram())?;
        let read = small_read(&vm, 0);
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
        vm.queue().driver.disable_interrupt();
        settle();
        vm.queue().call.take()?;
        let before = vm.device.stats()?.interrupts;
        for _ in 0..200 {
            read.prepare(&*vm.memory);
            vm.queue().submit(&read.buffers());
            poll_used(vm.queue());
            vm.queue().driver.disable_interrupt();
        }
        settle();
        let sent = vm.device.stats()?.interrupts - before;
        assert_eq!(sent, 0, "interrupts that nobody wanted, event index: {event_idx}");
        assert_eq!(vm.queue().call.take()?, 0);
    }
    Ok(())
}

fn event_idx_interrupt(_: &Context) -> Outcome {
    const BATCH: u16 = 32;
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let first = small_read(&vm, 0);
    assert_eq!(vm.queue().request(&first), Answer::new(OK, 513));
    for round in 0..20 {
        for slot in 0..BATCH {
            let read = small_read(&vm, slot.into());
            read.prepare(&*vm.memory);
            vm.queue().driver.add(&read.buffers()).expect("room");
        }
        settle();
        let before = vm.device.stats()?.interrupts;
        vm.queue().call.take()?;
        assert!(!vm.queue().driver.enable_interrupt_after(BATCH - 1));
        vm.queue().notify();
        assert_ne!(vm.queue().call.wait(PATIENCE)?, 0, "round {round}: no interrupt");
        for slot in 0..BATCH {
            assert!(vm.queue().driver.poll_used().is_some(), "round {round}: early at {slot}");
        }
        settle();
        let sent = vm.device.stats()?.interrupts - before;
        assert_eq!(sent, 1, "round {round}: interrupts for one event");
    }
    Ok(())
}

fn idle_wants_kicks(_: &Context) -> Outcome {
    for event_idx in [true, false] {
        let mut setup = Setup::default();
        if !event_idx {
            setup = setup.without(bit::RING_EVENT_IDX);
        }
        let mut vm = Vm::with_disk(&setup, &Disk::ram())?;
        let read = small_read(&vm, 0);
        for round in 0..200 {
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
            // The answer comes before the device has gone back to sleep.
            let deadline = Instant::now() + PATIENCE;
            let wanted = |queue: &Queue| match event_idx {
                true => queue.driver.avail_event() == queue.driver.next_avail(),
                false => queue.driver.used_flags() == 0,
            };
            while !wanted(vm.queue()) {
                assert!(Instant::now() < deadline, "round {round}: asleep without wanting kicks");
                std::thread::yield_now();
            }
        }
    }
    Ok(())
}

fn empty_kicks(context: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    for _ in 0..context.times(2000) {
        vm.queue().kick();
    }
    let read = small_read(&vm, 0);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    let stats = vm.device.stats()?;
    assert_eq!((stats.requests, stats.malformed), (1, 0));
    assert!(stats.kicks <= context.times(2000) + 2, "{} kicks", stats.kicks);
    Ok(())
}

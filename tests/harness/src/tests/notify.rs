// SPDX-License-Identifier: GPL-2.0

//! Kick and call: nothing is lost, nothing is sent in vain.

use crate::{
    disk::{NullBlk, TestDisk},
    fixtures::in_flight::{launch, small_read},
    memory::MIDDLE,
    prelude::*,
    sys::poll::EventFd,
    vm::Queue,
};
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use vblk_core::{features::bit, ring::Format};

pub const TESTS: &[Test] = tests!["harness":
    kick_before_attach_counts(20),
    signalled_eventfd_counts_as_kick(20),
    no_kick_eventfd(20),
    no_call_eventfd(20),
    an_interrupt_that_is_owed_waits_for_a_call_eventfd(20),
    eventfds_replaced_while_running(40),
    no_interrupt_through_an_eventfd_that_was_replaced(60),
    an_answer_behind_the_last_of_its_batch_is_signalled(40),
    unwanted_interrupts_are_not_sent(20),
    event_idx_asks_for_one_interrupt(20),
    kicks_are_asked_for_when_idle(20),
    kicks_without_requests_do_nothing(20),
];

/// Gives the worker time to go to sleep and to count what it did.
fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}

fn kick_before_attach_counts(_: &Context) -> Outcome {
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
        vm.attach(&disk.open(crate::disk::Mode::ReadWrite)?)?;
        assert_eq!(vm.queue().next_used().len, 513);
    }
    Ok(())
}

fn signalled_eventfd_counts_as_kick(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    vm.device.set_vring_kick(0, None)?;
    // The turn that attaching gave the queue must not find the request.
    settle();
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
    let driver = &vm.queue().driver;
    assert_eq!(
        driver.used_index(),
        driver.next_used(),
        "served without a kick"
    );
    // It was not read by anyone: bound again, it counts.
    vm.device.set_vring_kick(0, Some(&vm.queues[0].kick))?;
    assert_eq!(vm.queue().next_used().len, 513);
    Ok(())
}

/// The driver waits for an answer that came while there was no eventfd. As in C vhost, the next answer
/// interrupts it.
fn an_interrupt_that_is_owed_waits_for_a_call_eventfd(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let reads = [small_read(&vm, 0), small_read(&vm, 1)];
    assert!(!vm.queue().driver.enable_interrupt(), "answered already");
    vm.device.set_vring_call(0, None)?;
    launch(&mut vm, &reads[..1]);
    await_answers(&vm, 1)?;
    vm.queue().call.take()?;
    vm.device.set_vring_call(0, Some(&vm.queues[0].call))?;
    launch(&mut vm, &reads[1..]);
    assert_ne!(vm.queue().call.wait(PATIENCE)?, 0, "no interrupt");
    Ok(())
}

/// Waits until so many requests were answered.
fn await_answers(vm: &Vm, count: u64) -> Outcome {
    let end = Instant::now() + PATIENCE;
    while vm.device.stats()?.requests < count {
        assert!(Instant::now() < end, "no answer");
        thread::sleep(Duration::from_millis(1));
    }
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

fn eventfds_replaced_while_running(context: &Context) -> Outcome {
    let delay = Some(Duration::from_micros(50));
    let disk = Disk::null(&NullBlk {
        delay,
        keeps_data: false,
        ..NullBlk::default()
    })?;
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
        assert!(reads
            .iter()
            .all(|read| vm.memory.read_u8(read.status) == OK));
    }
    Ok(())
}

/// Once VHOST_SET_VRING_CALL has returned, the old eventfd is over, and all that the device
/// tells from then on comes through the new one: each answer is told once. Another CPU completes
/// so many requests meanwhile that interrupts hold it up between the decision on a signal and the
/// signal, now and then.
fn no_interrupt_through_an_eventfd_that_was_replaced(context: &Context) -> Outcome {
    const DEPTH: u64 = 1000;
    const PAUSE: Duration = Duration::from_micros(50);
    /// Bounds the files that are open.
    const MOST: usize = 500;
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let setup = Setup::size(4096).without(bit::RING_EVENT_IDX);
    let mut vm = Vm::with_disk(&setup, &disk)?;
    let reads: Vec<_> = (0..DEPTH).map(|slot| small_read(&vm, slot)).collect();
    let mut old: Vec<EventFd> = Vec::new();
    vm.queue().driver.enable_interrupt();
    for round in 0..context.times(200) {
        let hold = disk.hold()?;
        launch(&mut vm, &reads);
        hold.await_held(DEPTH)?;
        let over = AtomicBool::new(false);
        let mut told = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                hold.release(0).expect("release");
                over.store(true, Relaxed);
            });
            while !over.load(Relaxed) && old.len() < MOST {
                let call = std::mem::replace(&mut vm.queue().call, EventFd::new()?);
                vm.device.set_vring_call(0, Some(&vm.queues[0].call))?;
                told += call.take()?;
                old.push(call);
                thread::sleep(PAUSE);
            }
            Ok::<_, Errno>(())
        })?;
        for call in old.drain(..) {
            assert_eq!(call.take()?, 0, "round {round}: through an old eventfd");
        }
        told += vm.queue().call.take()?;
        assert_eq!(told, DEPTH, "round {round}: signals");
        for _ in &reads {
            assert!(vm.queue().driver.poll_used().is_some(), "round {round}");
        }
    }
    Ok(())
}

/// The worker decides on a signal once for all that it answers together, at the last request. One
/// that the disk completes later is told by itself: the worker may sleep.
fn an_answer_behind_the_last_of_its_batch_is_signalled(_: &Context) -> Outcome {
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let read = small_read(&vm, 0);
    let header = GuestAddr(vm.free().0 + 32);
    let identity = BlockRequest::get_id(header, GuestAddr(header.0 + 16));
    let identity = identity.data(GuestAddr(MIDDLE.guest + 512), 20);
    let hold = disk.hold()?;
    launch(&mut vm, &[read, identity]);
    assert_eq!(vm.queue().next_used().len, 21);
    hold.await_held(1)?;
    // In this order: the statistics can be read when the worker is done with the queue.
    vm.device.stats()?;
    vm.queue().call.take()?;
    assert!(!vm.queue().driver.enable_interrupt(), "answered already");
    hold.release(0)?;
    assert_ne!(vm.queue().call.wait(PATIENCE)?, 0, "no interrupt");
    let used = vm.queue().driver.poll_used().map(|used| used.len);
    assert_eq!(used, Some(513));
    Ok(())
}

fn unwanted_interrupts_are_not_sent(_: &Context) -> Outcome {
    for event_idx in [true, false] {
        let mut setup = Setup::default();
        if !event_idx {
            setup = setup.without(bit::RING_EVENT_IDX);
        }
        let mut vm = Vm::with_disk(&setup, &Disk::ram())?;
        let read = small_read(&vm, 0);
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
        // Once: with the event index that is enough for 2^16 entries. Doing it again could ask for
        // an interrupt, if it meets the device between an entry and the decision about it.
        vm.queue().driver.disable_interrupt();
        settle();
        vm.queue().call.take()?;
        let before = vm.device.stats()?.interrupts;
        for _ in 0..200 {
            read.prepare(&*vm.memory);
            vm.queue().submit(&read.buffers());
            poll_used(vm.queue());
        }
        settle();
        let sent = vm.device.stats()?.interrupts - before;
        assert_eq!(sent, 0, "unwanted interrupts, event index: {event_idx}");
        assert_eq!(vm.queue().call.take()?, 0);
    }
    Ok(())
}

fn event_idx_asks_for_one_interrupt(_: &Context) -> Outcome {
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
        // A packed ring counts descriptors: header, data, status.
        let places = match vm.queue().driver.layout().format {
            Format::Split => BATCH - 1,
            Format::Packed => 3 * (BATCH - 1),
        };
        assert!(!vm.queue().driver.enable_interrupt_after(places));
        vm.queue().notify();
        assert_ne!(
            vm.queue().call.wait(PATIENCE)?,
            0,
            "round {round}: no interrupt"
        );
        for slot in 0..BATCH {
            assert!(
                vm.queue().driver.poll_used().is_some(),
                "round {round}: early at {slot}"
            );
        }
        settle();
        let sent = vm.device.stats()?.interrupts - before;
        assert_eq!(sent, 1, "round {round}: interrupts for one event");
    }
    Ok(())
}

fn kicks_are_asked_for_when_idle(_: &Context) -> Outcome {
    for event_idx in [true, false] {
        let mut setup = Setup::default();
        if !event_idx {
            setup = setup.without(bit::RING_EVENT_IDX);
        }
        let mut vm = Vm::with_disk(&setup, &Disk::ram())?;
        let read = small_read(&vm, 0);
        for _ in 0..200 {
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
            // The answer comes before the device has gone back to sleep.
            vm.queue().await_wanted_kicks();
        }
    }
    Ok(())
}

fn kicks_without_requests_do_nothing(context: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    for _ in 0..context.times(2000) {
        vm.queue().kick();
    }
    let read = small_read(&vm, 0);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    let stats = vm.device.stats()?;
    assert_eq!((stats.requests, stats.malformed), (1, 0));
    assert!(
        stats.kicks <= context.times(2000) + 2,
        "{} kicks",
        stats.kicks
    );
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! More requests than a queue has I/Os for. The rest stays in the ring: the worker never waits for an
//! I/O, so that its other queues and the ioctls go on, and each completion lets it take more.

use crate::{
    disk::{Hold, TestDisk},
    fixtures::in_flight::{await_full, large, within_patience, LARGE_BYTES},
    memory::MIDDLE,
    prelude::*,
};
use std::time::Instant;

pub const TESTS: &[Test] = tests!["harness":
    more_requests_than_ios_are_all_answered(60),
    more_requests_than_ios_with_one_completion_at_a_time(60),
    a_queue_without_ios_holds_up_nobody(60),
    a_request_of_more_ios_than_there_are(60),
];

/// Requests of a sector, in indirect tables: more than one queue has I/Os.
const MANY: u64 = 3000;

/// Requests of 64 KiB: more than one queue has I/Os for requests of that length.
const LARGE: u64 = 100;

/// A disk that completes its I/O when it is told to, in another thread.
fn disk() -> Result<Disk, Errno> {
    Disk::counting(&TestDisk {
        mib: 32,
        ..TestDisk::DEFAULT
    })
}

/// A request of a sector with its own place in memory and on the disk.
fn small(vm: &Vm, slot: u64, writes: bool) -> (BlockRequest, GuestAddr) {
    let start = vm.free().0 + slot * 128;
    let (table, header) = (GuestAddr(start), GuestAddr(start + 64));
    let status = GuestAddr(start + 80);
    let request = match writes {
        true => BlockRequest::write(slot, header, status),
        false => BlockRequest::read(slot, header, status),
    };
    (
        request.data(GuestAddr(MIDDLE.guest + slot * 512), 512),
        table,
    )
}

fn launch_small(vm: &mut Vm) -> Vec<BlockRequest> {
    let mut requests = Vec::new();
    for slot in 0..MANY {
        let (request, table) = small(vm, slot, slot % 2 == 1);
        request.prepare(&*vm.memory);
        let added = vm.queue().driver.add_indirect(&request.buffers(), table);
        added.expect("room");
        requests.push(request);
    }
    vm.queue().notify();
    requests
}

/// Releases what the disk holds, `most` at a time (0: all), until all is answered.
fn release_until_answered(
    vm: &mut Vm,
    hold: &Hold,
    requests: &[BlockRequest],
    most: u64,
) -> Outcome {
    // For each answer: a slow machine may take long for all of them.
    let mut deadline = Instant::now() + PATIENCE;
    let mut left = requests.len();
    while left > 0 {
        hold.release(most)?;
        while let Some(used) = vm.queue().driver.poll_used() {
            assert!(matches!(used.len, 1 | 513), "{used:?}");
            left -= 1;
            deadline = Instant::now() + PATIENCE;
        }
        let held = hold.held()?;
        let late = Instant::now() > deadline;
        assert!(!late, "{left} requests not answered, {held} at the disk");
    }
    for (slot, request) in requests.iter().enumerate() {
        let status = vm.memory.read_u8(request.status);
        assert_eq!(status, OK, "request {slot}");
    }
    Ok(())
}

fn setup() -> Setup {
    Setup::size(4096)
}

/// Reads complete where they are submitted; writes, of which there are more than a queue has I/Os,
/// in another thread than the worker: some one by one, while the worker takes one more for each, then
/// all at once.
fn more_requests_than_ios_are_all_answered(context: &Context) -> Outcome {
    const ONE_BY_ONE: u64 = 100;
    let disk = disk()?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    for round in 0..context.times(8) {
        let hold = disk.hold_writes()?;
        let requests = launch_small(&mut vm);
        let full = await_full(&hold)?;
        assert!(full < MANY / 2, "round {round}: the disk has them all");
        for _ in 0..ONE_BY_ONE {
            hold.release(1)?;
            hold.await_held(full)?;
        }
        release_until_answered(&mut vm, &hold, &requests, 0)?;
        assert_eq!(hold.held()?, 0, "round {round}");
    }
    assert_eq!(vm.device.stats()?.malformed, 0);
    Ok(())
}

fn more_requests_than_ios_with_one_completion_at_a_time(context: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let mut rng = context.rng();
    let data = rng.bytes((MANY * 512) as usize);
    vm.memory.write(GuestAddr(MIDDLE.guest), &data);
    let hold = disk.hold()?;
    let requests = launch_small(&mut vm);
    hold.await_held(256)?;
    release_until_answered(&mut vm, &hold, &requests, 1)?;
    drop(hold);
    let written = disk.read(0, data.len())?;
    let sectors = written.chunks(512).zip(data.chunks(512)).enumerate();
    for (slot, (found, expected)) in sectors.filter(|(slot, _)| slot % 2 == 1) {
        assert!(found == expected, "sector {slot}");
    }
    Ok(())
}

/// While the disk holds as many large I/Os as one queue can have, another queue answers and ioctls
/// return.
fn a_queue_without_ios_holds_up_nobody(_: &Context) -> Outcome {
    let disk = disk()?;
    let queues = 2;
    let mut vm = Vm::with_disk(
        &Setup {
            queues,
            ..Setup::size(1024)
        },
        &disk,
    )?;
    let hold = disk.hold()?;
    for slot in 0..LARGE {
        let read = large(&vm, slot);
        read.prepare(&*vm.memory);
        vm.queue().driver.add(&read.buffers()).expect("room");
    }
    vm.queue().notify();
    // At least as many as a queue has I/Os of that length.
    hold.await_held(16)?;
    let header = GuestAddr(vm.free().0 + LARGE * 32);
    let identity = BlockRequest::get_id(header, GuestAddr(header.0 + 16));
    let identity = identity.data(GuestAddr(header.0 + 64), 20);
    for _ in 0..10 {
        let answer = vm.queues[1].request(&identity);
        assert_eq!(answer, Answer::new(OK, 21), "of another queue");
    }
    let table = vm.memory.table();
    if crate::vm::pinning() == crate::context::Pinning::PerRequest {
        // Memory pinned ahead is kept for the requests, which this command waits for.
        within_patience(&hold, "SET_MEM_TABLE", || vm.device.set_mem_table(&table))?;
    }
    within_patience(&hold, "SET_SERIAL", || vm.device.set_serial(&[7; 20]))?;
    within_patience(&hold, "GET_STATS", || vm.device.stats().map(drop))?;
    within_patience(&hold, "GET_VRING_BASE", || {
        vm.device.vring_base(0).map(drop)
    })?;
    assert_ne!(hold.held()?, 0, "at the disk");
    drop(hold);
    for _ in 0..LARGE {
        assert_eq!(vm.queue().next_used().len, LARGE_BYTES as u32 + 1);
    }
    Ok(())
}

/// A single write of 60 MiB: more pages than all I/Os of a queue have together.
fn a_request_of_more_ios_than_there_are(context: &Context) -> Outcome {
    const HALF: usize = 30 << 20;
    let disk = Disk::counting(&TestDisk {
        mib: 64,
        ..TestDisk::DEFAULT
    })?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let (start, header) = (GuestAddr(MIDDLE.guest), vm.free());
    let write = BlockRequest::write(0, header, GuestAddr(header.0 + 16));
    let write = write.data(start, HALF as u32).data(start, HALF as u32);
    for most in [0, 1] {
        let data = context.rng().bytes(HALF);
        vm.memory.write(start, &data);
        let hold = disk.hold()?;
        write.prepare(&*vm.memory);
        vm.queue().submit(&write.buffers());
        let deadline = Instant::now() + PATIENCE;
        while vm.queue().driver.poll_used().is_none() {
            hold.release(most)?;
            assert!(Instant::now() < deadline, "not answered");
        }
        drop(hold);
        assert_eq!(vm.memory.read_u8(write.status), OK);
        for half in [0, HALF] {
            assert!(disk.read(half as u64, HALF)? == data, "at {half:#x}");
        }
        disk.write(0, &vec![0; HALF])?;
    }
    Ok(())
}

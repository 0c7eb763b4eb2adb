// SPDX-License-Identifier: GPL-2.0

//! A device with all queues that it can have, at the same time. Each has a ring, a position and
//! eventfds of its own, and what is wrong with one is nothing to the others.

use crate::{
    device::Device,
    disk::Target,
    fixtures::commands::assert_errno,
    memory::{GuestMemory, MIDDLE, REGIONS},
    prelude::*,
    vm::Queue,
};
use std::{
    thread,
    time::{Duration, Instant},
};
use vblk_core::{packed::Descriptor, testing::Driver};

pub const TESTS: &[Test] = tests!["harness":
    _256_queues_at_once(40),
    each_of_256_queues_has_its_own_kick(40),
    a_broken_ring_among_256(40),
    memory_table_of_256_queues_with_requests_in_flight(40),
    positions_of_256_queues_are_restored(60),
];

/// The most queues of a device.
const QUEUES: u32 = 256;

/// Entries of each ring: a request takes three.
const SIZE: u32 = 4;

/// Bytes of a request's data. Each queue has a place of that length in memory, and one on the disk.
const BYTES: u64 = 4096;

fn setup() -> Setup {
    Setup {
        queues: QUEUES,
        ..Setup::size(SIZE)
    }
}

/// A disk that can be told to keep what it is given.
fn disk() -> Result<Disk, Errno> {
    let sectors = u64::from(QUEUES) * BYTES / 512;
    Disk::mapped(&[Target::linear(Disk::ram().path(), 0, sectors)])
}

fn data(queue: u32) -> GuestAddr {
    GuestAddr(MIDDLE.guest + u64::from(queue) * BYTES)
}

/// A request of a queue, for that block of the disk.
fn request(vm: &Vm, queue: u32, block: u32, writes: bool) -> BlockRequest {
    let header = GuestAddr(vm.free().0 + u64::from(queue) * 32);
    let (sector, status) = (u64::from(block) * BYTES / 512, GuestAddr(header.0 + 16));
    let request = match writes {
        true => BlockRequest::write(sector, header, status),
        false => BlockRequest::read(sector, header, status),
    };
    request.data(data(queue), BYTES as u32)
}

/// Content of a block that tells which one it is.
fn content(block: u32) -> Vec<u8> {
    let word = block.wrapping_mul(0x9E37_79B1).to_le_bytes();
    word.repeat(BYTES as usize / word.len())
}

/// Performs a request on each queue, all of which are in flight at the same time.
fn all_in_flight(vm: &mut Vm, disk: &Disk, block: fn(u32) -> u32, writes: bool) -> Outcome {
    disk.suspend()?;
    let requests: Vec<_> = (0..QUEUES)
        .map(|queue| request(vm, queue, block(queue), writes))
        .collect();
    let taken = launch(vm, &requests);
    // To detach from a suspended disk is to wait for it: first of all it goes on.
    disk.resume()?;
    taken?;
    for (queue, request) in vm.queues.iter_mut().zip(&requests) {
        let index = queue.index;
        assert_eq!(queue.call.wait(PATIENCE)?, 1, "interrupts of queue {index}");
        let len = if writes { 1 } else { BYTES as u32 + 1 };
        let used = queue.driver.poll_used().map(|used| used.len);
        assert_eq!(used, Some(len), "queue {index}");
        let status = queue.driver.memory().read_u8(request.status);
        assert_eq!(status, OK, "queue {index}");
        assert_eq!(queue.driver.poll_used(), None, "queue {index}");
        assert_eq!(queue.err.take()?, 0, "queue {index}");
    }
    Ok(())
}

/// Puts a request into each ring, asks for an interrupt, and waits until all are taken.
fn launch(vm: &mut Vm, requests: &[BlockRequest]) -> Outcome {
    for (queue, request) in vm.queues.iter_mut().zip(requests) {
        request.prepare(queue.driver.memory());
        queue.driver.enable_interrupt();
        queue.submit(&request.buffers());
    }
    let deadline = Instant::now() + PATIENCE;
    for queue in &vm.queues {
        while vm.device.vring_base(queue.index)? as u16 != queue.taken_base() {
            if Instant::now() > deadline {
                return Err(format!("queue {} is not served", queue.index).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    match vm.device.stats()?.requests % u64::from(QUEUES) {
        0 => Ok(()),
        _ => Err("some were answered before the disk did them".into()),
    }
}

fn _256_queues_at_once(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    for queue in 0..QUEUES {
        vm.memory.write(data(queue), &content(queue));
    }
    all_in_flight(&mut vm, &disk, |queue| queue, true)?;
    let written = disk.read(0, (u64::from(QUEUES) * BYTES) as usize)?;
    for (block, bytes) in (0..).zip(written.chunks(BYTES as usize)) {
        assert!(bytes == content(block), "block {block} of the disk");
    }
    // What another queue wrote.
    let other = |queue| (queue + 101) % QUEUES;
    all_in_flight(&mut vm, &disk, other, false)?;
    for queue in 0..QUEUES {
        let read = vm.memory.read_vec(data(queue), BYTES as usize);
        assert!(read == content(other(queue)), "what queue {queue} read");
    }
    vm.memory.check_guards();
    let stats = vm.device.stats()?;
    let all = u64::from(QUEUES) * BYTES;
    assert_eq!((stats.bytes_written, stats.bytes_read), (all, all));
    assert_eq!(stats.requests, 2 * u64::from(QUEUES));
    assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    // There is no further one.
    let one_more = vm.device.set_vring_num(QUEUES, SIZE);
    assert_errno("queue 256", one_more, Errno::ENOBUFS);
    vm.device.detach()?;
    let one_more = vm.device.set_vring_num(QUEUES, SIZE);
    assert_errno("queue 256", one_more, Errno::ENOBUFS);
    assert_eq!(vm.device.info()?.max_queues, QUEUES);
    Ok(())
}

/// Puts a request into all rings without a kick: a kick is for one of them.
fn each_of_256_queues_has_its_own_kick(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    // Each had the turn that it has without a kick, and waits for one.
    serve_all(&mut vm, None);
    vm.queues.iter_mut().for_each(Queue::await_wanted_kicks);
    for index in 0..QUEUES {
        let read = request(&vm, index, index, false);
        read.prepare(&*vm.memory);
        let queue = &mut vm.queues[index as usize];
        queue.driver.add(&read.buffers()).expect("room");
        queue.driver.publish();
    }
    // Queues next to each other, and those whose marks lie in other words, in any order.
    let (mut rng, mut left) = (context.rng(), (0..QUEUES).collect::<Vec<_>>());
    for served in 1..=u64::from(QUEUES) {
        let index = left.swap_remove(rng.index(0..left.len()));
        let queue = &mut vm.queues[index as usize];
        queue.kick();
        assert_eq!(queue.next_used().len, BYTES as u32 + 1, "queue {index}");
        let all = u64::from(QUEUES) + served;
        assert_eq!(vm.device.stats()?.requests, all, "queue {index} alone");
    }
    Ok(())
}

/// Makes a ring such that no driver can have meant it.
fn break_ring(queue: &mut Queue) {
    let next = queue.driver.next_avail();
    match &mut queue.driver {
        Driver::Split(driver) => driver.write_avail_index(next.wrapping_add(SIZE as u16 + 1)),
        Driver::Packed(driver) => {
            // A chain all around the ring, and further.
            for at in (0..SIZE as u16).rev().map(|at| next.wrapping_add(at)) {
                driver.write_flags(at, driver.avail_flags(at) | Descriptor::F_NEXT);
            }
        }
    }
}

/// Returns an index that is good again, with nothing in the ring.
fn mend_ring(queue: &mut Queue) {
    let next = queue.driver.next_avail();
    match &mut queue.driver {
        Driver::Split(driver) => driver.write_avail_index(next),
        Driver::Packed(driver) => {
            for at in (1..=SIZE as u16).map(|at| next.wrapping_sub(at)) {
                driver.write_flags(at, driver.used_flags(at));
            }
        }
    }
}

fn serve_all(vm: &mut Vm, but: Option<u32>) {
    for index in (0..QUEUES).filter(|index| Some(*index) != but) {
        let read = request(vm, index, index, false);
        let answer = vm.queues[index as usize].request(&read);
        assert_eq!(answer, Answer::new(OK, BYTES as u32 + 1), "queue {index}");
    }
}

fn a_broken_ring_among_256(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    serve_all(&mut vm, None);
    let count = context.times(4);
    for broken in [63, QUEUES - 1, 64, 0].into_iter().take(count as usize) {
        let stands = vm.device.vring_base(broken)?;
        let queue = &mut vm.queues[broken as usize];
        break_ring(queue);
        queue.kick();
        assert_eq!(queue.err.wait(PATIENCE)?, 1, "error eventfd of {broken}");
        // The device no longer looks at it, although all others are served.
        queue.kick();
        serve_all(&mut vm, Some(broken));
        for queue in &vm.queues {
            assert_eq!(queue.err.take()?, 0, "error eventfd of {}", queue.index);
        }
        assert_eq!(vm.device.vring_base(broken)?, stands, "nothing was taken");
        mend_ring(&mut vm.queues[broken as usize]);
        vm.device.detach()?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        serve_all(&mut vm, None);
    }
    assert_eq!(vm.device.stats()?.malformed, count);
    Ok(())
}

/// One table for all of them: old requests keep the old memory, new ones have the new.
fn memory_table_of_256_queues_with_requests_in_flight(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let other = GuestMemory::new(&REGIONS)?;
    disk.suspend()?;
    let requests: Vec<_> = (0..QUEUES)
        .map(|queue| request(&vm, queue, queue, false))
        .collect();
    let taken = launch(&mut vm, &requests);
    let replaced = vm.device.set_mem_table(&other.table());
    disk.resume()?;
    taken?;
    replaced?;
    for (queue, request) in vm.queues.iter_mut().zip(&requests) {
        let index = queue.index;
        assert_eq!(queue.next_used().len, BYTES as u32 + 1, "queue {index}");
        let status = queue.driver.memory().read_u8(request.status);
        assert_eq!(status, OK, "queue {index}: where it was taken");
        assert_eq!(other.read_u8(request.status), 0, "queue {index}");
    }
    for (queue, request) in vm.queues.iter_mut().zip(&requests) {
        request.prepare(&other);
        queue.submit(&request.buffers());
        let index = queue.index;
        assert_eq!(queue.next_used().len, BYTES as u32 + 1, "queue {index}");
        assert_eq!(
            other.read_u8(request.status),
            OK,
            "queue {index}: the new table"
        );
    }
    Ok(())
}

/// Moves all queues on to another device, as a VMM does that starts again, each from its position.
fn positions_of_256_queues_are_restored(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let mut rng = context.rng();
    for _ in 0..context.times(3) {
        for index in 0..QUEUES {
            let read = request(&vm, index, index, false);
            for _ in 0..rng.within(0..5) {
                let answer = vm.queues[index as usize].request(&read);
                assert_eq!(answer, Answer::new(OK, BYTES as u32 + 1), "queue {index}");
            }
        }
        vm.device.detach()?;
        let mut bases = Vec::new();
        for queue in &vm.queues {
            let base = vm.device.vring_base(queue.index)?;
            assert_eq!(base, queue.driver.base(), "queue {}", queue.index);
            bases.push(base);
        }
        // Here, what was saved is there without being told.
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        serve_all(&mut vm, None);
        vm.device.detach()?;
        for (queue, base) in vm.queues.iter().zip(&mut bases) {
            let moved = vm.device.vring_base(queue.index)?;
            assert_ne!(moved, *base, "queue {}", queue.index);
            *base = moved;
        }
        vm.device = Device::open()?;
        vm.device.set_owner()?;
        vm.device.set_features(setup().features)?;
        vm.device.set_mem_table(&vm.memory.table())?;
        for (queue, base) in vm.queues.iter().zip(bases) {
            queue.tell_geometry(&vm.device, base)?;
            queue.tell_files(&vm.device)?;
        }
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        serve_all(&mut vm, None);
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Mistakes of the guest and failures of the host. The guest's mistake is answered, and its queue
//! lives. Where the host can't reach guest memory, the request fails with IOERR; without a status
//! byte or a known chain it is not given back at all, and the queue stops.
//!
//! The status bytes are preset with 0, as the Linux driver leaves them, which ignores used lengths:
//! a request that comes back without a status has succeeded as far as a guest can tell.

use crate::{
    disk::Delays,
    fixtures::{
        descriptors::HOLE,
        loss::{Loss, PAGE},
    },
    memory::{HIGH, MIDDLE},
    prelude::*,
};
use vblk_core::testing::Buf;

pub const TESTS: &[Test] = tests!["harness":
    a_status_byte_that_cannot_be_written_stops_the_queue(40),
    an_indirect_table_that_cannot_be_read_stops_the_queue(40),
    a_header_or_data_that_cannot_be_reached_fail_the_request(40),
    a_stopped_queue_is_told_apart_from_a_mistake(20),
];

/// Tests that are not about guest memory that the owner takes away.
pub const ON_ANY_MEMORY: &[Test] = tests!["harness":
    a_status_byte_outside_guest_memory_is_the_guests_mistake(20),
    indirect_tables_longer_than_the_ring(60),
];

/// Memory that the owner takes away.
const THERE: GuestAddr = GuestAddr(HIGH.guest + PAGE as u64);

/// Content of the disk, and content that must not get there.
const OLD: u8 = 0x0D;
const NEW: u8 = 0x4E;

const BYTES: usize = 4096;

/// Disks whose I/O completes where it is submitted, and in another thread.
fn disks() -> Result<[Disk; 2], Errno> {
    let delays = Delays { read: 1, write: 1 };
    Ok([Disk::second_ram(), Disk::delayed(8 << 20, delays)?])
}

/// A device with two queues, and a write on the first one.
fn set_up(disk: &Disk) -> Result<(Vm, BlockRequest), Errno> {
    disk.write(0, &[OLD; BYTES])?;
    let queues = 2;
    let vm = Vm::with_disk(
        &Setup {
            queues,
            ..Setup::size(16)
        },
        disk,
    )?;
    let (header, data) = (vm.free(), GuestAddr(MIDDLE.guest));
    vm.memory.fill(data, BYTES, NEW);
    let write = BlockRequest::write(0, header, GuestAddr(header.0 + 64));
    Ok((vm, write.data(data, BYTES as u32).preset_ok()))
}

/// Once the page is away: the worker's first look at an attached queue needs no kick, and may be late.
fn publish_and_kick(vm: &mut Vm) {
    vm.queue().driver.publish();
    vm.queue().kick();
}

/// Checks that the other queue lives, then that the first one does after a reset of the device.
fn check_others(vm: &mut Vm, disk: &Disk, what: &str) -> Outcome {
    let header = GuestAddr(vm.free().0 + PAGE as u64);
    let read = BlockRequest::read(8, header, GuestAddr(header.0 + 64));
    let read = read.data(GuestAddr(MIDDLE.guest + (1 << 20)), 512);
    assert_eq!(vm.queues[1].request(&read), Answer::new(OK, 513), "{what}");
    assert!(
        disk.read(0, BYTES)?.iter().all(|byte| *byte == OLD),
        "{what}: written"
    );
    // A kick does not bring it back.
    vm.queue().kick();
    assert_eq!(vm.queues[1].request(&read), Answer::new(OK, 513), "{what}");
    assert_eq!(vm.queue().driver.poll_used(), None, "{what}");
    assert_eq!(vm.device.stats()?.stopped_queues, 1, "{what}");
    vm.reset_queue(disk)?;
    assert_eq!(
        vm.device.stats()?.stopped_queues,
        0,
        "{what}: attached again"
    );
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513), "{what}");
    Ok(())
}

fn a_status_byte_that_cannot_be_written_stops_the_queue(_: &Context) -> Outcome {
    for disk in disks()? {
        for loss in Loss::ALL {
            let what = format!("{}, {loss:?}", disk.path().display());
            let (mut vm, mut write) = set_up(&disk)?;
            let memory = vm.memory.clone();
            let (map, offset) = memory.mapping(THERE);
            write.status = GuestAddr(THERE.0 + 100);
            write.prepare(&*memory);
            vm.queue().driver.add(&write.buffers()).expect("room");
            loss.during(map, offset, || {
                publish_and_kick(&mut vm);
                vm.await_stop(&what)
            })??;
            check_others(&mut vm, &disk, &what)?;
        }
    }
    Ok(())
}

fn an_indirect_table_that_cannot_be_read_stops_the_queue(_: &Context) -> Outcome {
    for disk in disks()? {
        for loss in [Loss::Protected, Loss::Unmapped] {
            let what = format!("{}, {loss:?}", disk.path().display());
            let (mut vm, write) = set_up(&disk)?;
            let memory = vm.memory.clone();
            let (map, offset) = memory.mapping(THERE);
            write.prepare(&*memory);
            let added = vm.queue().driver.add_indirect(&write.buffers(), THERE);
            added.expect("room");
            loss.during(map, offset, || {
                publish_and_kick(&mut vm);
                vm.await_stop(&what)
            })??;
            assert_eq!(memory.read_u8(write.status), OK, "{what}: status written");
            check_others(&mut vm, &disk, &what)?;
        }
    }
    Ok(())
}

fn a_header_or_data_that_cannot_be_reached_fail_the_request(_: &Context) -> Outcome {
    for disk in disks()? {
        for (part, loss) in ["header", "data"]
            .into_iter()
            .flat_map(|part| [Loss::Protected, Loss::Unmapped].map(|loss| (part, loss)))
        {
            let what = format!("{}: {part}, {loss:?}", disk.path().display());
            let (mut vm, mut write) = set_up(&disk)?;
            let memory = vm.memory.clone();
            let (map, offset) = memory.mapping(THERE);
            match part {
                "header" => write.header = THERE,
                _ => write.data[0].addr = THERE,
            }
            write.prepare(&*memory);
            vm.queue().driver.add(&write.buffers()).expect("room");
            let used = loss.during(map, offset, || {
                publish_and_kick(&mut vm);
                vm.queue().next_used()
            })?;
            let answer = Answer::new(memory.read_u8(write.status), used.len);
            assert_eq!(answer, Answer::new(IOERR, 1), "{what}");
            assert_eq!(vm.device.stats()?.stopped_queues, 0, "{what}");
            let on_disk = disk.read(0, BYTES)?;
            assert!(on_disk.iter().all(|byte| *byte == OLD), "{what}: written");
            // The queue lives.
            write.data[0].addr = GuestAddr(MIDDLE.guest);
            assert_eq!(vm.queue().request(&write), Answer::new(OK, 1), "{what}");
        }
    }
    Ok(())
}

/// Both are told by the error eventfd; a VMM asks for the statistics then.
fn a_stopped_queue_is_told_apart_from_a_mistake(_: &Context) -> Outcome {
    let disk = Disk::second_ram();
    let (mut vm, write) = set_up(&disk)?;
    let memory = vm.memory.clone();
    // A request without a header.
    let bufs = [Buf::writable(write.status, 1)];
    for mistakes in 1..4 {
        vm.queue().submit(&bufs);
        vm.queue().next_used();
        assert_eq!(vm.queue().err.wait(PATIENCE)?, 1);
        let stats = vm.device.stats()?;
        assert_eq!((stats.malformed, stats.stopped_queues), (mistakes, 0));
    }
    let (map, offset) = memory.mapping(THERE);
    let mut lost = write.clone();
    lost.status = THERE;
    lost.prepare(&*memory);
    vm.queue().driver.add(&lost.buffers()).expect("room");
    vm.queue().driver.publish();
    Loss::ReadOnly.during(map, offset, || {
        vm.queue().kick();
        vm.await_stop("stopped")
    })??;
    // It is still told when other queues make mistakes.
    vm.queues[1].submit(&bufs);
    vm.queues[1].next_used();
    assert_eq!(vm.queues[1].err.wait(PATIENCE)?, 1);
    assert_eq!(vm.device.stats()?.stopped_queues, 1);
    check_others(&mut vm, &disk, "stopped")?;
    // A ring that makes no sense stops its queue too.
    let next = vm.queue().driver.next_avail();
    if let vblk_core::testing::Driver::Split(driver) = &mut vm.queue().driver {
        driver.write_avail_index(next.wrapping_add(100));
        vm.queue().kick();
        vm.await_stop("an impossible index")?;
        // Nothing is counted of what was before the last owner.
        vm.device.reset_owner()?;
        vm.device.set_owner()?;
        assert_eq!(vm.device.stats()?, Default::default());
    }
    Ok(())
}

fn a_status_byte_outside_guest_memory_is_the_guests_mistake(_: &Context) -> Outcome {
    let disk = Disk::second_ram();
    let (mut vm, write) = set_up(&disk)?;
    let mut bufs = write.buffers();
    bufs[2] = Buf::writable(GuestAddr(HOLE), 1);
    for mistakes in 1..4 {
        write.prepare(&*vm.memory);
        vm.queue().submit(&bufs);
        assert_eq!(vm.queue().next_used().len, 0);
        assert_eq!(vm.queue().err.wait(PATIENCE)?, 1);
        let stats = vm.device.stats()?;
        assert_eq!((stats.malformed, stats.stopped_queues), (mistakes, 0));
        assert!(
            disk.read(0, BYTES)?.iter().all(|byte| *byte == OLD),
            "written"
        );
    }
    assert_eq!(vm.queue().request(&write), Answer::new(OK, 1));
    Ok(())
}

/// Bytes of a buffer. Those of one request are not neighbours.
const BUFFER: u64 = 512;

/// A request whose data lies in so many buffers.
fn scattered(vm: &Vm, buffers: u64, writes: bool) -> BlockRequest {
    let header = vm.free();
    let status = GuestAddr(header.0 + 64);
    let request = match writes {
        true => BlockRequest::write(0, header, status),
        false => BlockRequest::read(0, header, status),
    };
    (0..buffers).fold(request.preset_ok(), |request, index| {
        request.data(GuestAddr(MIDDLE.guest + index * 2 * BUFFER), BUFFER as u32)
    })
}

/// Checks tables that QEMU and C vhost take too. Linux makes them whenever `seg_max` allows more
/// segments than the ring has entries.
fn indirect_tables_longer_than_the_ring(context: &Context) -> Outcome {
    let disk = Disk::second_ram();
    for (size, most) in [(8, 1024), (16, 1024), (1024, 1024), (2048, 2048)] {
        let mut vm = Vm::new(&Setup::size(size))?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        let table = GuestAddr(vm.free().0 + PAGE as u64);
        for segments in [u64::from(size) + 1, 100, most - 1, most] {
            if segments > most {
                continue;
            }
            let what = format!("{segments} descriptors, ring of {size}");
            let data = context.rng().bytes(((segments - 2) * BUFFER) as usize);
            let write = scattered(&vm, segments - 2, true);
            for (buf, bytes) in write.data.iter().zip(data.chunks(BUFFER as usize)) {
                vm.memory.write(buf.addr, bytes);
            }
            assert_eq!(
                perform(&mut vm, &write, table),
                Answer::new(OK, 1),
                "{what}"
            );
            let whole = data.len().next_multiple_of(PAGE);
            assert!(
                disk.read(0, whole)?[..data.len()] == data,
                "{what}: on the disk"
            );
            let read = scattered(&vm, segments - 2, false);
            for buf in &read.data {
                vm.memory.fill(buf.addr, 2 * BUFFER as usize, 0);
            }
            let good = Answer::new(OK, data.len() as u32 + 1);
            assert_eq!(perform(&mut vm, &read, table), good, "{what}");
            for (buf, bytes) in read.data.iter().zip(data.chunks(BUFFER as usize)) {
                let found = vm.memory.read_vec(buf.addr, BUFFER as usize);
                assert!(found == bytes, "{what}: at {:#x}", buf.addr.0);
            }
        }
        // One more is the guest's mistake: it comes back without a status.
        let before = vm.device.stats()?;
        let write = scattered(&vm, most - 1, true);
        assert_eq!(
            perform(&mut vm, &write, table),
            Answer::new(OK, 0),
            "ring of {size}"
        );
        assert_eq!(vm.queue().err.wait(PATIENCE)?, 1);
        let stats = vm.device.stats()?;
        assert_eq!(stats.malformed - before.malformed, 1);
        assert_eq!(
            (stats.stopped_queues, stats.bytes_written),
            (0, before.bytes_written)
        );
        let read = scattered(&vm, 1, false);
        assert_eq!(
            perform(&mut vm, &read, table),
            Answer::new(OK, 513),
            "after it"
        );
    }
    Ok(())
}

/// Performs a request through an indirect table.
fn perform(vm: &mut Vm, request: &BlockRequest, table: GuestAddr) -> Answer {
    request.prepare(&*vm.memory);
    let queue = vm.queue();
    let head = queue.driver.add_indirect(&request.buffers(), table);
    queue.notify();
    let used = queue.next_used();
    assert_eq!(Some(used.id), head.map(u32::from));
    Answer::new(vm.memory.read_u8(request.status), used.len)
}

// SPDX-License-Identifier: GPL-2.0

//! Requests that stay in flight for a while, and what an owner may do to them meanwhile.

use crate::{
    disk::Delays,
    fixtures::{
        commands::assert_errno,
        in_flight::{await_taken, launch, transfer},
    },
    memory::{GuestMemory, HIGH, LOW, MIDDLE, REGIONS},
    prelude::*,
    sys::poll::EventFd,
};
use std::time::Duration;
use vblk_core::testing::{Driver, Layout};

pub const TESTS: &[Test] = tests!["harness":
    eventfds_replaced_with_requests_in_flight(20),
    memory_reused_with_requests_in_flight(20),
    ring_moved_with_requests_in_flight(20),
];

/// Tests of memory tables that are replaced while a disk is attached, with the ring where it was.
pub const ON_ANOTHER_TABLE: &[Test] = tests!["harness":
    memory_table_replaced_with_requests_in_flight(20),
];

/// Time that the disk takes: long enough to do something meanwhile.
pub const DELAY: Duration = Duration::from_millis(200);

/// Requests in flight.
const COUNT: u64 = 32;

/// Content of memory that the device must not write.
const CANARY: u8 = 0x3C;

fn slow_disk() -> Result<Disk, Errno> {
    let millis = DELAY.as_millis() as u32;
    let (read, write) = (millis, millis);
    Disk::delayed(8 << 20, Delays { read, write })
}

/// A device with reads and writes that the disk has begun, and none that it has done.
fn in_flight(disk: &Disk) -> Result<(Vm, Vec<BlockRequest>), Box<dyn std::error::Error>> {
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    let request = |slot| transfer(&vm, slot, slot % 2 == 1);
    let requests: Vec<_> = (0..COUNT).map(request).collect();
    launch(&mut vm, &requests);
    await_taken(&vm)?;
    let driver = &vm.queues[0].driver;
    assert_eq!(driver.used_index(), driver.next_used(), "answered already");
    Ok((vm, requests))
}

fn eventfds_replaced_with_requests_in_flight(_: &Context) -> Outcome {
    let disk = slow_disk()?;
    let (mut vm, requests) = in_flight(&disk)?;
    let queue = &mut vm.queues[0];
    let fresh = || EventFd::new();
    let call = std::mem::replace(&mut queue.call, fresh()?);
    let kick = std::mem::replace(&mut queue.kick, fresh()?);
    let err = std::mem::replace(&mut queue.err, fresh()?);
    queue.tell_files(&vm.device)?;
    // In the order in which the disk's timers end.
    let mut lengths: Vec<_> = requests.iter().map(|_| queue.next_used().len).collect();
    lengths.sort_unstable();
    let of = |request: &BlockRequest| if request.kind == 0 { 4097 } else { 1 };
    let mut expected: Vec<_> = requests.iter().map(of).collect();
    expected.sort_unstable();
    assert_eq!(lengths, expected);
    for request in &requests {
        assert_eq!(vm.memory.read_u8(request.status), OK);
    }
    assert_eq!(call.take()?, 0, "interrupts through the old eventfd");
    assert_eq!(err.take()?, 0);
    // The device no longer listens to the old kick.
    requests[0].prepare(&*vm.memory);
    queue.driver.add(&requests[0].buffers()).expect("room");
    queue.driver.publish();
    kick.signal()?;
    std::thread::sleep(Duration::from_millis(20));
    let taken = vm.device.vring_base(0)? as u16 == queue.taken_base();
    assert!(!taken, "a kick through the old eventfd");
    queue.kick();
    assert_eq!(queue.next_used().len, 4097);
    Ok(())
}

fn memory_table_replaced_with_requests_in_flight(_: &Context) -> Outcome {
    let disk = slow_disk()?;
    let (mut vm, requests) = in_flight(&disk)?;
    // The same guest addresses, but other memory.
    let other = GuestMemory::new(&REGIONS)?;
    for region in [LOW, MIDDLE] {
        other.fill(GuestAddr(region.guest), region.bytes, CANARY);
    }
    vm.device.set_mem_table(&other.table())?;
    for request in &requests {
        assert!(vm.queue().next_used().len > 0);
        assert_eq!(vm.memory.read_u8(request.status), OK);
    }
    for region in [LOW, MIDDLE] {
        assert_untouched(&other, region.guest, region.bytes);
    }
    // From here on it is what addresses mean. The ring stays where it is.
    let request = &requests[0];
    request.prepare(&other);
    vm.queue().submit(&request.buffers());
    assert_eq!(vm.queue().next_used().len, 4097);
    assert_eq!(other.read_u8(request.status), OK);
    vm.device.set_mem_table(&vm.memory.table())?;
    Ok(())
}

fn assert_untouched(memory: &GuestMemory, from: u64, len: usize) {
    let bytes = memory.read_vec(GuestAddr(from), len);
    let at = bytes.iter().position(|byte| *byte != CANARY);
    assert_eq!(at.map(|at| from + at as u64), None, "written late");
    memory.check_guards();
}

/// Replaces all memory of the ring, headers, status bytes and data.
fn memory_reused_with_requests_in_flight(_: &Context) -> Outcome {
    let disk = slow_disk()?;
    let (mut vm, requests) = in_flight(&disk)?;
    for region in [LOW, MIDDLE] {
        let (map, offset) = vm.memory.mapping(GuestAddr(region.guest));
        map.replace(offset, region.bytes)?;
        vm.memory
            .fill(GuestAddr(region.guest), region.bytes, CANARY);
    }
    // The interrupt still comes, and everything else goes to the old pages.
    assert_ne!(vm.queues[0].call.wait(PATIENCE)?, 0);
    vm.device.detach()?;
    assert_eq!(vm.device.stats()?.requests, COUNT);
    for region in [LOW, MIDDLE] {
        assert_untouched(&vm.memory, region.guest, region.bytes);
    }
    // A ring in the new memory is as good as any.
    let layout = *vm.queues[0].driver.layout();
    let memory = vm.memory.clone();
    let queue = &mut vm.queues[0];
    queue.driver = Driver::new(memory, layout, true);
    queue.tell_geometry(&vm.device, queue.driver.base())?;
    // Memory pinned ahead is still what was there when the table was set.
    vm.device.set_mem_table(&vm.memory.table())?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    assert_eq!(vm.queue().request(&requests[0]), Answer::new(OK, 4097));
    Ok(())
}

/// Moves the ring as a driver does: it stops the queue, which waits for what is in
/// flight, and uses the old place for something else.
fn ring_moved_with_requests_in_flight(_: &Context) -> Outcome {
    let disk = slow_disk()?;
    let (mut vm, requests) = in_flight(&disk)?;
    let (queue, old) = (&vm.queues[0], *vm.queues[0].driver.layout());
    let base = queue.driver.base();
    assert_errno(
        "geometry",
        queue.tell_geometry(&vm.device, base),
        Errno::EBUSY,
    );
    assert_errno(
        "addresses",
        vm.device.set_vring_addr(&vblk_core::uapi::VringAddr {
            desc_user_addr: queue.addr().desc_user_addr + 4096,
            ..queue.addr()
        }),
        Errno::EBUSY,
    );
    vm.device.detach()?;
    for request in &requests {
        let len = if request.kind == 0 { 4097 } else { 1 };
        let used = vm.queue().driver.poll_used().map(|used| used.len);
        assert_eq!(used, Some(len), "not answered before the end");
        assert_eq!(vm.memory.read_u8(request.status), OK);
    }
    assert_eq!(vm.device.vring_base(0)?, vm.queues[0].driver.base());
    // Each part has its own canary: all pages from the first part to the last.
    let start = GuestAddr(old.desc.0 & !4095);
    let len = (old.end().0.next_multiple_of(4096) - start.0) as usize;
    let (map, offset) = vm.memory.mapping(start);
    map.replace(offset, len)?;
    vm.memory.fill(start, len, CANARY);
    let (memory, position) = (vm.memory.clone(), vm.queues[0].driver.next_avail());
    let there = Layout::new(old.format, old.size, GuestAddr(HIGH.guest + 4096));
    let queue = &mut vm.queues[0];
    queue.driver = Driver::starting_at(memory, there, true, position);
    queue.tell_geometry(&vm.device, queue.driver.base())?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    launch(&mut vm, &requests);
    for _ in &requests {
        assert_ne!(vm.queue().next_used().len, 0);
    }
    assert_eq!(vm.device.stats()?.requests, 2 * COUNT);
    assert_untouched(&vm.memory, start.0, len);
    Ok(())
}

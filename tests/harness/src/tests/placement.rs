// SPDX-License-Identifier: GPL-2.0

//! Places of a request's parts in guest memory, and memory that can't be used.

use crate::{
    disk::Delays,
    fixtures::{
        in_flight::{launch, small_read},
        place::{Place, DATA},
    },
    memory::{HIGH, MIDDLE},
    oracle::facts,
    prelude::*,
    sys::{map::Access, userfault::Userfault},
};
use std::{
    thread,
    time::{Duration, Instant},
};
use vblk_core::testing::join;

pub const TESTS: &[Test] = tests!["harness":
    status_byte_anywhere(20),
    unusable_data_memory_fails_the_request(20),
    status_page_replaced_before_a_request(20),
    an_idle_queue_pins_no_page_of_requests(60),
];

fn status_byte_anywhere(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let header = vm.free();
    // Other regions, their first and last bytes, and both ends of a page.
    let places = [
        HIGH.guest,
        HIGH.guest + HIGH.bytes as u64 - 1,
        MIDDLE.guest,
        MIDDLE.guest - 1,
        MIDDLE.guest + MIDDLE.bytes as u64 - 1,
        MIDDLE.guest + 4095,
        MIDDLE.guest + 4096,
    ];
    for status in places.map(GuestAddr) {
        let data = GuestAddr(MIDDLE.guest + 0x10_0000);
        let read = BlockRequest::read(0, header, status).data(data, 512);
        assert_eq!(
            vm.queue().request(&read),
            Answer::new(OK, 513),
            "status at {:#x}",
            status.0
        );
        let end = BlockRequest::read(u64::MAX, header, status).data(data, 512);
        assert_eq!(
            vm.queue().request(&end),
            Answer::new(IOERR, 0),
            "status at {:#x}",
            status.0
        );
    }
    // In the same buffer as the data, across the border of two regions.
    let status = GuestAddr(MIDDLE.guest);
    let data = GuestAddr(MIDDLE.guest - 512);
    let read = BlockRequest::read(0, header, status).data(data, 512);
    let bufs = join(&read.buffers());
    assert_eq!(bufs.len(), 2);
    assert_eq!(vm.queue().request_as(&read, &bufs), Answer::new(OK, 513));
    Ok(())
}

fn unusable_data_memory_fails_the_request(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let place = Place::of(&vm);
    let hole = MIDDLE.guest + MIDDLE.bytes as u64;
    let nowhere = [
        ("in a hole", hole),
        ("into a hole", hole - 512),
        ("at the end of the address space", u64::MAX - 100),
        ("around the end of the address space", u64::MAX),
    ];
    for (name, addr) in nowhere {
        let mut request = BlockRequest::read(0, place.header, place.status);
        request = request.data(GuestAddr(addr), 1024);
        assert_eq!(
            vm.queue().request(&request),
            Answer::new(IOERR, 0),
            "read {name}"
        );
        request.kind = 1;
        request.data[0].writable = false;
        assert_eq!(
            vm.queue().request(&request),
            Answer::new(IOERR, 1),
            "write {name}"
        );
    }
    // Guest memory that the owner itself can't use in that way.
    let (map, offset) = vm.memory.mapping(DATA);
    map.protect(offset, 4096, Access::Read)?;
    map.protect(offset + 4096, 4096, Access::None)?;
    let at = |offset, request: fn(&Place, u64, u32) -> BlockRequest| {
        let mut request = request(&place, 0, 4096);
        request.data[0].addr = GuestAddr(DATA.0 + offset);
        request
    };
    let table = [
        (
            "write from read-only memory",
            at(0, Place::write),
            Answer::new(OK, 1),
        ),
        (
            "read into read-only memory",
            at(0, Place::read),
            Answer::new(IOERR, 0),
        ),
        (
            "write from no memory",
            at(4096, Place::write),
            Answer::new(IOERR, 1),
        ),
        (
            "read into no memory",
            at(4096, Place::read),
            Answer::new(IOERR, 0),
        ),
        (
            "read into partly read-only memory",
            at(6144, Place::read),
            Answer::new(IOERR, 0),
        ),
    ];
    for (name, request, answer) in table {
        assert_eq!(vm.queue().request(&request), answer, "{name}");
    }
    assert_eq!(
        vm.queue().request(&at(8192, Place::read)),
        Answer::new(OK, 4097)
    );
    assert_eq!(vm.device.stats()?.malformed, 0);
    Ok(())
}

/// The memory of status bytes is exchanged between two requests that the device does not tell
/// apart: it takes the second pair when it is done with the first, and has no reason to stop.
fn status_page_replaced_before_a_request(_: &Context) -> Outcome {
    const PAGE: u64 = 4096;
    let disk = Disk::delayed(8 << 20, Delays { read: 1, write: 1 })?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let memory = vm.memory.clone();
    let (missing, statuses) = (GuestAddr(HIGH.guest), GuestAddr(HIGH.guest + PAGE));
    let good = GuestAddr(MIDDLE.guest);
    let read = |slot: u64, data| {
        let header = GuestAddr(vm.free().0 + slot * 32);
        BlockRequest::read(0, header, GuestAddr(statuses.0 + slot)).data(data, 4096)
    };
    let first = [read(0, missing), read(1, good)];
    // The last one of a batch may be looked up apart from the others.
    let second = [read(2, good), read(3, good)];

    let (map, offset) = memory.mapping(missing);
    let userfault = Userfault::on(map, offset, PAGE as usize)?;
    launch(&mut vm, &first);
    // The device has the status of the first one, and waits for its data.
    assert!(
        userfault.is_waited_for(PATIENCE)?,
        "no thread waits for the page"
    );
    let (map, offset) = memory.mapping(statuses);
    map.replace(offset, PAGE as usize)?;
    launch(&mut vm, &second);
    // Now the page comes.
    drop(userfault);
    for _ in first.iter().chain(&second) {
        assert_eq!(vm.queue().next_used().len, 4097);
    }
    for request in second {
        let status = memory.read_u8(request.status);
        assert_eq!(status, OK, "in a page that is memory no more");
    }
    Ok(())
}

/// Shows that what requests of a batch share is let go of with the last of them, not with the next
/// batch.
fn an_idle_queue_pins_no_page_of_requests(_: &Context) -> Outcome {
    const BATCH: u64 = 8;
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let pins = || facts::pins_held().ok_or("no counters of pins");
    let before = pins()?;
    let requests: Vec<_> = (0..BATCH).map(|slot| small_read(&vm, slot)).collect();
    launch(&mut vm, &requests);
    for _ in &requests {
        assert_eq!(vm.queue().next_used().len, 513);
    }
    // The worker is not done yet when the last answer comes.
    let deadline = Instant::now() + PATIENCE;
    while pins()? != before {
        assert!(Instant::now() < deadline, "a page stays pinned");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

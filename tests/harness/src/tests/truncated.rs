// SPDX-License-Identifier: GPL-2.0

//! Guest memory in a file that is made shorter: a process that touches it gets
//! SIGBUS. The device fails the request, or stops the queue where it can't tell the guest of that.

use crate::{
    fixtures::{commands::assert_errno, descriptors::desc},
    memory::MIDDLE,
    prelude::*,
    sys::{map::Mapping, system},
};
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};
use vblk_core::{
    packed,
    split::Descriptor,
    testing::{Buf, Driver},
    uapi::MemoryRegion,
};

pub const TESTS: &[Test] = tests!["harness":
    requests_in_a_truncated_file(20),
    a_ring_in_a_truncated_file(20),
];

const BYTES: u64 = 64 << 10;
/// Length that is left of the file.
const LEFT: u64 = BYTES / 2;
/// Guest address of the file.
const THERE: u64 = 1 << 40;
/// Bytes that one I/O takes at most.
const MOST: u32 = 1 << 20;

fn requests_in_a_truncated_file(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let file = system::memory_file(c"shorter", BYTES)?;
    let map = Mapping::shared(file.as_fd(), BYTES as usize)?;
    let mut table = vm.memory.table();
    table.push(MemoryRegion {
        guest_phys_addr: THERE,
        memory_size: BYTES,
        userspace_addr: map.addr(),
        flags_padding: 0,
    });
    vm.device.set_mem_table(&table)?;
    map.fill(0, BYTES as usize, 0);

    let (header, data) = (vm.free(), GuestAddr(MIDDLE.guest));
    let status = GuestAddr(header.0 + 64);
    let gone = |offset: u64| GuestAddr(THERE + LEFT + offset);
    let read = |at| BlockRequest::read(0, header, status).data(at, 4096);
    let write = |at| BlockRequest::write(0, header, status).data(at, 4096);
    let lost = |len| Some(Answer::new(IOERR, len));
    // What is asked for, its buffers, and status and length; without those the queue stops.
    let good = read(data).buffers();
    let with = |index: usize, buf| {
        let mut bufs = good.clone();
        bufs[index] = buf;
        bufs
    };
    let cases = [
        ("data to be read", read(gone(0)), None, lost(0)),
        ("data to be written", write(gone(0)), None, lost(1)),
        (
            "partly, read",
            read(GuestAddr(THERE + LEFT - 512)),
            None,
            lost(0),
        ),
        (
            "partly, written",
            write(GuestAddr(THERE + LEFT - 512)),
            None,
            lost(1),
        ),
        (
            "in the last I/O, read",
            BlockRequest::read(0, header, status)
                .data(data, MOST)
                .data(gone(0), 4096),
            None,
            lost(0),
        ),
        (
            "in the last I/O, written",
            BlockRequest::write(0, header, status)
                .data(data, MOST)
                .data(gone(0), 4096),
            None,
            lost(1),
        ),
        ("not aligned, read", read(gone(3)), None, lost(0)),
        ("not aligned, written", write(gone(3)), None, lost(1)),
        (
            "header",
            read(data),
            Some(with(0, Buf::readable(gone(8), 16))),
            lost(0),
        ),
        (
            "half of the header",
            read(data),
            Some(with(0, Buf::readable(GuestAddr(THERE + LEFT - 8), 16))),
            lost(0),
        ),
        (
            "status",
            read(data),
            Some(with(2, Buf::writable(gone(8), 1))),
            None,
        ),
    ];
    for (name, request, bufs, expected) in cases {
        file.set_len(LEFT)?;
        let before = vm.device.stats()?.malformed;
        let bufs = bufs.unwrap_or_else(|| request.buffers());
        let request = request.preset_ok();
        match expected {
            Some(answer) => {
                let given = vm.queue().request_as(&request, &bufs);
                assert_eq!(given, answer, "{name}");
                let counted = vm.device.stats()?.malformed - before;
                assert_eq!(vm.queue().err.take()?, counted, "{name}");
            }
            None => {
                request.prepare(&*vm.memory);
                vm.queue().submit(&bufs);
                vm.await_stop(name)?;
                vm.reset_queue(&disk)?;
            }
        }
        // The same once more when there is memory again.
        file.set_len(BYTES)?;
        let header = bufs[0].addr.0.checked_sub(THERE);
        if let Some(offset) = header {
            map.write(offset as usize, &request.header_bytes());
        }
        let answer = vm.queue().request_as(&request, &bufs);
        let writable = bufs.iter().filter(|buf| buf.writable);
        assert_eq!(
            answer.len,
            writable.map(|buf| buf.len).sum::<u32>(),
            "{name}"
        );
    }

    file.set_len(LEFT)?;
    let queue = vm.queue();
    match &mut queue.driver {
        Driver::Split(driver) => {
            driver.write_descriptor(100, &desc(gone(0).0, 48, Descriptor::F_INDIRECT, 0));
            driver.post(100);
        }
        Driver::Packed(driver) => driver.post(&[packed::Descriptor {
            addr: gone(0).0,
            len: 48,
            id: 100,
            flags: packed::Descriptor::F_INDIRECT,
        }]),
    }
    queue.notify();
    vm.await_stop("indirect table")?;
    vm.reset_queue(&disk)?;

    // No request, which is told if it can be.
    let bufs = [Buf::readable(header, 8), Buf::writable(gone(8), 1)];
    vm.queue().submit(&bufs);
    vm.await_stop("half a header alone")?;
    vm.reset_queue(&disk)?;
    assert_eq!(vm.queue().request(&read(data)), Answer::new(OK, 4097));
    Ok(())
}

/// The ring stays where it was mapped, although only the device can reach that page.
fn a_ring_in_a_truncated_file(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::new(&Setup::default())?;
    let file = system::memory_file(c"shorter", BYTES)?;
    let map = Mapping::shared(file.as_fd(), BYTES as usize)?;
    let mut addr = vm.queues[0].addr();
    addr.used_user_addr = map.addr() + LEFT;
    vm.device.set_vring_addr(&addr)?;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    file.set_len(LEFT)?;
    let (header, data) = (vm.free(), GuestAddr(MIDDLE.guest));
    let status = GuestAddr(header.0 + 64);
    let read = BlockRequest::read(0, header, status).data(data, 4096);
    read.prepare(&*vm.memory);
    vm.queue().driver.add(&read.buffers()).expect("room");
    vm.queue().driver.publish();
    vm.queue().kick();
    let deadline = Instant::now() + PATIENCE;
    while vm.device.stats()?.requests == 0 {
        assert!(Instant::now() < deadline, "not served");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(vm.memory.read_u8(status), OK);
    vm.device.detach()?;
    vm.device.set_vring_addr(&addr)?;
    let again = vm.device.attach(&disk.open(Mode::ReadWrite)?);
    assert_errno("attach", again, Errno::EFAULT);
    Ok(())
}

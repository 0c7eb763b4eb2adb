// SPDX-License-Identifier: GPL-2.0

//! Memory that may not be touched, or is not there: parts of a ring and parts of a request, before
//! a disk is attached and while it is.
//!
//! A ring that is not accessible is refused with EFAULT. One that was accessible stays where it was
//! mapped, whatever happens to it afterwards. The parts of a request are looked up for each of them.
//!
//! The memory table has all of this memory, so that the guest did nothing wrong. A request that
//! can't be executed fails with IOERR where the status byte can be written. Otherwise it is not given
//! back and the queue stops: a driver that ignores the used length would take it for a success.

use crate::{
    disk::{self, Delays},
    fixtures::{
        commands::assert_errno,
        loss::{Loss, PAGE},
    },
    memory::{HIGH, MIDDLE},
    prelude::*,
};
use vblk_core::{
    ring::Format,
    testing::{Driver, Layout},
};

pub const TESTS: &[Test] = tests!["harness":
    rings_that_are_not_accessible(20),
    rings_that_lose_their_protection(20),
    requests_that_are_not_accessible(20),
];

/// The parts of a ring by name, where they lie, and whether the device writes there.
fn parts(layout: &Layout) -> [(&'static str, GuestAddr, bool); 3] {
    let packed = layout.format == Format::Packed;
    [
        ("descriptors", layout.desc, packed),
        ("driver part", layout.avail, false),
        ("device part", layout.used, true),
    ]
}

/// A device whose ring has each part in a page of its own, and a read, without a disk.
fn spread_ring() -> Result<(Vm, BlockRequest), Errno> {
    let mut vm = Vm::new(&Setup::size(16))?;
    let page = |number: u64| GuestAddr(HIGH.guest + 2 * number * PAGE as u64);
    let layout = Layout {
        desc: page(0),
        avail: page(1),
        used: page(2),
        ..*vm.queues[0].driver.layout()
    };
    begin_again(&mut vm, layout)?;
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 64));
    Ok((vm, read.data(GuestAddr(MIDDLE.guest), 4096)))
}

/// A new ring.
fn begin_again(vm: &mut Vm, layout: Layout) -> Result<(), Errno> {
    let memory = vm.memory.clone();
    let queue = &mut vm.queues[0];
    queue.driver = Driver::new(memory, layout, true);
    queue.tell_geometry(&vm.device, queue.driver.base())
}

fn rings_that_are_not_accessible(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, read) = spread_ring()?;
    let (memory, layout) = (vm.memory.clone(), *vm.queues[0].driver.layout());
    for (part, at, written) in parts(&layout) {
        for loss in Loss::ALL {
            let name = format!("{part}, {loss:?}");
            let (map, offset) = memory.mapping(at);
            let file = disk.open(Mode::ReadWrite)?;
            let attached = loss.during(map, offset, || vm.attach(&file))?;
            drop(file);
            if loss == Loss::ReadOnly && !written {
                assert_eq!(attached, Ok(()), "{name}");
            } else {
                assert_errno(&name, attached, Errno::EFAULT);
                // Nothing is attached, and the disk is free.
                begin_again(&mut vm, layout)?;
                vm.attach(&disk.open(Mode::ReadWrite)?)?;
            }
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{name}");
            vm.device.detach()?;
        }
    }
    Ok(())
}

/// Publishes a read, of which the device knows nothing yet, and asks for an interrupt.
fn publish(vm: &mut Vm, read: &BlockRequest) {
    read.prepare(&*vm.memory);
    let queue = vm.queue();
    queue.call.take().expect("call");
    queue.driver.enable_interrupt();
    queue.driver.add(&read.buffers()).expect("room");
    queue.driver.publish();
}

/// While its memory is gone, only the device looks at the ring.
fn rings_that_lose_their_protection(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, read) = spread_ring()?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let (memory, layout) = (vm.memory.clone(), *vm.queues[0].driver.layout());
    for (part, at, _) in parts(&layout) {
        let (map, offset) = memory.mapping(at);
        for loss in [Loss::ReadOnly, Loss::Protected] {
            let name = format!("{part}, {loss:?}");
            publish(&mut vm, &read);
            let queue = &vm.queues[0];
            let called = loss.during(map, offset, || {
                queue.kick();
                queue.call.wait(PATIENCE)
            })?;
            assert_eq!(called?, 1, "{name}: interrupts");
            let used = vm.queue().driver.poll_used().map(|used| used.len);
            assert_eq!(used, Some(4097), "{name}");
            assert_eq!(memory.read_u8(read.status), OK, "{name}");
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{name}");
        }
        // With the page goes what we could see of the ring, but not what the device has of it. It
        // is accessible no more when it is to be mapped once more.
        publish(&mut vm, &read);
        let (queue, file) = (&vm.queues[0], disk::open(disk.path(), Mode::ReadWrite, 0)?);
        let (called, detached, again) = Loss::Unmapped.during(map, offset, || {
            queue.kick();
            let called = queue.call.wait(PATIENCE);
            (called, vm.device.detach(), vm.attach(&file))
        })?;
        assert_eq!((called?, detached), (1, Ok(())), "{part}");
        assert_errno(part, again, Errno::EFAULT);
        assert_eq!(memory.read_u8(read.status), OK, "{part}");
        begin_again(&mut vm, layout)?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{part}");
    }
    Ok(())
}

/// A part of a request that can lie somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Status,
    Table,
}

impl Part {
    const ALL: [Self; 3] = [Self::Header, Self::Status, Self::Table];

    /// Puts `good` into the ring, but with that part of it at `there`. Gives what it is then.
    fn publish(self, vm: &mut Vm, good: &BlockRequest, there: GuestAddr) -> BlockRequest {
        let mut request = good.clone();
        match self {
            Self::Header => request.header = there,
            Self::Status => request.status = there,
            Self::Table => (),
        }
        request.prepare(&*vm.memory);
        let (queue, bufs) = (vm.queue(), request.buffers());
        queue.call.take().expect("call");
        queue.driver.enable_interrupt();
        let added = match self {
            Self::Table => queue.driver.add_indirect(&bufs, there),
            _ => queue.driver.add(&bufs),
        };
        added.expect("room");
        queue.driver.publish();
        request
    }

    /// The answer to a read of 4096 bytes, if the queue does not stop.
    fn expected(self, loss: Loss) -> Option<Answer> {
        match (self, loss) {
            // These are only read.
            (Self::Header | Self::Table, Loss::ReadOnly) => Some(Answer::new(OK, 4097)),
            (Self::Header, _) => Some(Answer::new(IOERR, 0)),
            (Self::Status | Self::Table, _) => None,
        }
    }
}

fn requests_that_are_not_accessible(_: &Context) -> Outcome {
    // Where I/O finishes where it is submitted, and where it does not.
    let slow = Delays { read: 1, write: 1 };
    for disk in [Disk::second_ram(), Disk::delayed(8 << 20, slow)?] {
        let mut vm = Vm::new(&Setup::size(16))?;
        let (memory, there) = (vm.memory.clone(), GuestAddr(HIGH.guest + PAGE as u64));
        let (map, offset) = memory.mapping(there);
        let header = vm.free();
        let good = BlockRequest::read(0, header, GuestAddr(header.0 + 64));
        let good = good.data(GuestAddr(MIDDLE.guest), 4096);
        // Attaching a disk does not need the memory of requests.
        let attach = || vm.attach(&disk.open(Mode::ReadWrite)?);
        Loss::Protected.during(map, offset, attach)??;
        for (part, loss) in Part::ALL
            .into_iter()
            .flat_map(|part| Loss::ALL.map(|loss| (part, loss)))
        {
            let name = format!("{part:?}, {loss:?}");
            // Once it was, and once it was not: that the device has seen it before changes nothing.
            assert_eq!(vm.queue().request(&good), Answer::new(OK, 4097), "{name}");
            let before = vm.device.stats()?.malformed;
            let request = part.publish(&mut vm, &good.clone().preset_ok(), there);
            match part.expected(loss) {
                Some(answer) => {
                    let queue = &vm.queues[0];
                    let called = loss.during(map, offset, || {
                        queue.kick();
                        queue.call.wait(PATIENCE)
                    })?;
                    assert_eq!(called?, 1, "{name}: interrupts");
                    let used = vm.queue().driver.poll_used().map(|used| used.len);
                    assert_eq!(used, Some(answer.len), "{name}");
                    assert_eq!(memory.read_u8(request.status), answer.status, "{name}");
                    // In this order: the counter can be read when the turn is over that tells of it.
                    let counted = vm.device.stats()?.malformed - before;
                    assert_eq!(vm.queue().err.take()?, counted, "{name}");
                }
                None => {
                    let mut stopped = || {
                        vm.queues[0].kick();
                        vm.await_stop(&name)
                    };
                    loss.during(map, offset, &mut stopped)??;
                    assert_eq!(vm.queue().call.take()?, 0, "{name}: interrupts");
                    vm.reset_queue(&disk)?;
                    assert_eq!(vm.device.stats()?.stopped_queues, 0, "{name}");
                }
            }
            // The same with the memory.
            let request = part.publish(&mut vm, &good, there);
            vm.queue().kick();
            assert_eq!(vm.queue().next_used().len, 4097, "{name}, given back");
            assert_eq!(memory.read_u8(request.status), OK, "{name}, given back");
        }
        assert_eq!(vm.device.stats()?.io_errors, 0);
    }
    Ok(())
}

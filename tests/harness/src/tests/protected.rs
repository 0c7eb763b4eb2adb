// SPDX-License-Identifier: GPL-2.0

//! Memory that may not be touched, or is not there: parts of a ring and parts of a request, before
//! a disk is attached and while it is.
//!
//! A ring that is not accessible is refused with EFAULT. One that was accessible stays where it was
//! mapped, whatever happens to it afterwards. The parts of a request are looked up for each of them.

use super::ioctls::assert_errno;
use crate::{
    context::{
        Context,
        Outcome,
        Test, //
    },
    disk::{
        self,
        Delays,
        Disk,
        Mode, //
    },
    memory::{
        HIGH,
        MIDDLE, //
    },
    sys::{
        map::{
            Access,
            Mapping, //
        },
        Errno, //
    },
    vm::{
        Answer,
        Setup,
        Vm,
        IOERR,
        OK,
        PATIENCE, //
    },
};
use vblk_core::{
    addr::GuestAddr,
    ring::Format,
    testing::{
        BlockRequest,
        Driver,
        DriverMemory,
        Layout,
        STATUS_UNWRITTEN, //
    }, //
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/rings_that_are_not_accessible", limit: 20, run: rings },
    Test { name: "harness/rings_that_lose_their_protection", limit: 20, run: rings_later },
    Test { name: "harness/requests_that_are_not_accessible", limit: 20, run: requests },
];

const PAGE: usize = 4096;

/// What may happen to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may only be read.
    ReadOnly,
    /// It may not be touched.
    Protected,
    /// There is none.
    Unmapped,
}

const FATES: [Fate; 3] = [Fate::ReadOnly, Fate::Protected, Fate::Unmapped];

impl Fate {
    /// Lets a page meet its fate while `f` does something.
    fn of<R>(self, map: &Mapping, offset: usize, f: impl FnOnce() -> R) -> Result<R, Errno> {
        let access = match self {
            Self::ReadOnly => Access::Read,
            Self::Protected => Access::None,
            Self::Unmapped => return map.without(offset, PAGE, f),
        };
        map.protect(offset, PAGE, access)?;
        let result = f();
        map.protect(offset, PAGE, Access::ReadWrite)?;
        Ok(result)
    }
}

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

fn rings(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, read) = spread_ring()?;
    let (memory, layout) = (vm.memory.clone(), *vm.queues[0].driver.layout());
    for (part, at, written) in parts(&layout) {
        for fate in FATES {
            let name = format!("{part}, {fate:?}");
            let (map, offset) = memory.mapping(at);
            let file = disk.open(Mode::ReadWrite)?;
            let attached = fate.of(map, offset, || vm.device.attach(&file))?;
            drop(file);
            if fate == Fate::ReadOnly && !written {
                assert_eq!(attached, Ok(()), "{name}");
            } else {
                assert_errno(&name, attached, Errno::EFAULT);
                // Nothing is attached, and the disk is free.
                begin_again(&mut vm, layout)?;
                vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
            }
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{name}");
            vm.device.detach()?;
        }
    }
    Ok(())
}

/// Has a read published, of which the device knows nothing yet, and an interrupt asked for.
fn publish(vm: &mut Vm, read: &BlockRequest) {
    read.prepare(&*vm.memory);
    let queue = vm.queue();
    queue.call.take().expect("call");
    queue.driver.enable_interrupt();
    queue.driver.add(&read.buffers()).expect("room");
    queue.driver.publish();
}

/// While its memory is gone, nobody but the device looks at the ring.
fn rings_later(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, read) = spread_ring()?;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    let (memory, layout) = (vm.memory.clone(), *vm.queues[0].driver.layout());
    for (part, at, _) in parts(&layout) {
        let (map, offset) = memory.mapping(at);
        for fate in [Fate::ReadOnly, Fate::Protected] {
            let name = format!("{part}, {fate:?}");
            publish(&mut vm, &read);
            let queue = &vm.queues[0];
            let called = fate.of(map, offset, || {
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
        let (called, detached, again) = Fate::Unmapped.of(map, offset, || {
            queue.kick();
            let called = queue.call.wait(PATIENCE);
            (called, vm.device.detach(), vm.device.attach(&file))
        })?;
        assert_eq!((called?, detached), (1, Ok(())), "{part}");
        assert_errno(part, again, Errno::EFAULT);
        assert_eq!(memory.read_u8(read.status), OK, "{part}");
        begin_again(&mut vm, layout)?;
        vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
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

    /// Status, length and whether it is malformed, for a read of 4096 bytes.
    fn expected(self, fate: Fate) -> (u8, u32, u64) {
        match (self, fate) {
            // These are only read.
            (Self::Header | Self::Table, Fate::ReadOnly) => (OK, 4097, 0),
            (Self::Header, _) => (IOERR, 0, 1),
            // The page of the status is zeroes afterwards, and a status of 0 no answer.
            (Self::Status, Fate::Unmapped) => (0, 0, 1),
            (Self::Status | Self::Table, _) => (STATUS_UNWRITTEN, 0, 1),
        }
    }
}

fn requests(_: &Context) -> Outcome {
    // Where I/O finishes where it is submitted, and where it does not.
    let slow = Delays { read: 1, write: 1 };
    for disk in [Disk::second_ram(), Disk::delayed(8 << 20, slow)?] {
        let mut vm = Vm::new(&Setup::size(16))?;
        let (memory, there) = (vm.memory.clone(), GuestAddr(HIGH.guest + PAGE as u64));
        let (map, offset) = memory.mapping(there);
        let header = vm.free();
        let good = BlockRequest::read(0, header, GuestAddr(header.0 + 64));
        let good = good.data(GuestAddr(MIDDLE.guest), 4096);
        // Nobody asks for the memory of requests when a disk is attached.
        let file = disk.open(Mode::ReadWrite)?;
        Fate::Protected.of(map, offset, || vm.device.attach(&file))??;
        for (part, fate) in Part::ALL
            .into_iter()
            .flat_map(|part| FATES.map(|fate| (part, fate)))
        {
            let name = format!("{part:?}, {fate:?}");
            // Once it was, and once it was not: that the device has seen it before changes nothing.
            assert_eq!(vm.queue().request(&good), Answer::new(OK, 4097), "{name}");
            let (status, len, malformed) = part.expected(fate);
            let before = vm.device.stats()?.malformed;
            let request = part.publish(&mut vm, &good, there);
            let queue = &vm.queues[0];
            let called = fate.of(map, offset, || {
                queue.kick();
                queue.call.wait(PATIENCE)
            })?;
            assert_eq!(called?, 1, "{name}: interrupts");
            let used = vm.queue().driver.poll_used().map(|used| used.len);
            assert_eq!(used, Some(len), "{name}");
            assert_eq!(memory.read_u8(request.status), status, "{name}");
            // In this order: the counter can be read when the turn is over that tells of it.
            let counted = vm.device.stats()?.malformed - before;
            let told = vm.queue().err.take()?;
            assert_eq!((counted, told), (malformed, malformed), "{name}");
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

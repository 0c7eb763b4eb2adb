// SPDX-License-Identifier: GPL-2.0

//! Properties of packed rings alone: their mistakes, their base, their event suppression. The rest
//! is tested by the tests that know no format.

use crate::{device::Device, fixtures::commands::assert_errno, memory::MIDDLE, prelude::*};
use std::time::Duration;
use vblk_core::{
    chain::MAX_INDIRECT,
    features::{bit, Features},
    packed::Descriptor,
};

pub const TESTS: &[Test] = tests!["harness":
    ring_base(20),
    ring_geometry(20),
    malformed_chains(40),
    overrun_stops_one_queue(40),
    ids_are_given_back_as_they_are(20),
];

const SIZE: u16 = 64;
const HOLE: u64 = MIDDLE.guest + MIDDLE.bytes as u64;
const DATA: u64 = MIDDLE.guest;

const NEXT: u16 = Descriptor::F_NEXT;
const WRITE: u16 = Descriptor::F_WRITE;
const INDIRECT: u16 = Descriptor::F_INDIRECT;

/// A read of one sector, its parts in the page behind the rings.
fn read_of(vm: &Vm) -> BlockRequest {
    let start = vm.free().0;
    BlockRequest::read(0, GuestAddr(start), GuestAddr(start + 64)).data(GuestAddr(DATA), 512)
}

/// A descriptor of the chain that comes back as 5.
fn desc(addr: u64, len: u32, flags: u16) -> Descriptor {
    Descriptor {
        addr,
        len,
        id: 5,
        flags,
    }
}

fn ring_base(_: &Context) -> Outcome {
    let device = Device::open()?;
    device.set_owner()?;
    device.set_features(Features::SUPPORTED.0)?;
    assert_eq!(device.vring_base(0)?, 0x8000_8000, "of a new ring");
    for num in [0, 1, 0x7fff, 0x1_0000, 0x8000_8000, 0x1234_5678, u32::MAX] {
        device.set_vring_base(0, num)?;
        assert_eq!(device.vring_base(0)?, num);
    }
    drop(device);

    // What is no place in the ring is found out when it is to be served.
    let disk = Disk::ram();
    let mut vm = Vm::new(&Setup::size(SIZE.into()))?;
    for num in [0x8000_8040, 0x8040_8000, 0x8001_8000, 0x8003_0004, u32::MAX] {
        vm.device.set_vring_base(0, num)?;
        let attached = vm.attach(&disk.open(Mode::ReadWrite)?);
        assert_errno(&format!("base {num:#x}"), attached, Errno::EINVAL);
    }
    vm.device.set_vring_base(0, 0x8000_8000)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let read = read_of(&vm);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    // While it is served, too: three descriptors.
    assert_eq!(vm.device.vring_base(0)?, 0x8003_8003);
    vm.device.detach()?;
    assert_eq!(vm.device.vring_base(0)?, 0x8003_8003);
    Ok(())
}

fn ring_geometry(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::size(SIZE.into()))?;
    let addr = vm.queues[0].addr();
    for (desc, avail, used) in [(8, 0, 0), (0, 2, 0), (0, 0, 2), (1, 0, 0)] {
        let mut off = addr;
        off.desc_user_addr += desc;
        off.avail_user_addr += avail;
        off.used_user_addr += used;
        let result = vm.device.set_vring_addr(&off);
        assert_errno(&format!("{desc} {avail} {used}"), result, Errno::EINVAL);
    }
    // Aligned for a split ring, but not for what it becomes.
    vm.device
        .set_features(Features::SUPPORTED.0 & !(1 << bit::RING_PACKED))?;
    let mut off = addr;
    off.avail_user_addr += 2;
    vm.device.set_vring_addr(&off)?;
    vm.device.set_features(Features::SUPPORTED.0)?;
    let attached = vm.device.attach(&Disk::ram().open(Mode::ReadWrite)?);
    assert_errno("attach", attached, Errno::EINVAL);
    Ok(())
}

/// Chains that can't be walked are given back whole, without a status and with length 0; those
/// that hold no request get IOERR.
fn malformed_chains(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::size(SIZE.into()), &Disk::ram())?;
    let read = read_of(&vm);
    let table = vm.free().0 + 4096;
    let (header, status) = (read.header.0, read.status.0);
    let end = desc(status, 1, WRITE);
    let outer = |len| desc(table, len, INDIRECT);
    let whole = u32::MAX;
    // As the Linux driver presets it.
    let lost = (0, OK);
    let cases = [
        (
            "indirect with next",
            vec![desc(table, 32, INDIRECT | NEXT), end],
            lost,
        ),
        (
            "indirect behind another",
            vec![desc(header, 16, NEXT), outer(32)],
            lost,
        ),
        ("indirect of no bytes", vec![outer(0)], lost),
        ("indirect of half a descriptor", vec![outer(8)], lost),
        ("indirect of two and a bit", vec![outer(33)], lost),
        ("indirect nowhere", vec![desc(HOLE, 32, INDIRECT)], lost),
        (
            "indirect behind the end",
            vec![desc(u64::MAX - 15, 32, INDIRECT)],
            lost,
        ),
        (
            "indirect too long",
            vec![outer(16 * (u32::from(MAX_INDIRECT) + 1))],
            lost,
        ),
        (
            "4 GiB to read",
            vec![desc(header, whole, NEXT), desc(DATA, whole, NEXT), end],
            lost,
        ),
        ("no request", vec![desc(DATA, 0, NEXT), end], (1, IOERR)),
        (
            "short header",
            vec![desc(header, 15, NEXT), desc(DATA, 512, WRITE | NEXT), end],
            (0, IOERR),
        ),
        ("header only", vec![desc(header, 16, 0)], lost),
    ];
    // Over the end of the ring, too.
    for round in 0..20 {
        for (name, chain, (len, byte)) in &cases {
            read.clone().preset_ok().prepare(&*vm.memory);
            let before = vm.device.stats()?;
            let queue = vm.queue();
            queue.err.take()?;
            queue.driver.packed().post(chain);
            queue.notify();
            let used = queue.next_used();
            let name = format!("{name}, round {round}");
            assert_eq!((used.id, used.len), (5, *len), "{name}: used descriptor");
            assert_eq!(vm.memory.read_u8(read.status), *byte, "{name}: status");
            let after = vm.device.stats()?;
            assert_eq!(after.malformed - before.malformed, 1, "{name}: malformed");
            assert_eq!(vm.queue().err.wait(PATIENCE)?, 1, "{name}: error eventfd");
            assert_eq!(
                vm.queue().request(&read),
                Answer::new(OK, 513),
                "{name}: the next one"
            );
        }
    }
    Ok(())
}

/// A chain that takes more descriptors than there are stops its queue, and no other.
fn overrun_stops_one_queue(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for base in [0, 17, 63, 64, 100] {
        let setup = Setup {
            queues: 2,
            base,
            ..Setup::size(SIZE.into())
        };
        let mut vm = Vm::with_disk(&setup, &disk)?;
        let read = read_of(&vm);
        assert_eq!(vm.queues[0].request(&read), Answer::new(OK, 513));
        let stands = vm.device.vring_base(0)?;
        let queue = &mut vm.queues[0];
        let next = queue.driver.next_avail();
        // All around the ring.
        for at in (0..SIZE).rev() {
            let at = next.wrapping_add(at);
            let flags = queue.driver.packed().avail_flags(at);
            queue.driver.packed().write_flags(at, flags | NEXT);
        }
        queue.kick();
        assert_eq!(queue.err.wait(PATIENCE)?, 1, "error eventfd");
        assert_eq!(vm.device.stats()?.malformed, 1);
        // It stays stopped, also when the ring is put right.
        let queue = &mut vm.queues[0];
        for at in 0..SIZE {
            let at = next.wrapping_sub(at + 1);
            let flags = queue.driver.packed().used_flags(at);
            queue.driver.packed().write_flags(at, flags);
        }
        read.prepare(queue.driver.memory());
        queue.driver.add(&read.buffers()).expect("room");
        queue.driver.publish();
        queue.kick();
        std::thread::sleep(Duration::from_millis(50));
        let driver = &vm.queues[0].driver;
        assert_eq!(
            driver.used_index(),
            driver.next_used(),
            "answers of a stopped queue"
        );
        // The other one goes on meanwhile: it has a buffer of its own.
        let other = BlockRequest {
            header: GuestAddr(read.header.0 + 256),
            status: GuestAddr(read.status.0 + 256),
            ..read.clone()
        };
        for _ in 0..10 {
            assert_eq!(vm.queues[1].request(&other), Answer::new(OK, 513));
        }
        assert_eq!(vm.device.vring_base(0)?, stands, "nothing was taken");
        // Set up again, it serves what is there.
        vm.device.detach()?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        assert_eq!(vm.queues[0].next_used().len, 513);
        assert_eq!(vm.queues[0].request(&read), Answer::new(OK, 513));
    }
    Ok(())
}

fn ids_are_given_back_as_they_are(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::size(SIZE.into()), &Disk::ram())?;
    let read = read_of(&vm);
    for id in [0, 63, 64, 0x7fff, 0x8000, 0xffff] {
        read.prepare(&*vm.memory);
        let buffers = read.buffers();
        let chain = buffers.iter().enumerate().map(|(index, buf)| {
            let write = if buf.writable { WRITE } else { 0 };
            let next = if index < 2 { NEXT } else { 0 };
            // Only that of the last one counts.
            let id = if index < 2 { !id } else { id };
            Descriptor {
                id,
                ..desc(buf.addr.0, buf.len, write | next)
            }
        });
        let queue = vm.queue();
        queue.driver.packed().post(&chain.collect::<Vec<_>>());
        queue.notify();
        let used = queue.next_used();
        assert_eq!((used.id, used.len), (id.into(), 513));
        assert_eq!(vm.memory.read_u8(read.status), OK);
    }
    Ok(())
}

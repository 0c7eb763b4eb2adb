// SPDX-License-Identifier: GPL-2.0

//! A disk that changes while it is served: larger, smaller, or read-only.

use crate::{
    disk::Delays,
    fixtures::{
        commands::assert_errno,
        place::{Place, DATA},
    },
    load::{Load, Slots, Traffic},
    prelude::*,
    rng::Rng,
    sys::{ioctl, poll::EventFd},
};
use std::{fs::File, os::fd::AsRawFd, time::Duration};
use vblk_core::{
    features::{bit, Features},
    uapi,
};

pub const TESTS: &[Test] = tests!["harness":
    wrong_files_for_the_config_call(20),
    growth_and_shrinking_are_told(60),
    a_config_change_is_told_once_to_who_listens(20),
    a_disk_that_becomes_read_only_is_told(40),
    resize_under_load(60),
];

const MIB: u64 = 1 << 20;

/// Longer than the device takes to notice a change: it looks about once a second.
const NOTICED: Duration = Duration::from_millis(2500);

/// Disks that can have another size: one that completes at once, one in a worker thread.
fn disks(bytes: u64) -> Result<[Disk; 2], Errno> {
    Ok([Disk::part(&Disk::ram(), 0, bytes)?, Disk::looped(bytes)?])
}

/// Returns the capacity in bytes as VHOST_BLK_GET_CONFIG tells it.
fn told_bytes(vm: &Vm, file: &File) -> Result<u64, Errno> {
    let (_, config) = vm.device.config(file, 1, 256)?;
    let sectors: [u8; 8] = config[..8].try_into().expect("eight bytes");
    Ok(u64::from_le_bytes(sectors) * 512)
}

fn wrong_files_for_the_config_call(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let set = |fd: i32| {
        let mut argument = fd.to_ne_bytes();
        vm.device
            .call(uapi::VHOST_BLK_SET_CONFIG_CALL, &mut argument)
            .map(drop)
    };
    let plain = File::open("/proc/self/exe")?;
    let closed = File::open("/dev/null")?.as_raw_fd();
    for attached in [false, true] {
        if attached {
            vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
        }
        for (what, fd) in [("closed", closed), ("-2", -2), ("least", i32::MIN)] {
            assert_errno(what, set(fd), Errno::EBADF);
        }
        assert_errno("a file", set(plain.as_raw_fd()), Errno::EINVAL);
        set(uapi::FD_UNBIND)?;
        set(uapi::FD_UNBIND)?;
    }
    Ok(())
}

fn growth_and_shrinking_are_told(context: &Context) -> Outcome {
    let (old, large, small) = (16 * MIB, 32 * MIB, 8 * MIB);
    let bytes = context.rng().bytes(4096);
    for (number, disk) in disks(old)?.iter().enumerate() {
        let name = disk.path().display();
        // What was there before must stay where the disk ends.
        let below = [Disk::ram()];
        let below = below.first().filter(|_| number == 0);
        if let Some(below) = below {
            below.write(small, &[0x5A; 4096])?;
            below.write(old, &[0x5A; 4096])?;
        }
        let file = disk.open(Mode::ReadWrite)?;
        let changed = EventFd::new()?;
        let mut vm = Vm::new(&Setup::default())?;
        // In either order.
        if number == 0 {
            vm.device.set_config_call(Some(&changed))?;
        }
        vm.attach(&file)?;
        vm.device.set_config_call(Some(&changed))?;
        let place = Place::of(&vm);
        vm.memory.write(DATA, &bytes);
        let mut write = |at: u64| vm.queue().request(&place.write(at / 512, 4096));

        assert_eq!(write(old), Answer::new(IOERR, 1), "{name}");
        assert_eq!(changed.take()?, 0, "{name}: nothing has changed");
        disk.resize(large)?;
        assert_eq!(changed.wait(PATIENCE)?, 1, "{name}: growth");
        for at in [old, large - 4096] {
            assert_eq!(write(at), Answer::new(OK, 1), "{name}");
            assert_eq!(disk.read(at, 4096)?, bytes, "{name}");
        }
        assert_eq!(write(large), Answer::new(IOERR, 1), "{name}");

        disk.resize(small)?;
        assert_eq!(write(small), Answer::new(IOERR, 1), "{name}");
        assert_eq!(changed.wait(PATIENCE)?, 1, "{name}: shrinking");
        assert_eq!(write(small - 4096), Answer::new(OK, 1), "{name}");
        let read = vm.queue().request(&place.read(small / 512, 4096));
        assert_eq!(read, Answer::new(IOERR, 0), "{name}");
        assert_eq!(told_bytes(&vm, &file)?, small, "{name}");
        assert_eq!(
            vm.device.stats()?.io_errors,
            0,
            "{name}: the disk was asked"
        );
        if let Some(below) = below {
            let kept = below.read(small, 4096)?;
            assert!(kept == [0x5A; 4096], "written behind the end");
        }
    }
    Ok(())
}

fn a_config_change_is_told_once_to_who_listens(_: &Context) -> Outcome {
    let disk = Disk::part(&Disk::ram(), 0, 16 * MIB)?;
    let vm = Vm::with_disk(&Setup::default(), &disk)?;
    let (first, second) = (EventFd::new()?, EventFd::new()?);

    disk.resize(8 * MIB)?;
    vm.device.set_config_call(Some(&first))?;
    assert_eq!(first.take()?, 1, "a change without an eventfd");
    assert_eq!(first.wait(NOTICED)?, 0, "the same once more");

    vm.device.set_config_call(None)?;
    disk.resize(4 * MIB)?;
    assert_eq!(first.wait(NOTICED)?, 0, "no longer wanted");
    vm.device.set_config_call(Some(&second))?;
    assert_eq!((first.take()?, second.take()?), (0, 1), "the new one");

    // The VMM that attaches a disk reads its size then: what changed while none was attached is
    // not told.
    vm.device.detach()?;
    disk.resize(16 * MIB)?;
    vm.device.set_config_call(Some(&first))?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    assert_eq!(first.wait(NOTICED)?, 0, "another disk");
    assert_eq!(second.take()?, 0, "through the old eventfd");
    disk.resize(8 * MIB)?;
    assert_eq!(first.wait(PATIENCE)?, 1, "set while there was no disk");
    vm.device.reset_owner()?;
    vm.device.set_owner()?;
    assert_eq!(first.take()?, 0, "nothing more");
    Ok(())
}

/// A disk that is read-only until this is dropped. A loop device would otherwise stay so for the
/// next one to use it.
struct ReadOnly(File);

impl ReadOnly {
    fn of(disk: &Disk) -> Result<Self, Errno> {
        let file = disk.open_direct()?;
        Self::set(&file, true)?;
        Ok(Self(file))
    }

    /// `BLKROSET`.
    fn set(file: &File, read_only: bool) -> Result<(), Errno> {
        const BLKROSET: u32 = 0x125d;
        ioctl::with_bytes(file, BLKROSET, &mut i32::from(read_only).to_ne_bytes()).map(drop)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // A failure shows in the next test that writes.
        let _ = Self::set(&self.0, false);
    }
}

fn a_disk_that_becomes_read_only_is_told(_: &Context) -> Outcome {
    let disk = Disk::looped(16 * MIB)?;
    let file = disk.open(Mode::ReadWrite)?;
    let changed = EventFd::new()?;
    let mut vm = Vm::new(&Setup::default())?;
    vm.attach(&file)?;
    vm.device.set_config_call(Some(&changed))?;
    let place = Place::of(&vm);
    let write = place.write(0, 4096);
    assert_eq!(vm.queue().request(&write), Answer::new(OK, 1));
    let read_only = ReadOnly::of(&disk)?;
    assert_eq!(vm.queue().request(&write), Answer::new(IOERR, 1));
    assert_eq!(changed.wait(PATIENCE)?, 1);
    let offered = |vm: &Vm| {
        vm.device
            .config(&file, 1, 256)
            .map(|(bits, _)| Features(bits))
    };
    assert!(offered(&vm)?.has(bit::BLK_RO));
    drop(read_only);
    assert_eq!(changed.wait(PATIENCE)?, 1);
    assert!(!offered(&vm)?.has(bit::BLK_RO));
    assert_eq!(vm.queue().request(&write), Answer::new(OK, 1));
    Ok(())
}

/// Reads and writes of a disk whose end comes and goes, checked against a model.
struct AroundTheEnd {
    slots: Slots,
    rng: Rng,
    /// The value of the bytes of each block. Slots have blocks of their own.
    model: Vec<u8>,
    /// Blocks that are always there.
    safe: u64,
    refused: u64,
}

impl Traffic for AroundTheEnd {
    const DEPTH: u64 = Slots::COUNT;

    fn next(&mut self, slot: u64) -> BlockRequest {
        let rounds = self.model.len() as u64 / Slots::COUNT;
        let block = self.rng.within(0..rounds) * Slots::COUNT + slot;
        let write = self.rng.one_in(2);
        let fill = if write { self.rng.bits() as u8 } else { 0 };
        self.slots.memory.fill(Slots::data(slot), 4096, fill);
        self.slots.request(slot, block, write)
    }

    fn answered(&mut self, slot: u64, request: &BlockRequest, answer: Answer) {
        let block = request.sector / 8;
        let read = request.data[0].writable;
        if answer.status == IOERR {
            // The model stays: what is refused must not be done either.
            assert!(block >= self.safe, "block {block} was always there");
            self.refused += 1;
            return;
        }
        assert_eq!(answer, Answer::new(OK, if read { 4097 } else { 1 }));
        let bytes = self.slots.memory.read_vec(Slots::data(slot), 4096);
        let model = &mut self.model[block as usize];
        if read {
            let right = bytes.iter().all(|byte| byte == model);
            assert!(right, "block {block} is not what was written");
        }
        *model = bytes[0];
    }
}

fn resize_under_load(context: &Context) -> Outcome {
    let (small, large) = (8 * MIB, 16 * MIB);
    let ram = Disk::ram();
    ram.write(0, &vec![0; large as usize])?;
    let disk = Disk::delayed(large, Delays { read: 2, write: 2 })?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let changed = EventFd::new()?;
    vm.device.set_config_call(Some(&changed))?;
    let traffic = AroundTheEnd {
        slots: Slots::of(&vm),
        rng: context.rng(),
        model: vec![0; (large / 4096) as usize],
        safe: small / 4096,
        refused: 0,
    };
    let queue = vm.queues.remove(0);
    let load = Load::of(traffic, queue, vm.memory.clone());
    for _ in 0..context.times(40) {
        load.await_progress();
        disk.resize(small)?;
        load.await_progress();
        disk.resize(large)?;
    }
    let (_, traffic) = load.finish_with_traffic();
    assert!(traffic.refused > 0, "no request met the end");
    // Changes that are gone before the device looks need not be told; this one stays.
    disk.resize(small)?;
    assert!(changed.wait(PATIENCE)? > 0, "no change was told");
    let found = ram.read(0, large as usize)?;
    for (block, (bytes, value)) in found.chunks(4096).zip(&traffic.model).enumerate() {
        assert!(bytes.iter().all(|byte| byte == value), "block {block}");
    }
    Ok(())
}

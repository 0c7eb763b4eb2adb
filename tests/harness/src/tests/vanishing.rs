// SPDX-License-Identifier: GPL-2.0

//! Disks that go away, and disks that keep everybody waiting.

use super::requests::{
    Place,
    DATA, //
};
use crate::{
    context::{
        Context,
        Outcome,
        Test, //
    },
    disk::{
        Delays,
        Disk,
        Mode,
        NullBlk,
        Target,
        RAM, //
    },
    sys::Errno,
    vm::{
        Answer,
        Setup,
        Vm,
        IOERR,
        OK, //
    },
};
use std::time::Duration;
use vblk_core::{
    addr::GuestAddr,
    testing::{
        BlockRequest,
        DriverMemory, //
    },
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/disk_that_disappears_under_load", limit: 60, run: disappears },
    Test { name: "harness/targets_exchanged_under_load", limit: 60, run: exchanged },
    Test { name: "harness/requests_wait_for_a_suspended_disk", limit: 20, run: suspended },
];

/// Requests that are under way at once, on each queue.
const DEPTH: u64 = 128;
const LEN: u32 = 8192;

fn request(vm: &Vm, queue: usize, slot: u64) -> BlockRequest {
    let slot = queue as u64 * DEPTH + slot;
    let header = GuestAddr(vm.free().0 + slot * 32);
    let status = GuestAddr(header.0 + 16);
    let data = GuestAddr(DATA.0 + slot * u64::from(LEN));
    let request = match slot % 2 {
        0 => BlockRequest::read(slot * 16, header, status),
        _ => BlockRequest::write(slot * 16, header, status),
    };
    request.data(data, LEN)
}

/// Puts [`DEPTH`] requests into each queue; the slots by queue and head.
fn submit(vm: &mut Vm) -> Vec<Vec<(u16, u64)>> {
    let mut heads = Vec::new();
    for queue in 0..vm.queues.len() {
        let add = |slot| {
            let request = request(vm, queue, slot);
            request.prepare(&*vm.memory);
            let head = vm.queues[queue].driver.add(&request.buffers());
            (head.expect("room"), slot)
        };
        heads.push((0..DEPTH).map(add).collect());
        vm.queues[queue].notify();
    }
    heads
}

/// Takes `count` answers of a queue, which must be the truth or tell of a failure. Gives how many
/// are good.
fn answers(vm: &mut Vm, queue: usize, heads: &mut Vec<(u16, u64)>, count: u64) -> u64 {
    let mut good = 0;
    for _ in 0..count {
        let used = vm.queues[queue].next_used();
        let at = heads
            .iter()
            .position(|(head, _)| u32::from(*head) == used.id);
        let (_, slot) = heads.swap_remove(at.expect("a request of ours"));
        let request = request(vm, queue, slot);
        let answer = Answer::new(vm.memory.read_u8(request.status), used.len);
        let (all, none) = match request.kind {
            0 => (LEN + 1, 0),
            _ => (1, 1),
        };
        if answer == Answer::new(OK, all) {
            good += 1;
        } else {
            assert_eq!(answer, Answer::new(IOERR, none), "request {slot}");
        }
    }
    assert!(heads.iter().all(|(_, slot)| *slot < DEPTH));
    good
}

fn disappears(context: &Context) -> Outcome {
    let mut rng = context.rng();
    // At least one of either kind.
    for round in 0..context.rounds(context.times(6).max(2)) {
        let disk = Disk::null(&NullBlk {
            delay: (round % 2 == 0).then_some(Duration::from_micros(500)),
            ..NullBlk::default()
        })?;
        let setup = Setup {
            queues: 2,
            ..Setup::size(1024)
        };
        let mut vm = Vm::with_disk(&setup, &disk)?;
        let mut heads = submit(&mut vm);
        let before = rng.within(0..DEPTH);
        assert_eq!(answers(&mut vm, 0, &mut heads[0], before), before);
        disk.cut_power()?;
        answers(&mut vm, 0, &mut heads[0], DEPTH - before);
        answers(&mut vm, 1, &mut heads[1], DEPTH);
        // Nothing works any more, and all is answered.
        let mut heads = submit(&mut vm);
        for (queue, heads) in heads.iter_mut().enumerate() {
            assert_eq!(answers(&mut vm, queue, heads, DEPTH), 0, "without a disk");
        }
        assert_eq!(vm.device.stats()?.requests, 4 * DEPTH);
        vm.device.detach()?;
        disk.restore_power()?;
        vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
        let mut heads = submit(&mut vm);
        for (queue, heads) in heads.iter_mut().enumerate() {
            assert_eq!(answers(&mut vm, queue, heads, DEPTH), DEPTH, "another disk");
        }
    }
    Ok(())
}

fn exchanged(context: &Context) -> Outcome {
    const SECTORS: u64 = 2 * DEPTH * 16;
    let works = [Target::delay(
        RAM.as_ref(),
        SECTORS,
        Delays { read: 1, write: 1 },
    )];
    let fails = [Target::error(SECTORS)];
    let disk = Disk::mapped(&works)?;
    let mut vm = Vm::with_disk(&Setup::size(1024), &disk)?;
    for _ in 0..context.rounds(5) {
        // Those in flight finish on the old target; then none works until there is a good one.
        let mut heads = submit(&mut vm);
        disk.load(&fails)?;
        answers(&mut vm, 0, &mut heads[0], DEPTH);
        let mut heads = submit(&mut vm);
        assert_eq!(answers(&mut vm, 0, &mut heads[0], DEPTH), 0);
        let mut heads = submit(&mut vm);
        disk.load(&works)?;
        answers(&mut vm, 0, &mut heads[0], DEPTH);
        let mut heads = submit(&mut vm);
        assert_eq!(answers(&mut vm, 0, &mut heads[0], DEPTH), DEPTH);
    }
    Ok(())
}

fn suspended(context: &Context) -> Outcome {
    let disk = Disk::mapped(&[Target::linear(RAM.as_ref(), 0, 1 << 16)])?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let bytes = context.rng().bytes(4096);
    vm.memory.write(DATA, &bytes);
    let write = Place::of(&vm).write(0, 4096);
    disk.suspend()?;
    write.prepare(&*vm.memory);
    vm.queue().submit(&write.buffers());
    assert_eq!(vm.queue().call.wait(Duration::from_millis(50))?, 0);
    assert_eq!(
        vm.queue().driver.poll_used(),
        None,
        "answered before it is done"
    );
    // Whoever controls the device does not wait with it.
    assert_eq!(vm.device.stats()?.requests, 0);
    vm.device.set_mem_table(&vm.memory.table())?;
    assert_eq!(vm.device.set_vring_num(0, 256), Err(Errno::EBUSY));
    disk.resume()?;
    assert_eq!(vm.queue().next_used().len, 1);
    assert_eq!(vm.memory.read_u8(write.status), OK);
    assert!(disk.read(0, 4096)? == bytes);
    Ok(())
}

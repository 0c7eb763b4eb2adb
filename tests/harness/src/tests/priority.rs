// SPDX-License-Identifier: GPL-2.0

//! The priority that a driver gives to its requests, and what of it reaches the disk.
//!
//! The block layer merges neighbouring requests of the same priority, and of no other. So what
//! priorities a row of requests has shows in how many of them the disk counts as merged.

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
    device::Device,
    disk::{
        Disk,
        Mode,
        NullBlk, //
    },
    sys::{
        process,
        Errno, //
    },
    vm::{
        Setup,
        Vm,
        OK, //
    },
};
use vblk_core::{
    addr::GuestAddr,
    testing::{
        BlockRequest,
        DriverMemory, //
    },
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/priorities_reach_the_disk", limit: 20, run: reach_the_disk },
    Test { name: "harness/what_is_no_priority_counts_as_none", limit: 20, run: no_priority },
    Test { name: "harness/real_time_priority_is_for_privileged_owners", limit: 20, run: real_time },
];

const NONE: u32 = 0;
const REAL_TIME: u32 = 1 << 13;
const BEST_EFFORT: u32 = 2 << 13;
const IDLE: u32 = 3 << 13;
const NOBODY: u32 = 65534;

/// The number of reads that were merged: the 2nd number of the disk's statistics, and that of
/// writes: the 6th.
pub fn merged(disk: &Disk) -> Result<u64, Errno> {
    let stat = disk.sysfs("stat")?;
    let numbers: Vec<u64> = stat
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    Ok(numbers[1] + numbers[5])
}

/// Whether neighbouring requests of these two priorities become one.
fn merge(vm: &mut Vm, disk: &Disk, priorities: [u32; 2]) -> Result<bool, Errno> {
    let place = Place::of(vm);
    let mut merges = Vec::new();
    for write in [false, true] {
        let request = |slot: u64| {
            let (header, status) = (place.header.0 + slot * 128, place.status.0 + slot * 128);
            let (header, status) = (GuestAddr(header), GuestAddr(status));
            let mut request = match write {
                true => BlockRequest::write(slot * 8, header, status),
                false => BlockRequest::read(slot * 8, header, status),
            };
            request.priority = priorities[slot as usize % 2];
            request.data(GuestAddr(DATA.0 + slot * 4096), 4096)
        };
        let requests: Vec<_> = (0..16).map(request).collect();
        let before = merged(disk)?;
        for request in &requests {
            request.prepare(&*vm.memory);
            vm.queue().driver.add(&request.buffers()).expect("room");
        }
        // All of them at once, so that the device submits them together.
        vm.queue().notify();
        for _ in &requests {
            vm.queue().next_used();
        }
        for request in &requests {
            assert_eq!(vm.memory.read_u8(request.status), OK);
        }
        merges.push(merged(disk)? > before);
    }
    assert_eq!(merges[0], merges[1], "reads and writes of {priorities:x?}");
    Ok(merges[0])
}

fn reach_the_disk(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let lowest = BEST_EFFORT | 7;
    for same in [NONE, BEST_EFFORT, lowest, IDLE, REAL_TIME | 3] {
        assert!(merge(&mut vm, &disk, [same, same])?, "{same:#x}");
    }
    for others in [
        [BEST_EFFORT, lowest],
        [lowest, IDLE],
        [NONE, IDLE],
        [NONE, REAL_TIME | 4],
        // With a hint.
        [lowest, lowest | 1 << 3],
    ] {
        assert!(!merge(&mut vm, &disk, others)?, "{others:#x?}");
    }
    Ok(())
}

fn no_priority(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    for wrong in [
        // A level without a class; classes without a name; more than 16 bits.
        7,
        4 << 13,
        7 << 13 | 4,
        1 << 16,
        IDLE | 1 << 16,
        IDLE | 1 << 31,
        u32::MAX,
    ] {
        assert!(merge(&mut vm, &disk, [NONE, wrong])?, "{wrong:#x}");
    }
    Ok(())
}

fn real_time(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    // What counts is who became the owner, not who attached the disk or does anything else.
    let device = Device::open()?;
    let mut vm = process::as_user(NOBODY, || Vm::on(device, &Setup::default()))??;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    for level in [0, 4, 7] {
        let wanted = REAL_TIME | level;
        assert!(merge(&mut vm, &disk, [NONE, wanted])?, "{wanted:#x}");
    }
    // The rest is for everybody.
    for granted in [BEST_EFFORT, IDLE] {
        assert!(!merge(&mut vm, &disk, [NONE, granted])?, "{granted:#x}");
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! The priority that a driver gives to its requests, and what of it reaches the disk.
//!
//! A disk of the kernel does not tell. But the block layer merges neighbouring requests of the same
//! priority, and of no other: so what priorities a row of requests has shows in how many of them the
//! disk counts as merged. The test disk counts the priorities themselves.

use crate::{
    device::Device,
    disk::{NullBlk, TestDisk},
    fixtures::{
        place::{Place, DATA},
        ranges::{self, range, DISCARD, SECURE_ERASE, UNMAP, WRITE_ZEROES},
    },
    prelude::*,
    sys::process,
};
use std::collections::BTreeMap;

pub const TESTS: &[Test] = tests!["harness":
    priorities_reach_the_disk(20),
    each_part_of_a_request_has_its_priority(20),
    what_is_no_priority_counts_as_none(20),
    real_time_priority_is_for_privileged_owners(20),
];

const NONE: u32 = 0;
const REAL_TIME: u32 = 1 << 13;
const BEST_EFFORT: u32 = 2 << 13;
const IDLE: u32 = 3 << 13;
const NOBODY: u32 = 65534;

/// Returns whether neighbouring requests of these two priorities become one.
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
        let before = disk.merged()?;
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
        merges.push(disk.merged()? > before);
    }
    assert_eq!(merges[0], merges[1], "reads and writes of {priorities:x?}");
    Ok(merges[0])
}

fn priorities_reach_the_disk(_: &Context) -> Outcome {
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

/// Returns the number of I/Os of each priority that reach the disk because of a request.
fn arrived(vm: &mut Vm, disk: &Disk, request: &BlockRequest) -> Result<BTreeMap<u32, u64>, Errno> {
    let before = disk.priorities()?;
    assert_eq!(vm.queue().request(request).status, OK);
    let mut seen = disk.priorities()?;
    for (priority, times) in before {
        *seen.entry(priority).or_default() -= times;
    }
    seen.retain(|_, times| *times > 0);
    Ok(seen)
}

/// A function that makes a request, and the least number of I/Os that it is.
type Kind<'a> = (&'static str, u64, &'a dyn Fn(&Vm) -> BlockRequest);

fn each_part_of_a_request_has_its_priority(_: &Context) -> Outcome {
    let disk = Disk::counting(&TestDisk {
        max_discard_sectors: u32::MAX,
        max_secure_erase_sectors: u32::MAX,
        max_write_zeroes_sectors: u32::MAX,
        write_cache: true,
        ..TestDisk::DEFAULT
    })?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let two = [range(0, 8, 0), range(16, 8, 0)];
    let long = [range(0, 4096, 0)];
    let unmapped = [range(0, 8, UNMAP)];
    let kinds: [Kind<'_>; 8] = [
        ("read", 1, &|_| place.read(0, 4096)),
        ("write", 1, &|_| place.write(0, 4096)),
        ("long write", 2, &|_| place.write(0, 2 << 20)),
        ("flush", 1, &|_| place.flush()),
        ("discard", 2, &|vm| ranges::request(vm, DISCARD, &two)),
        ("erase", 2, &|vm| ranges::request(vm, SECURE_ERASE, &two)),
        ("written zeroes", 2, &|vm| {
            ranges::request(vm, WRITE_ZEROES, &long)
        }),
        ("zeroes by the disk", 1, &|vm| {
            ranges::request(vm, WRITE_ZEROES, &unmapped)
        }),
    ];
    for (name, least, make) in kinds {
        for priority in [
            REAL_TIME | 1,
            BEST_EFFORT | 6,
            BEST_EFFORT | 6 | 1 << 3,
            IDLE,
        ] {
            let mut request = make(&vm);
            request.priority = priority;
            let seen = arrived(&mut vm, &disk, &request)?;
            let times = seen.get(&priority).copied().unwrap_or_default();
            assert_eq!(seen.len(), 1, "{name} {priority:#x}: {seen:x?}");
            assert!(times >= least, "{name} {priority:#x}: {seen:x?}");
        }
    }
    Ok(())
}

fn what_is_no_priority_counts_as_none(_: &Context) -> Outcome {
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

fn real_time_priority_is_for_privileged_owners(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    // What counts is who became the owner, not who attached the disk or does anything else.
    let device = Device::open()?;
    let mut vm = process::as_user(NOBODY, || Vm::on(device, &Setup::default()))??;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
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

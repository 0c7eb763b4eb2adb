// SPDX-License-Identifier: GPL-2.0

//! Durability of writes, as a disk with a volatile cache sees it.
//!
//! The disk here has no FUA, so that the block layer makes a write that must be durable one write
//! and one flush of the cache, and counts those.

use crate::{
    disk::NullBlk,
    fixtures::place::{Place, DATA},
    prelude::*,
};
use vblk_core::features::bit;

pub const TESTS: &[Test] = tests!["harness":
    without_flush_each_write_is_durable(20),
    writing_through_makes_each_write_durable(20),
];

const MIB: u64 = 1 << 20;

/// A disk with a cache but without FUA.
fn cached() -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        cache_mib: 1,
        fua: false,
        ..NullBlk::default()
    })
}

/// Flushes that reached the disk: the 16th number of its statistics.
fn flushes(disk: &Disk) -> Result<u64, Errno> {
    let stat = disk.sysfs("stat")?;
    let number = stat.split_whitespace().nth(15).expect("sixteen numbers");
    Ok(number.parse().expect("a number"))
}

/// Flushes that each kind of write leads to: an ordinary one, one that is copied because its
/// buffers are too odd for the disk, and one of zeroes.
fn flushes_of_writes(vm: &mut Vm, disk: &Disk) -> Result<[u64; 3], Errno> {
    let place = Place::of(vm);
    let ordinary = place.write(0, 4096);
    let odd = BlockRequest::write(8, place.header, place.status);
    let odd = odd.data(DATA, 100).data(GuestAddr(DATA.0 + 1000), 412);
    let mut range = Vec::new();
    range.extend(16u64.to_le_bytes());
    range.extend(8u32.to_le_bytes());
    range.extend(0u32.to_le_bytes());
    vm.memory.write(DATA, &range);
    let zeroes = BlockRequest::new(13, 0, place.header, place.status).data(DATA, 16);
    let mut counts = [0; 3];
    for (count, request) in counts.iter_mut().zip([ordinary, odd, zeroes]) {
        let before = flushes(disk)?;
        assert_eq!(vm.queue().request(&request), Answer::new(OK, 1));
        *count = flushes(disk)? - before;
    }
    Ok(counts)
}

fn without_flush_each_write_is_durable(_: &Context) -> Outcome {
    let disk = cached()?;
    let mut vm = Vm::with_disk(&Setup::default().without(bit::BLK_FLUSH), &disk)?;
    assert_eq!(flushes_of_writes(&mut vm, &disk)?, [1, 1, 1]);
    // Many at once may share flushes, but the last is not answered before one that follows it.
    let large = Place::of(&vm).write(0, 2 * MIB as u32);
    let before = flushes(&disk)?;
    assert_eq!(vm.queue().request(&large), Answer::new(OK, 1));
    assert!(flushes(&disk)? > before, "a write in several I/Os");
    drop(vm);

    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    assert_eq!(flushes_of_writes(&mut vm, &disk)?, [0, 0, 0]);
    let before = flushes(&disk)?;
    let place = Place::of(&vm);
    let flush = BlockRequest::flush(place.header, place.status);
    assert_eq!(vm.queue().request(&flush), Answer::new(OK, 1));
    assert_eq!(flushes(&disk)?, before + 1, "what the driver asks for");
    Ok(())
}

fn writing_through_makes_each_write_durable(_: &Context) -> Outcome {
    let disk = cached()?;
    for setup in [Setup::default(), Setup::default().without(bit::BLK_FLUSH)] {
        let mut vm = Vm::with_disk(&setup, &disk)?;
        for (writeback, expected) in [(0, 1), (1, 0), (0, 1)] {
            vm.device.set_writeback(writeback)?;
            let counts = flushes_of_writes(&mut vm, &disk)?;
            assert_eq!(counts, [expected; 3], "writeback {writeback}");
        }
        // The switch outlives the disk.
        vm.device.detach()?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        assert_eq!(flushes_of_writes(&mut vm, &disk)?, [1; 3]);
    }
    // A disk without a cache needs none.
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::with_disk(&Setup::default().without(bit::BLK_FLUSH), &disk)?;
    assert_eq!(flushes_of_writes(&mut vm, &disk)?, [0; 3]);
    Ok(())
}

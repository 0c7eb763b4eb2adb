// SPDX-License-Identifier: GPL-2.0

//! Writes that reach a disk with FUA: each of those that must be durable at once, and no other.

use crate::{
    disk::{Count, Counts, TestDisk},
    fixtures::{
        place::{Place, DATA},
        ranges::{range, send, UNMAP, WRITE_ZEROES},
    },
    prelude::*,
};
use vblk_core::features::bit;

pub const TESTS: &[Test] = tests!["harness":
    durable_writes_arrive_with_fua(20),
    cached_writes_arrive_without_fua(20),
];

/// More than one I/O has room for.
const LONG: u32 = 5 << 18;

const CACHED: TestDisk = TestDisk {
    write_cache: true,
    fua: true,
    max_write_zeroes_sectors: 1024,
    ..TestDisk::DEFAULT
};

/// The sectors of each kind of write in [`write_all`].
const SECTORS: [u64; 6] = [8, 1, LONG as u64 / 512, 8, 8, 3000];

/// Checks what reaches the disk because of each kind of write: an ordinary one, one that is copied
/// because its buffers are too odd for the disk, one that is several I/Os; zeroes that keep their
/// space, zeroes that the disk may make by itself, and more of those than it makes at a time.
fn write_all(vm: &mut Vm, disk: &Disk) -> Result<[Counts; 6], Errno> {
    let place = Place::of(vm);
    let odd = BlockRequest::write(8, place.header, place.status);
    let odd = odd.data(DATA, 100).data(GuestAddr(DATA.0 + 1000), 412);
    let mut counts: [Counts; 6] = Default::default();
    let writes = [place.write(0, 4096), odd, place.write(0, LONG)];
    let zeroes = [
        range(16, 8, 0),
        range(16, 8, UNMAP),
        range(100, 3000, UNMAP),
    ];
    let (of_writes, of_zeroes) = counts.split_at_mut(3);
    for (counts, write) in of_writes.iter_mut().zip(writes) {
        let (found, answer) = disk.counts_of(|| Ok(vm.queue().request(&write)))?;
        assert_eq!(answer, Answer::new(OK, 1));
        *counts = found;
    }
    for (counts, range) in of_zeroes.iter_mut().zip(zeroes) {
        let (found, answer) = disk.counts_of(|| Ok(send(vm, WRITE_ZEROES, &[range])))?;
        assert_eq!(answer, Answer::new(OK, 1));
        *counts = found;
    }
    Ok(counts)
}

/// Checks what reaches the disk because of a flush.
fn flush(vm: &mut Vm, disk: &Disk) -> Result<Counts, Errno> {
    let flush = Place::of(vm).flush();
    let (counts, answer) = disk.counts_of(|| Ok(vm.queue().request(&flush)))?;
    assert_eq!(answer, Answer::new(OK, 1));
    Ok(counts)
}

fn one_flush() -> Counts {
    Counts {
        preflush: Count::new(1, 0),
        ..Counts::default()
    }
}

/// Checks that all of it is written, and that each write has FUA.
fn assert_durable(counts: &[Counts; 6], why: &str) {
    for (counts, sectors) in counts.iter().zip(SECTORS) {
        assert_eq!(counts.write.sectors, sectors, "{why}");
        let only_durable = Counts {
            write: counts.write,
            fua: counts.write,
            ..Counts::default()
        };
        assert_eq!(*counts, only_durable, "{why}");
    }
}

/// No write has FUA, and what the disk can make zeroes of by itself is left to it.
fn assert_not_durable(counts: &[Counts; 6], why: &str) {
    for (counts, sectors) in counts.iter().zip(SECTORS) {
        assert_eq!((counts.fua, counts.preflush), Default::default(), "{why}");
        let all = counts.write.sectors + counts.write_zeroes.sectors;
        assert_eq!(all, sectors, "{why}");
    }
    let left = counts.each_ref().map(|counts| counts.write_zeroes.requests);
    assert_eq!(left, [0, 0, 0, 0, 1, 3], "{why}");
}

fn durable_writes_arrive_with_fua(_: &Context) -> Outcome {
    // That a disk has no FUA is the block layer's business: it flushes behind such writes.
    for fua in [true, false] {
        let disk = Disk::counting(&TestDisk { fua, ..CACHED })?;
        assert_eq!(disk.queue_limit("fua")?, u64::from(fua));
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        vm.device.set_writeback(0)?;
        assert_durable(&write_all(&mut vm, &disk)?, "writing through");
        assert_eq!(flush(&mut vm, &disk)?, one_flush());
        drop(vm);
        let mut vm = Vm::with_disk(&Setup::default().without(bit::BLK_FLUSH), &disk)?;
        assert_durable(&write_all(&mut vm, &disk)?, "no FLUSH");
    }
    Ok(())
}

fn cached_writes_arrive_without_fua(_: &Context) -> Outcome {
    let disk = Disk::counting(&CACHED)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    assert_not_durable(&write_all(&mut vm, &disk)?, "at first");
    assert_eq!(flush(&mut vm, &disk)?, one_flush());
    vm.device.set_writeback(0)?;
    assert_durable(&write_all(&mut vm, &disk)?, "switched off");
    vm.device.set_writeback(1)?;
    assert_not_durable(&write_all(&mut vm, &disk)?, "switched on again");
    Ok(())
}

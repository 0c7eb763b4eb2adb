// SPDX-License-Identifier: GPL-2.0

//! Disks that fail: each request learns the truth about itself, and the device goes on.

mod injected;
mod judge;

pub use injected::TESTS as INJECTED;

use self::judge::{filled, read, write, BAD, SECTOR};
use crate::{
    disk::{NullBlk, Target, RAM},
    fixtures::place::{Place, DATA},
    prelude::*,
};
use std::{path::Path, time::Duration};

pub const TESTS: &[Test] = tests!["harness":
    bad_sectors_fail_and_their_neighbours_work(20),
    bad_requests_fail_alone_in_a_batch(20),
    request_of_several_bios_fails_once(30),
    request_across_a_failing_target_fails(20),
    failed_flush_is_told(20),
    copied_requests_fail_like_others(20),
];

fn bad_sectors_fail_and_their_neighbours_work(context: &Context) -> Outcome {
    let interrupting = Some(Duration::from_micros(100));
    for (partial_io, delay) in [
        (false, None),
        (true, None),
        (false, interrupting),
        (true, interrupting),
    ] {
        let options = NullBlk {
            partial_io,
            delay,
            ..NullBlk::default()
        };
        let (disk, mut bytes) = filled(context, &options, 1 << 20)?;
        disk.break_sectors(BAD)?;
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let new = context.rng().bytes(1 << 20);
        // Around the bad ones, in them, over them, and up to them.
        let touching = [
            98..102,
            102..106,
            100..104,
            101..102,
            90..120,
            0..101,
            103..2000,
        ];
        let clear = [98..100, 104..106, 0..100, 104..2000];
        for sectors in &touching {
            read(&mut vm, sectors, &bytes, true);
            for sectors in &clear {
                read(&mut vm, sectors, &bytes, false);
            }
        }
        for sectors in &clear {
            write(&mut vm, sectors, &mut bytes, &new, false);
        }
        for sectors in &touching {
            write(&mut vm, sectors, &mut bytes, &new, true);
            // What a failed write leaves behind is anybody's guess.
            let after = 200..240;
            write(&mut vm, &after, &mut bytes, &new, false);
            read(&mut vm, &after, &bytes, false);
        }
        let stats = vm.device.stats()?;
        assert_eq!(stats.io_errors, 2 * touching.len() as u64);
        assert_eq!(stats.malformed, 0);
        disk.mend_sectors(BAD)?;
        write(&mut vm, &(0..2048), &mut bytes, &new, false);
        read(&mut vm, &(0..2048), &bytes, false);
    }
    Ok(())
}

fn bad_requests_fail_alone_in_a_batch(context: &Context) -> Outcome {
    const COUNT: u64 = 64;
    const GAP: u64 = 16;
    let (disk, bytes) = filled(context, &NullBlk::default(), 1 << 20)?;
    // Merged with a bad one, a good request would fail with it.
    disk.set_queue("nomerges", 2)?;
    let is_bad = |slot: u64| slot % 3 == 1;
    for slot in (0..COUNT).filter(|slot| is_bad(*slot)) {
        disk.break_sectors(slot * GAP + 3..slot * GAP + 4)?;
    }
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let header = vm.free();
    let request = |slot: u64| {
        let header = GuestAddr(header.0 + slot * 32);
        let request = BlockRequest::read(slot * GAP, header, GuestAddr(header.0 + 16));
        request.data(GuestAddr(DATA.0 + slot * 4096), 4096)
    };
    let mut slot_of = [0; 256];
    for slot in 0..COUNT {
        let request = request(slot);
        request.prepare(&*vm.memory);
        let head = vm.queue().driver.add(&request.buffers()).expect("room");
        slot_of[usize::from(head)] = slot;
    }
    vm.queue().notify();
    for _ in 0..COUNT {
        let used = vm.queue().next_used();
        let slot = slot_of[used.id as usize];
        let request = request(slot);
        let answer = Answer::new(vm.memory.read_u8(request.status), used.len);
        if is_bad(slot) {
            assert_eq!(answer, Answer::new(IOERR, 0), "request {slot}");
            continue;
        }
        assert_eq!(answer, Answer::new(OK, 4097), "request {slot}");
        let start = (slot * GAP) as usize * SECTOR;
        let read = vm.memory.read_vec(request.data[0].addr, 4096);
        assert!(read == bytes[start..start + 4096], "request {slot}");
    }
    assert_eq!(vm.device.stats()?.requests, COUNT);
    Ok(())
}

fn request_of_several_bios_fails_once(context: &Context) -> Outcome {
    const SECTORS: u64 = 7 << 11;
    let (disk, mut bytes) = filled(context, &NullBlk::default(), SECTORS as usize * SECTOR)?;
    disk.set_queue("nomerges", 2)?;
    let new = context.rng().bytes(SECTORS as usize * SECTOR);
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let all = 0..SECTORS;
    // In the first bio, in one in the middle, in the last sector of all; and in two of them.
    for bad in [&[0][..], &[SECTORS / 2], &[SECTORS - 1], &[5, SECTORS - 5]] {
        for sector in bad {
            disk.break_sectors(*sector..*sector + 1)?;
        }
        let before = vm.device.stats()?.requests;
        read(&mut vm, &all, &bytes, true);
        write(&mut vm, &all, &mut bytes, &new, true);
        assert_eq!(vm.device.stats()?.requests - before, 2);
        for sector in bad {
            disk.mend_sectors(*sector..*sector + 1)?;
        }
        write(&mut vm, &all, &mut bytes, &new, false);
        read(&mut vm, &all, &bytes, false);
    }
    Ok(())
}

fn request_across_a_failing_target_fails(context: &Context) -> Outcome {
    const EACH: u64 = 1024;
    let ram = Path::new(RAM);
    let mut bytes = context.rng().bytes(3 * EACH as usize * SECTOR);
    Disk::ram().write(0, &bytes)?;
    let good = |start| Target::linear(ram, start, EACH);
    let broken = [good(0), Target::error(EACH), good(2 * EACH)];
    let disk = Disk::mapped(&broken)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let new = context.rng().bytes(bytes.len());
    for _ in 0..2 {
        // The device mapper splits these: one part succeeds, the other does not.
        for sectors in [1020..1030, 2040..2050, 0..3072, 1024..1025] {
            read(&mut vm, &sectors, &bytes, true);
        }
        for sectors in [1016..1024, 2048..2056, 0..1024, 2048..3072] {
            read(&mut vm, &sectors, &bytes, false);
            write(&mut vm, &sectors, &mut bytes, &new, false);
            read(&mut vm, &sectors, &bytes, false);
        }
        write(&mut vm, &(1020..1030), &mut bytes, &new, true);
        // The disk recovers, under the device.
        disk.load(&[good(0), good(EACH), good(2 * EACH)])?;
        write(&mut vm, &(0..3072), &mut bytes, &new, false);
        read(&mut vm, &(0..3072), &bytes, false);
        // It becomes smaller: what is gone is refused, and not asked for.
        disk.load(&[good(0)])?;
        let errors = vm.device.stats()?.io_errors;
        read(&mut vm, &(1020..1030), &bytes, true);
        write(&mut vm, &(1024..1025), &mut bytes, &new, true);
        assert_eq!(vm.device.stats()?.io_errors, errors);
        read(&mut vm, &(0..1024), &bytes, false);
        disk.load(&broken)?;
    }
    Ok(())
}

fn failed_flush_is_told(context: &Context) -> Outcome {
    const SECTORS: u64 = 2048;
    let options = NullBlk {
        cache_mib: 1,
        ..NullBlk::default()
    };
    let (below, mut bytes) = filled(context, &options, SECTORS as usize * SECTOR)?;
    let fails = |what| [Target::flakey(below.path(), SECTORS, what)];
    let works = [Target::linear(below.path(), 0, SECTORS)];
    let disk = Disk::mapped(&works)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let flush = BlockRequest::flush(place.header, place.status);
    for round in 1..=2 {
        disk.load(&fails("error_writes"))?;
        assert_eq!(vm.queue().request(&flush), Answer::new(IOERR, 1));
        let new = context.rng().bytes(4096);
        write(&mut vm, &(8..16), &mut bytes, &new, true);
        read(&mut vm, &(0..SECTORS), &bytes, false);
        disk.load(&fails("error_reads"))?;
        read(&mut vm, &(8..16), &bytes, true);
        write(&mut vm, &(8..16), &mut bytes, &new, false);
        assert_eq!(vm.queue().request(&flush), Answer::new(OK, 1));
        disk.load(&works)?;
        assert_eq!(vm.queue().request(&flush), Answer::new(OK, 1));
        read(&mut vm, &(0..SECTORS), &bytes, false);
        let stats = vm.device.stats()?;
        assert_eq!((stats.flushes, stats.io_errors), (2 * round, 3 * round));
    }
    drop(vm);
    drop(disk);
    Ok(())
}

/// Buffers that the disk can't reach in place are copied, by code of its own.
fn copied_requests_fail_like_others(context: &Context) -> Outcome {
    const LEN: u32 = 96 << 10;
    let (disk, bytes) = filled(context, &NullBlk::default(), 1 << 20)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let odd = |mut request: BlockRequest| {
        // Neither part is a whole number of sectors.
        let mut rest = request.data[0];
        request.data[0].len = 1001;
        rest.addr = GuestAddr(DATA.0 + 1001);
        rest.len -= 1001;
        request.data.push(rest);
        request
    };
    // In the first and the last piece of what is copied.
    for bad in [1, u64::from(LEN) / 512 - 1] {
        disk.break_sectors(bad..bad + 1)?;
        let answer = vm.queue().request(&odd(place.read(0, LEN)));
        assert_eq!(answer, Answer::new(IOERR, 0), "sector {bad}");
        vm.memory.write(DATA, &bytes[..LEN as usize]);
        let answer = vm.queue().request(&odd(place.write(0, LEN)));
        assert_eq!(answer, Answer::new(IOERR, 1), "sector {bad}");
        disk.mend_sectors(bad..bad + 1)?;
        let answer = vm.queue().request(&odd(place.write(0, LEN)));
        assert_eq!(answer, Answer::new(OK, 1), "sector {bad}");
        vm.memory.fill(DATA, LEN as usize, 0);
        let answer = vm.queue().request(&odd(place.read(0, LEN)));
        assert_eq!(answer, Answer::new(OK, LEN + 1), "sector {bad}");
        assert!(vm.memory.read_vec(DATA, LEN as usize) == bytes[..LEN as usize]);
    }
    assert_eq!(vm.device.stats()?.io_errors, 4);
    Ok(())
}

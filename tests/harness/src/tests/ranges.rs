// SPDX-License-Identifier: GPL-2.0

//! Discard, write zeroes and secure erase; the writeback switch; the configuration space.

use crate::{
    device::Device,
    disk::{NullBlk, TestDisk, ZeroesError},
    fixtures::{
        place::DATA,
        ranges::{fill, range, send, u32_at, DISCARD, SECURE_ERASE, UNMAP, WRITE_ZEROES},
    },
    prelude::*,
    vm::UNSUPP,
};
use std::fs::File;
use vblk_core::features::{bit, Features};

pub const TESTS: &[Test] = tests!["harness":
    write_zeroes_reads_back_as_zeroes(30),
    many_zeroes_on_disks_of_large_blocks(60),
    several_ranges_in_one_request(30),
    discard_on_disks_that_can(30),
    what_the_disk_can_not_do_is_unsupported(30),
    range_requests_need_their_feature(20),
    zeroes_on_a_disk_that_finds_out_late_that_it_can_not(40),
];

/// Tests of commands of `/dev/vhost-blk-rs`, and of features that the disk does not have: through
/// vhost-vdpa, a driver can't accept those.
pub const OF_VHOST: &[Test] = tests!["harness":
    ranges_that_make_no_sense_change_nothing(30),
    read_only_disk_refuses_ranges(20),
    writeback_switch(20),
    configuration_space_of_a_disk(20),
    wrong_arguments_for_the_configuration_space(20),
];

const MIB: u64 = 1 << 20;

/// A ramdisk, which must be written; a null_blk; and a loop device, which makes zeroes by itself.
fn disks() -> Result<Vec<Disk>, Errno> {
    Ok(vec![
        Disk::ram(),
        Disk::null(&NullBlk::default())?,
        Disk::looped(16 * MIB)?,
    ])
}

fn write_zeroes_reads_back_as_zeroes(context: &Context) -> Outcome {
    for disk in disks()? {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        // Less than a page, many pages, and more than one I/O has room for.
        for (sector, sectors) in [(1, 1), (8, 8), (3, 77), (16, 3000), (0, 6000)] {
            for flags in [0, UNMAP] {
                let mut expected = fill(context, &disk, 4 * MIB)?;
                let answer = send(&mut vm, WRITE_ZEROES, &[range(sector, sectors, flags)]);
                assert_eq!(answer, Answer::new(OK, 1), "{sector} {sectors} {flags}");
                let at = sector as usize * 512;
                expected[at..at + sectors as usize * 512].fill(0);
                assert!(
                    disk.read(0, expected.len())? == expected,
                    "{sector} {sectors}"
                );
            }
        }
        assert_eq!(vm.device.stats()?.io_errors, 0);
    }
    Ok(())
}

/// A disk that says that it can write zeroes, and fails the first time. Linux does not write them
/// itself after an error, but after UNSUPP.
fn zeroes_on_a_disk_that_finds_out_late_that_it_can_not(context: &Context) -> Outcome {
    for error in [ZeroesError::NotSupported, ZeroesError::Target] {
        for flags in [UNMAP, 0] {
            let disk = Disk::counting(&TestDisk {
                max_write_zeroes_sectors: 64,
                write_zeroes_fails: Some(error),
                ..TestDisk::DEFAULT
            })?;
            let what = format!("{error:?}, flags {flags}");
            let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
            let mut expected = fill(context, &disk, MIB)?;
            // Several I/Os in one request, then single ones.
            for (number, (sector, sectors)) in
                [(8, 1000), (1200, 64), (1300, 8)].into_iter().enumerate()
            {
                let answer = send(&mut vm, WRITE_ZEROES, &[range(sector, sectors, flags)]);
                if number == 0 && answer == Answer::new(UNSUPP, 1) {
                    // Any part of it may be zeroes.
                    let end = (sector + u64::from(sectors)) as usize * 512;
                    let on_disk = disk.read(0, expected.len())?;
                    assert!(on_disk[..4096] == expected[..4096], "{what}: before");
                    let behind = end.next_multiple_of(4096);
                    assert!(on_disk[behind..] == expected[behind..], "{what}: behind");
                    expected = on_disk;
                    continue;
                }
                assert_eq!(answer, Answer::new(OK, 1), "{what}, request {number}");
                let at = sector as usize * 512;
                expected[at..at + sectors as usize * 512].fill(0);
                assert!(
                    disk.read(0, expected.len())? == expected,
                    "{what}, request {number}"
                );
            }
        }
    }
    Ok(())
}

/// More requests at once than there are I/Os with room for the pages of a block; and a disk that takes
/// fewer segments than a block has pages.
fn many_zeroes_on_disks_of_large_blocks(context: &Context) -> Outcome {
    // There are no such blocks without transparent huge pages.
    context.needs_debug_kernel()?;
    const BLOCK: u32 = 65536;
    const COUNT: u64 = 40;
    let blocks = TestDisk {
        block_size: BLOCK,
        physical_block_size: BLOCK,
        ..TestDisk::DEFAULT
    };
    let disk = Disk::counting(&blocks)?;
    let bytes = COUNT * u64::from(BLOCK);
    fill(context, &disk, bytes)?;
    zero_blocks(&disk, BLOCK, COUNT)?;
    assert!(disk.read(0, bytes as usize)?.iter().all(|byte| *byte == 0));
    drop(disk);
    let disk = Disk::counting(&TestDisk {
        max_segments: 4,
        ..blocks
    })?;
    zero_blocks(&disk, BLOCK, COUNT)
}

/// Zeroes as many blocks by as many requests at once.
fn zero_blocks(disk: &Disk, block: u32, count: u64) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    let sectors = block / 512;
    let requests: Vec<_> = (0..count)
        .map(|slot| {
            let header = GuestAddr(vm.free().0 + slot * 64);
            let data = GuestAddr(header.0 + 32);
            let mut range = (slot * u64::from(sectors)).to_le_bytes().to_vec();
            range.extend(sectors.to_le_bytes());
            range.extend([0; 4]);
            vm.memory.write(data, &range);
            let status = GuestAddr(header.0 + 16);
            BlockRequest::new(WRITE_ZEROES, 0, header, status).data(data, 16)
        })
        .collect();
    let before = disk.counts()?.write;
    let hold = disk.hold()?;
    for request in &requests {
        request.prepare(&*vm.memory);
        vm.queue().driver.add(&request.buffers()).expect("room");
    }
    vm.queue().notify();
    hold.await_held(count)?;
    drop(hold);
    for _ in &requests {
        vm.queue().next_used();
    }
    for request in &requests {
        assert_eq!(vm.memory.read_u8(request.status), OK);
    }
    let written = disk.counts()?.write.sectors - before.sectors;
    assert_eq!(written, count * u64::from(sectors), "sectors");
    Ok(())
}

fn several_ranges_in_one_request(context: &Context) -> Outcome {
    for disk in disks()? {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let mut expected = fill(context, &disk, MIB)?;
        let ranges: Vec<_> = (0..16).map(|i| range(i * 100, 10 + i as u32, 0)).collect();
        for range in &ranges {
            let at = range.sector as usize * 512;
            expected[at..at + range.sectors as usize * 512].fill(0);
        }
        assert_eq!(send(&mut vm, WRITE_ZEROES, &ranges), Answer::new(OK, 1));
        assert!(disk.read(0, expected.len())? == expected);
        // An empty range among others, and nothing but empty ones.
        let empty = range(5, 0, 0);
        assert_eq!(send(&mut vm, WRITE_ZEROES, &[empty]), Answer::new(OK, 1));
        assert!(disk.read(0, expected.len())? == expected);
    }
    Ok(())
}

fn discard_on_disks_that_can(context: &Context) -> Outcome {
    for disk in [Disk::ram(), Disk::looped(16 * MIB)?] {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let expected = fill(context, &disk, 4 * MIB)?;
        let answer = send(
            &mut vm,
            DISCARD,
            &[range(2048, 2048, 0), range(6144, 1024, 0)],
        );
        assert_eq!(answer, Answer::new(OK, 1), "{}", disk.path().display());
        // What was discarded may hold anything; the rest must hold what it held.
        let found = disk.read(0, expected.len())?;
        for kept in [0..1 << 20, 2 << 20..3 << 20, 7 << 19..4 << 20] {
            assert!(found[kept.clone()] == expected[kept.clone()], "{kept:?}");
        }
    }
    Ok(())
}

fn what_the_disk_can_not_do_is_unsupported(context: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let expected = fill(context, &disk, MIB)?;
    for kind in [DISCARD, SECURE_ERASE] {
        assert_eq!(
            send(&mut vm, kind, &[range(0, 8, 0)]),
            Answer::new(UNSUPP, 1)
        );
    }
    assert!(disk.read(0, expected.len())? == expected);
    Ok(())
}

fn ranges_that_make_no_sense_change_nothing(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let end = disk.bytes()? / 512;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let expected = fill(context, &disk, MIB)?;
    let good = range(0, 8, 0);
    let cases = [
        (range(end, 1, 0), IOERR),
        (range(end - 1, 2, 0), IOERR),
        (range(u64::MAX, 1, 0), IOERR),
        (range(u64::MAX / 512, 8, 0), IOERR),
        (range(0, u32::MAX, 0), IOERR),
        (range(0, (1 << 22) + 1, 0), IOERR),
        (range(0, 8, 2), UNSUPP),
        (range(0, 8, 1 << 31), UNSUPP),
    ];
    for (bad, status) in cases {
        for kind in [WRITE_ZEROES, DISCARD, SECURE_ERASE] {
            // One bad range spoils all: the good one before it is left alone too.
            let answer = send(&mut vm, kind, &[good, bad]);
            assert_eq!(answer, Answer::new(status, 1), "{kind} {}", bad.sector);
        }
    }
    for kind in [DISCARD, SECURE_ERASE] {
        let answer = send(&mut vm, kind, &[range(0, 8, UNMAP)]);
        assert_eq!(
            answer,
            Answer::new(UNSUPP, 1),
            "unmap means nothing for {kind}"
        );
    }
    assert_eq!(send(&mut vm, WRITE_ZEROES, &[]), Answer::new(IOERR, 1));
    assert_eq!(
        send(&mut vm, WRITE_ZEROES, &[good; 17]),
        Answer::new(IOERR, 1)
    );
    assert!(
        disk.read(0, expected.len())? == expected,
        "something was changed"
    );
    assert_eq!(vm.device.stats()?.malformed, 0);
    Ok(())
}

fn range_requests_need_their_feature(_: &Context) -> Outcome {
    let features = [
        (DISCARD, bit::BLK_DISCARD),
        (WRITE_ZEROES, bit::BLK_WRITE_ZEROES),
        (SECURE_ERASE, bit::BLK_SECURE_ERASE),
    ];
    let disk = Disk::ram();
    for (kind, feature) in features {
        let mut vm = Vm::with_disk(&Setup::default().without(feature), &disk)?;
        assert_eq!(
            send(&mut vm, kind, &[range(0, 8, 0)]),
            Answer::new(UNSUPP, 1)
        );
    }
    Ok(())
}

fn read_only_disk_refuses_ranges(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let expected = fill(context, &disk, MIB)?;
    let mut vm = Vm::new(&Setup::default())?;
    vm.attach(&disk.open(Mode::ReadOnly)?)?;
    for kind in [DISCARD, WRITE_ZEROES, SECURE_ERASE] {
        assert_eq!(
            send(&mut vm, kind, &[range(0, 8, 0)]),
            Answer::new(IOERR, 1)
        );
    }
    assert!(disk.read(0, expected.len())? == expected);
    Ok(())
}

fn writeback_switch(context: &Context) -> Outcome {
    // A disk with a cache: writes to it are durable only with FUA or after a flush.
    let options = NullBlk {
        cache_mib: 1,
        ..NullBlk::default()
    };
    let disk = Disk::null(&options)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    assert_eq!(vm.device.set_writeback(2), Err(Errno(libc::EINVAL)));
    for mode in [0, 1, 0] {
        vm.device.set_writeback(mode)?;
        let mut expected = fill(context, &disk, MIB)?;
        let bytes = context.rng().bytes(4096);
        vm.memory.write(DATA, &bytes);
        let header = vm.free();
        let write = BlockRequest::write(8, header, GuestAddr(header.0 + 64)).data(DATA, 4096);
        assert_eq!(vm.queue().request(&write), Answer::new(OK, 1));
        expected[4096..8192].copy_from_slice(&bytes);
        let answer = send(&mut vm, WRITE_ZEROES, &[range(100, 50, 0)]);
        assert_eq!(answer, Answer::new(OK, 1), "mode {mode}");
        expected[51200..76800].fill(0);
        assert!(disk.read(0, expected.len())? == expected, "mode {mode}");
    }
    Ok(())
}

fn configuration_space_of_a_disk(_: &Context) -> Outcome {
    let device = Device::open()?;
    let large_blocks = NullBlk {
        block_size: 4096,
        ..NullBlk::default()
    };
    for disk in [
        Disk::ram(),
        Disk::null(&large_blocks)?,
        Disk::looped(16 * MIB)?,
    ] {
        let name = disk.path().display().to_string();
        let (features, config) = device.config(&disk.open(Mode::ReadWrite)?, 3, 128)?;
        let capacity = u64::from(u32_at(&config, 0)) | u64::from(u32_at(&config, 4)) << 32;
        assert_eq!(capacity, disk.bytes()? / 512, "{name}");
        assert!((1..=126).contains(&u32_at(&config, 12)), "{name}");
        assert_eq!(u64::from(u32_at(&config, 20)), disk.block_size()?, "{name}");
        assert_eq!(config[34..36], [3, 0], "{name}");
        let features = Features(features);
        assert!(features.has(bit::BLK_MQ) && features.has(bit::BLK_WRITE_ZEROES));
        assert!(!features.has(bit::BLK_RO), "{name}");
        // What it says of discarding is what sysfs says of the disk.
        let limit = disk.queue_limit("discard_max_bytes")?;
        assert_eq!(features.has(bit::BLK_DISCARD), limit > 0, "{name}");
        assert_eq!(u32_at(&config, 36) > 0, limit > 0, "{name}");

        let (features, config) = device.config(&disk.open(Mode::ReadOnly)?, 1, 2)?;
        let features = Features(features);
        assert!(
            features.has(bit::BLK_RO) && !features.has(bit::BLK_MQ),
            "{name}"
        );
        assert!(!features.has(bit::BLK_DISCARD), "{name}");
        assert_eq!(u32_at(&config, 12), 1, "{name}");
    }
    Ok(())
}

fn wrong_arguments_for_the_configuration_space(_: &Context) -> Outcome {
    let device = Device::open()?;
    let disk = Disk::ram().open(Mode::ReadOnly)?;
    let invalid = Err(Errno(libc::EINVAL));
    for (queues, size) in [
        (0, 128),
        (257, 128),
        (1, 0),
        (1, 3),
        (1, 65536),
        (u32::MAX, 1),
    ] {
        let told = device.config(&disk, queues, size).map(drop);
        assert_eq!(told, invalid, "{queues} queues of {size}");
    }
    let file = File::open("/proc/self/status")?;
    let told = device.config(&file, 1, 128).map(drop);
    assert_eq!(told, Err(Errno(libc::ENOTBLK)));
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Secure erase on a disk that can, which none of the kernel's own test disks is.

use crate::{
    device::Device,
    disk::{Count, Counts, TestDisk, DISCARDED, ERASED},
    fixtures::ranges::{fill, range, request, send, u32_at, Range, DISCARD, SECURE_ERASE},
    prelude::*,
    vm::UNSUPP,
};
use vblk_core::{
    features::{bit, Features},
    testing::Buf,
};

pub const TESTS: &[Test] = tests!["harness":
    secure_erase_erases_its_ranges_and_nothing_else(20),
    secure_erase_as_linux_asks_for_it(20),
];

/// Tests of features that the disk does not have: through vhost-vdpa, a driver can't accept those.
pub const OF_VHOST: &[Test] = tests!["harness":
    secure_erase_refuses_what_discard_refuses(20),
];

pub const WITHOUT_RINGS: &[Test] = tests!["harness":
    secure_erase_is_announced_as_the_disk_has_it(20),
];

const MIB: u64 = 1 << 20;

/// The most that this disk erases at a time, in sectors; it discards more.
const LIMIT: u32 = 256;

const CAN_ERASE: TestDisk = TestDisk {
    max_secure_erase_sectors: LIMIT,
    max_discard_sectors: 4 * LIMIT,
    ..TestDisk::DEFAULT
};

/// Fills these ranges of what was the content of a disk.
fn overwrite(bytes: &mut [u8], ranges: &[Range], with: u8) {
    for range in ranges {
        let at = range.sector as usize * 512;
        bytes[at..at + range.sectors as usize * 512].fill(with);
    }
}

fn secure_erase_erases_its_ranges_and_nothing_else(context: &Context) -> Outcome {
    let disk = Disk::counting(&CAN_ERASE)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let mut expected = fill(context, &disk, 2 * MIB)?;
    // A sector, none, neighbours, as much as the disk takes; and as many ranges as are allowed.
    let few = vec![
        range(1, 1, 0),
        range(9, 0, 0),
        range(16, 8, 0),
        range(24, 3, 0),
        range(1000, LIMIT, 0),
    ];
    let many: Vec<_> = (0..16).map(|i| range(1300 + i * 20, 10, 0)).collect();
    // What the disk announces is not what it is asked: the block layer cuts.
    let long = vec![range(2000, 2 * LIMIT + 88, 0)];
    for (ranges, pieces) in [(few, 4), (many, 16), (long, 3)] {
        let erase = || Ok(send(&mut vm, SECURE_ERASE, &ranges));
        let (counts, answer) = disk.counts_of(erase)?;
        assert_eq!(answer, Answer::new(OK, 1));
        let sectors = ranges.iter().map(|range| u64::from(range.sectors)).sum();
        let only_erased = Counts {
            secure_erase: Count::new(pieces, sectors),
            ..Counts::default()
        };
        assert_eq!(counts, only_erased);
        overwrite(&mut expected, &ranges, ERASED);
        assert!(disk.read(0, expected.len())? == expected, "{pieces} pieces");
    }
    // To discard is less, and another request.
    let ranges = [range(3000, 100, 0)];
    let (counts, answer) = disk.counts_of(|| Ok(send(&mut vm, DISCARD, &ranges)))?;
    assert_eq!(answer, Answer::new(OK, 1));
    let only_discarded = Counts {
        discard: Count::new(1, 100),
        ..Counts::default()
    };
    assert_eq!(counts, only_discarded);
    overwrite(&mut expected, &ranges, DISCARDED);
    assert!(disk.read(0, expected.len())? == expected);
    let stats = vm.device.stats()?;
    assert_eq!((stats.io_errors, stats.malformed), (0, 0));
    Ok(())
}

/// Linux's driver puts the ranges into a buffer that the device may write.
fn secure_erase_as_linux_asks_for_it(context: &Context) -> Outcome {
    let disk = Disk::counting(&CAN_ERASE)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let mut expected = fill(context, &disk, MIB)?;
    let ranges = [range(8, 8, 0), range(100, 1, 0)];
    let mut request = request(&vm, SECURE_ERASE, &ranges);
    let given = request.data[0];
    request.data = vec![Buf::writable(given.addr, given.len)];
    let bytes = vm.memory.read_vec(given.addr, given.len as usize);
    let answer = vm.queue().request(&request);
    // Of the buffer, nothing was written.
    assert_eq!(answer, Answer::new(OK, 0));
    assert_eq!(vm.memory.read_vec(given.addr, given.len as usize), bytes);
    overwrite(&mut expected, &ranges, ERASED);
    assert!(disk.read(0, expected.len())? == expected);

    // No other request looks like that.
    let before = disk.counts()?;
    request.kind = DISCARD;
    let answer = vm.queue().request(&request);
    assert_eq!(answer, Answer::new(IOERR, 0));
    assert_eq!(disk.counts()?, before, "the disk was asked");
    Ok(())
}

fn secure_erase_refuses_what_discard_refuses(context: &Context) -> Outcome {
    let disk = Disk::counting(&CAN_ERASE)?;
    let end = disk.bytes()? / 512;
    let good = range(0, 8, 0);
    let cases = [
        (range(end, 1, 0), IOERR),
        (range(end - 1, 2, 0), IOERR),
        (range(u64::MAX, 1, 0), IOERR),
        (range(0, (1 << 22) + 1, 0), IOERR),
        // The flag of WRITE_ZEROES, and an unknown one.
        (range(0, 8, 1), UNSUPP),
        (range(0, 8, 2), UNSUPP),
    ];
    let expected = fill(context, &disk, MIB)?;
    let before = disk.counts()?;

    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    for (bad, status) in cases {
        let answer = send(&mut vm, SECURE_ERASE, &[good, bad]);
        assert_eq!(answer, Answer::new(status, 1), "{}", bad.sector);
    }
    for ranges in [&[][..], &[good; 17]] {
        let answer = send(&mut vm, SECURE_ERASE, ranges);
        assert_eq!(answer, Answer::new(IOERR, 1), "{} ranges", ranges.len());
    }
    assert_eq!(vm.device.stats()?.malformed, 0);
    drop(vm);

    // Opened for reading, and without the feature.
    let mut vm = Vm::new(&Setup::default())?;
    vm.attach(&disk.open(Mode::ReadOnly)?)?;
    let answer = send(&mut vm, SECURE_ERASE, &[good]);
    assert_eq!(answer, Answer::new(IOERR, 1), "read-only");
    drop(vm);
    let mut vm = Vm::with_disk(&Setup::default().without(bit::BLK_SECURE_ERASE), &disk)?;
    let answer = send(&mut vm, SECURE_ERASE, &[good]);
    assert_eq!(answer, Answer::new(UNSUPP, 1), "not negotiated");
    drop(vm);

    assert_eq!(disk.counts()?, before, "the disk was asked");
    assert!(disk.read(0, expected.len())? == expected);
    Ok(())
}

fn secure_erase_is_announced_as_the_disk_has_it(_: &Context) -> Outcome {
    // Limit of the disk in sectors, and its unit in bytes; what is announced of them in sectors.
    let cases = [
        (LIMIT, 512, (LIMIT, 1)),
        (2 * LIMIT, 4096, (2 * LIMIT, 8)),
        // No more than the device itself accepts.
        (u32::MAX, 512, (1 << 22, 1)),
    ];
    let device = Device::open()?;
    for (limit, unit, (sectors, alignment)) in cases {
        let disk = Disk::counting(&TestDisk {
            max_secure_erase_sectors: limit,
            max_discard_sectors: 1024,
            discard_granularity: unit,
            ..TestDisk::DEFAULT
        })?;
        let (features, config) = device.config(&disk.open(Mode::ReadWrite)?, 1, 128)?;
        assert!(Features(features).has(bit::BLK_SECURE_ERASE), "{limit}");
        let fields = [60, 64, 68].map(|at| u32_at(&config, at));
        assert_eq!(fields, [sectors, 16, alignment], "{limit}");

        let (features, _) = device.config(&disk.open(Mode::ReadOnly)?, 1, 128)?;
        assert!(!Features(features).has(bit::BLK_SECURE_ERASE), "read-only");
    }
    // One that discards is not one that erases, nor the other way round.
    for (erase, discard) in [(0, 1024), (LIMIT, 0)] {
        let disk = Disk::counting(&TestDisk {
            max_secure_erase_sectors: erase,
            max_discard_sectors: discard,
            ..TestDisk::DEFAULT
        })?;
        let (features, config) = device.config(&disk.open(Mode::ReadWrite)?, 1, 128)?;
        let features = Features(features);
        assert_eq!(features.has(bit::BLK_SECURE_ERASE), erase > 0);
        assert_eq!(features.has(bit::BLK_DISCARD), discard > 0);
        let ranges = if erase > 0 { 16 } else { 0 };
        assert_eq!([60, 64].map(|at| u32_at(&config, at)), [erase, ranges]);
    }
    Ok(())
}

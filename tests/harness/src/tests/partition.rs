// SPDX-License-Identifier: GPL-2.0

//! A partition that is served: its guest never gets outside of it.

use crate::{
    disk::{Count, Counts, TestDisk, DISCARDED, ERASED},
    fixtures::{
        place::{Place, DATA},
        ranges::{fill, range, send, DISCARD, SECURE_ERASE, UNMAP, WRITE_ZEROES},
    },
    prelude::*,
};

pub const TESTS: &[Test] = tests!["harness":
    requests_beyond_a_partition_fail(20),
    requests_stay_inside_their_partition(20),
];

const MIB: u64 = 1 << 20;

/// First sector of the partition: in the middle of a physical block.
const START: u64 = 2048 + 3;
/// Length of the partition.
const SECTORS: u64 = MIB / 512;
/// Length of the disk.
const WHOLE_SECTORS: u64 = 4 * MIB / 512;

/// A disk that can do everything.
const WHOLE: TestDisk = TestDisk {
    mib: 4,
    physical_block_size: 4096,
    max_discard_sectors: u32::MAX,
    max_secure_erase_sectors: u32::MAX,
    max_write_zeroes_sectors: u32::MAX,
    ..TestDisk::DEFAULT
};

fn requests_beyond_a_partition_fail(context: &Context) -> Outcome {
    let whole = Disk::counting(&WHOLE)?;
    let expected = fill(context, &whole, WHOLE_SECTORS * 512)?;
    let part = whole.partition(START, SECTORS * 512)?;
    let mut vm = Vm::with_disk(&Setup::default(), &part)?;
    let place = Place::of(&vm);
    let before = whole.counts()?;
    for (sector, sectors) in [
        // Over the end, and behind it, where the disk goes on.
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (0, SECTORS as u32 + 1),
        (SECTORS + 1000, 8),
        // Before the start, once that has been added.
        (u64::MAX - START + 1, 1),
        (u64::MAX, 1),
    ] {
        let read = vm.queue().request(&place.read(sector, sectors * 512));
        assert_eq!(read, Answer::new(IOERR, 0), "read {sector} {sectors}");
        let write = vm.queue().request(&place.write(sector, sectors * 512));
        assert_eq!(write, Answer::new(IOERR, 1), "write {sector} {sectors}");
        for kind in [DISCARD, WRITE_ZEROES, SECURE_ERASE] {
            let answer = send(&mut vm, kind, &[range(sector, sectors, 0)]);
            assert_eq!(answer, Answer::new(IOERR, 1), "{kind} {sector} {sectors}");
        }
    }
    assert_eq!(whole.counts()?, before, "the disk was asked");
    let stats = vm.device.stats()?;
    assert_eq!((stats.io_errors, stats.malformed), (0, 0));
    drop(vm);
    assert!(whole.read(0, expected.len())? == expected);
    Ok(())
}

fn requests_stay_inside_their_partition(context: &Context) -> Outcome {
    let whole = Disk::counting(&WHOLE)?;
    let mut expected = fill(context, &whole, WHOLE_SECTORS * 512)?;
    let part = whole.partition(START, SECTORS * 512)?;
    let mut vm = Vm::with_disk(&Setup::default(), &part)?;
    let place = Place::of(&vm);
    let bytes = context.rng().bytes(512);
    vm.memory.write(DATA, &bytes);
    for sector in [0, SECTORS - 1] {
        let write = vm.queue().request(&place.write(sector, 512));
        assert_eq!(write, Answer::new(OK, 1));
        let at = (START + sector) as usize * 512;
        expected[at..at + 512].copy_from_slice(&bytes);
    }
    assert!(whole.read(0, expected.len())? == expected, "written");

    // All of it, so that both neighbours are next to what is changed.
    let all = range(0, SECTORS as u32, 0);
    let zeroes = range(0, SECTORS as u32, UNMAP);
    let once = Count::new(1, SECTORS);
    for (kind, range, left, counts) in [
        (
            SECURE_ERASE,
            all,
            ERASED,
            Counts {
                secure_erase: once,
                ..Counts::default()
            },
        ),
        (
            WRITE_ZEROES,
            zeroes,
            0,
            Counts {
                write_zeroes: once,
                ..Counts::default()
            },
        ),
        (
            DISCARD,
            all,
            DISCARDED,
            Counts {
                discard: once,
                ..Counts::default()
            },
        ),
    ] {
        let (found, answer) = whole.counts_of(|| Ok(send(&mut vm, kind, &[range])))?;
        assert_eq!(answer, Answer::new(OK, 1), "{kind}");
        assert_eq!(found, counts, "{kind}");
        let at = START as usize * 512;
        expected[at..at + (SECTORS * 512) as usize].fill(left);
        assert!(whole.read(0, expected.len())? == expected, "{kind}");
    }
    // Zeroes that keep their space are written.
    let answer = send(&mut vm, WRITE_ZEROES, &[all]);
    assert_eq!(answer, Answer::new(OK, 1));
    let at = START as usize * 512;
    expected[at..at + (SECTORS * 512) as usize].fill(0);
    assert!(whole.read(0, expected.len())? == expected, "zeroes");
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Requests at the limits of the disk.

use crate::guest::{
    Guest,
    What,
    DATA,
    DISK,
    HEADER,
    MEMORY,
    STATUS, //
};
use vblk_core::{
    addr::Sector,
    disk::Disk,
    request::{
        Status, //
    },
    testing::{
        BlockRequest,
        Ram, //
    },
};

/// Returns whether a read and a write of this range are let through; both must be judged alike.
fn allowed(guest: &mut Guest<'_>, disk: &Disk, sector: u64, bytes: u32) -> bool {
    let read = BlockRequest::read(sector, HEADER, STATUS).data(DATA, bytes);
    let write = BlockRequest::write(sector, HEADER, STATUS).data(DATA, bytes);
    match (guest.action(&read, disk), guest.action(&write, disk)) {
        (What::Answer(Status::IoError), What::Answer(Status::IoError)) => false,
        (What::Answer(Status::Ok), What::Answer(Status::Ok)) => {
            assert_eq!(bytes, 0);
            true
        }
        (What::Read(Sector(a), b), What::Write(Sector(c), d)) => {
            assert_eq!((a, b, c, d), (sector, bytes, sector, bytes));
            true
        }
        other => panic!("{other:?} for {bytes} bytes at {sector}"),
    }
}

#[test]
fn the_last_block_is_on_the_disk_and_the_next_is_not() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let mut allowed = |sector, bytes| allowed(&mut guest, &DISK, sector, bytes);
    assert!(allowed(0, 1024 * 512));
    assert!(!allowed(0, 1025 * 512));
    assert!(allowed(1023, 512));
    assert!(!allowed(1023, 1024));
    assert!(!allowed(1024, 512));
    assert!(allowed(1024, 0));
    assert!(!allowed(1025, 0));
}

#[test]
fn a_sector_beyond_64_bits_of_bytes_is_on_no_disk() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let last = u64::MAX / 512;
    for sectors in [0, 1, 1024, last, u64::MAX] {
        let disk = Disk { sectors, ..DISK };
        for sector in [last, last + 1, last + 2, 1 << 63, u64::MAX - 1, u64::MAX] {
            assert!(
                !allowed(&mut guest, &disk, sector, 512),
                "{sector} of {sectors}"
            );
        }
        // Times 512 this is 0, 512, 1024 when it wraps.
        for sector in [1 << 55, (1 << 55) + 1, (1 << 55) + 2] {
            assert!(!allowed(&mut guest, &disk, sector, 512));
            assert!(!allowed(&mut guest, &disk, sector, 0));
        }
    }
}

#[test]
fn ranges_are_judged_as_in_plain_integers() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let last = u64::MAX / 512;
    for block_size in [512, 1024, 4096, 65536] {
        for sectors in [0, 1, 7, 8, 9, 1000, 1024, last - 8, last] {
            let disk = Disk {
                sectors,
                block_size,
                ..DISK
            };
            for sector in (0..18).chain(sectors.saturating_sub(18)..=sectors.saturating_add(9)) {
                for bytes in [
                    0,
                    1,
                    511,
                    512,
                    513,
                    1023,
                    1024,
                    4095,
                    4096,
                    4097,
                    4608,
                    8192,
                    65536,
                    u32::MAX - 16 - 511,
                    0xFFFF_0000,
                    0xFFFF_F000,
                ] {
                    let (start, end) = range_of(sector, bytes);
                    let block = u128::from(block_size);
                    let expected =
                        start % block == 0 && end % block == 0 && end <= u128::from(sectors) * 512;
                    assert_eq!(
                        allowed(&mut guest, &disk, sector, bytes),
                        expected,
                        "{bytes} bytes at {sector} of {disk:?}",
                    );
                }
            }
        }
    }
}

fn range_of(sector: u64, bytes: u32) -> (u128, u128) {
    let start = u128::from(sector) * 512;
    (start, start + u128::from(bytes))
}

#[test]
fn a_block_size_below_a_sector_is_that_of_a_sector() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    for block_size in [0, 1, 100] {
        let small = Disk { block_size, ..DISK };
        assert!(allowed(&mut guest, &small, 3, 512));
        assert!(!allowed(&mut guest, &small, 3, 100));
        assert!(!allowed(&mut guest, &small, 3, 1));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Discard and write zeroes by the io-uring back-end, on a file.

mod common;

use common::*;
use std::os::unix::fs::MetadataExt;
use vblk::disk::Options;
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    testing::{BlockRequest, DriverMemory},
};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const SECURE_ERASE: u32 = 14;
const UNMAP: u32 = 1;
const SECTORS: u64 = (4 << 20) / 512;

/// A request about ranges, each given by its first sector, its length in sectors, and flags.
fn send(rig: &mut Rig, kind: u32, ranges: &[(u64, u32, u32)]) -> (u8, u32) {
    let mut bytes = Vec::new();
    for (sector, sectors, flags) in ranges {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    rig.memory.write(GuestAddr(DATA), &bytes);
    let (header, status) = header_at(0);
    let request = BlockRequest::new(kind, 0, header, status);
    rig.request(&request.data(GuestAddr(DATA), bytes.len() as u32))
}

fn space(rig: &Rig) -> u64 {
    rig.file.as_file().metadata().unwrap().blocks()
}

#[test]
fn ranges_become_zero_and_keep_or_give_up_their_space() {
    let mut rig = Rig::new(Setup::default());
    let mut expected = pattern(1, 4 << 20);
    let mut zero = |rig: &Rig, ranges: &[(u64, u32, u32)]| {
        for (sector, sectors, _) in ranges {
            expected[*sector as usize * 512..][..*sectors as usize * 512].fill(0);
        }
        assert!(rig.disk() == expected, "{ranges:?}");
    };
    let before = space(&rig);
    // Longer than what is written at a time, and several at once, one of them empty.
    let ranges = [(8, 1024, 0), (2048, 8, 0), (100, 0, 0), (SECTORS - 8, 8, 0)];
    assert_eq!(send(&mut rig, WRITE_ZEROES, &ranges), (OK, 1));
    zero(&rig, &ranges);
    assert_eq!(space(&rig), before);
    let ranges = [(3072, 512, UNMAP), (4096, 8, 0)];
    assert_eq!(send(&mut rig, WRITE_ZEROES, &ranges), (OK, 1));
    zero(&rig, &ranges);
    assert_eq!(space(&rig), before - 512);
    let ranges = [(5120, 1024, 0)];
    assert_eq!(send(&mut rig, DISCARD, &ranges), (OK, 1));
    zero(&rig, &ranges);
    assert_eq!(space(&rig), before - 512 - 1024);
}

#[test]
fn zeroes_are_written_where_they_must_be_durable() {
    let setup = Setup::default().without(bit::BLK_FLUSH);
    let mut rig = Rig::new(setup);
    let before = space(&rig);
    let ranges = [(8, 1024, UNMAP)];
    assert_eq!(send(&mut rig, WRITE_ZEROES, &ranges), (OK, 1));
    assert_eq!(rig.disk()[8 * 512..][..1024 * 512], vec![0; 1024 * 512]);
    assert_eq!(space(&rig), before);
    // The switch says the same, and the opposite.
    rig.backend.set_writeback(true).unwrap();
    assert_eq!(send(&mut rig, WRITE_ZEROES, &ranges), (OK, 1));
    assert_eq!(space(&rig), before - 1024);
    rig.backend.set_writeback(false).unwrap();
    let ranges = [(2048, 1024, UNMAP)];
    assert_eq!(send(&mut rig, WRITE_ZEROES, &ranges), (OK, 1));
    assert_eq!(space(&rig), before - 1024);
}

#[test]
fn ranges_that_make_no_sense_change_nothing() {
    let mut rig = Rig::new(Setup::default());
    let good = (0, 8, 0);
    for kind in [DISCARD, WRITE_ZEROES] {
        for (bad, status) in [
            ((SECTORS, 1, 0), IOERR),
            ((SECTORS - 1, 2, 0), IOERR),
            ((u64::MAX, 1, 0), IOERR),
            ((0, u32::MAX, 0), IOERR),
            ((0, 8, 2), UNSUPP),
        ] {
            assert_eq!(send(&mut rig, kind, &[good, bad]), (status, 1), "{bad:?}");
        }
        assert_eq!(send(&mut rig, kind, &[]), (IOERR, 1));
        assert_eq!(send(&mut rig, kind, &[good; 17]), (IOERR, 1));
    }
    assert_eq!(send(&mut rig, DISCARD, &[(0, 8, UNMAP)]), (UNSUPP, 1));
    assert_eq!(send(&mut rig, SECURE_ERASE, &[good]), (UNSUPP, 1));
    assert!(rig.disk() == pattern(1, 4 << 20));
}

#[test]
fn range_requests_need_their_feature_and_a_disk_that_can_be_written() {
    for (kind, bit) in [
        (DISCARD, bit::BLK_DISCARD),
        (WRITE_ZEROES, bit::BLK_WRITE_ZEROES),
    ] {
        let mut rig = Rig::new(Setup::default().without(bit));
        assert_eq!(send(&mut rig, kind, &[(0, 8, 0)]), (UNSUPP, 1));
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        let mut rig = Rig::new(Setup {
            options,
            ..Setup::default()
        });
        assert_eq!(send(&mut rig, kind, &[(0, 8, 0)]), (IOERR, 1));
        assert!(rig.disk() == pattern(1, 4 << 20));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Ranges of discard, write zeroes and secure erase requests.

use vblk_core::{
    addr::Sector,
    disk::Disk,
    features::{
        bit,
        Features, //
    },
    range::{
        Range,
        RangeOp,
        RangeOps,
        MAX_RANGE_SECTORS,
        RANGE_BYTES, //
    },
    request::{
        Status, //
    },
};

const OPS: [RangeOp; 3] = [RangeOp::Discard, RangeOp::WriteZeroes, RangeOp::SecureErase];

fn disk(sectors: u64, block_size: u32) -> Disk {
    Disk {
        sectors,
        block_size,
        read_only: false,
        range_ops: RangeOps::default(),
    }
}

fn encode(sector: u64, sectors: u32, flags: u32) -> [u8; RANGE_BYTES] {
    let mut bytes = [0; RANGE_BYTES];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn a_range_on_the_disk_is_found() {
    for op in OPS {
        let range = Range::parse(&encode(5, 7, 0), op, &disk(12, 512));
        let expected = Range {
            sector: Sector(5),
            bytes: 7 * 512,
            unmap: false,
        };
        assert_eq!(range, Ok(expected), "{op:?}");
    }
}

/// "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard, secure erase and write
/// zeroes commands if any unknown flag is set. Furthermore, the device MUST set the status byte to
/// VIRTIO_BLK_S_UNSUPP for discard commands if the unmap flag is set." (virtio 1.2, 5.2.6.2) And
/// since that flag "is only used in write zeroes commands" (5.2.6), secure erase does not know it.
#[test]
fn flags_that_mean_nothing_are_unsupported() {
    for op in OPS {
        for flag in 0..32 {
            let parsed = Range::parse(&encode(0, 1, 1 << flag), op, &disk(12, 512));
            if op == RangeOp::WriteZeroes && flag == 0 {
                assert!(parsed.expect("the one known flag").unmap);
            } else {
                assert_eq!(parsed, Err(Status::Unsupported), "{op:?} {flag}");
            }
        }
    }
}

#[test]
fn a_range_must_lie_on_the_disk_in_whole_blocks() {
    let parse = |sector, sectors, disk: &Disk| {
        Range::parse(&encode(sector, sectors, 0), RangeOp::WriteZeroes, disk).map(|r| r.bytes)
    };
    let small = disk(16, 512);
    assert_eq!(parse(0, 16, &small), Ok(8192));
    assert_eq!(parse(15, 1, &small), Ok(512));
    assert_eq!(parse(16, 0, &small), Ok(0));
    for (sector, sectors) in [
        (0, 17),
        (15, 2),
        (16, 1),
        (u64::MAX, 1),
        (u64::MAX / 512, 9),
    ] {
        assert_eq!(
            parse(sector, sectors, &small),
            Err(Status::IoError),
            "{sector} {sectors}"
        );
    }
    let large_blocks = disk(16, 4096);
    assert_eq!(parse(8, 8, &large_blocks), Ok(4096));
    for (sector, sectors) in [(1, 8), (0, 7), (4, 4)] {
        assert_eq!(parse(sector, sectors, &large_blocks), Err(Status::IoError));
    }
}

#[test]
fn a_range_is_at_most_as_long_as_announced() {
    let huge = disk(u64::MAX / 512, 512);
    let parse = |sectors| Range::parse(&encode(0, sectors, 0), RangeOp::Discard, &huge);
    assert_eq!(
        parse(MAX_RANGE_SECTORS).map(|range| u64::from(range.bytes)),
        Ok(u64::from(MAX_RANGE_SECTORS) * 512)
    );
    for sectors in [MAX_RANGE_SECTORS + 1, 1 << 23, u32::MAX] {
        assert_eq!(parse(sectors), Err(Status::IoError), "{sectors}");
    }
}

#[test]
fn what_was_negotiated_is_what_can_be_done() {
    let bits = [
        (bit::BLK_DISCARD, RangeOp::Discard),
        (bit::BLK_WRITE_ZEROES, RangeOp::WriteZeroes),
        (bit::BLK_SECURE_ERASE, RangeOp::SecureErase),
    ];
    for (number, allowed) in bits {
        let ops = RangeOps::negotiated(Features(1 << number));
        for op in OPS {
            assert_eq!(ops.has(op), op == allowed, "{op:?} with bit {number}");
        }
    }
}

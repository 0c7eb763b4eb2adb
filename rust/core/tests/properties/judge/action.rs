// SPDX-License-Identifier: GPL-2.0

//! The action for a request, in numbers that do not wrap.

use super::reference::Memory;
use vblk_core::{
    disk::Disk,
    range::{
        Range,
        RangeOp,
        RangeOps,
        RANGE_BYTES, //
    },
    request::{
        Action,
        Payload,
        Request,
        RequestType,
        Status, //
    },
};

/// Returns one of many disks, sensible and not.
pub fn disk(choice: u8) -> Disk {
    let sectors = [0, 8, 0x2000, 1 << 40, u64::MAX >> 9, u64::MAX];
    let blocks = [512, 1024, 4096, 65536];
    let has = |bit: u8| choice >> bit & 1 != 0;
    Disk {
        sectors: sectors[usize::from(choice) % sectors.len()],
        block_size: blocks[usize::from(choice >> 3) % blocks.len()],
        read_only: has(5),
        range_ops: RangeOps {
            discard: has(6),
            write_zeroes: has(7),
            secure_erase: has(4),
        },
    }
}

/// Returns whether these bytes are whole blocks of the disk, as far as 64 bits can count bytes.
fn on(disk: &Disk, sector: u64, bytes: u128) -> bool {
    let (start, block) = (u128::from(sector) * 512, u128::from(disk.block_size));
    let end = start + bytes;
    let last = (u128::from(disk.sectors) * 512).min(u64::MAX.into());
    start % block == 0 && end % block == 0 && end <= last
}

/// An action without the places.
#[derive(Debug, PartialEq)]
enum Plain {
    Read,
    Write,
    Flush,
    GetId,
    Ranges(RangeOp),
    Answer(Status),
}

fn expected(request: &Request<'_>, disk: &Disk) -> Plain {
    let moved = |data: &Payload<'_>, action| match data.bytes() {
        bytes if !on(disk, request.sector.0, bytes.into()) => Plain::Answer(Status::IoError),
        0 => Plain::Answer(Status::Ok),
        _ => action,
    };
    match request.kind {
        RequestType::In => moved(&request.data_in, Plain::Read),
        RequestType::Out if disk.read_only => Plain::Answer(Status::IoError),
        RequestType::Out => moved(&request.data_out, Plain::Write),
        RequestType::Flush => Plain::Flush,
        RequestType::GetId => Plain::GetId,
        RequestType::Ranges(op) if disk.range_ops.has(op) => {
            let bytes = match (op, request.data_out.bytes()) {
                (RangeOp::SecureErase, 0) => request.data_in.bytes(),
                (_, bytes) => bytes,
            };
            match !disk.read_only && bytes % 16 == 0 && (1..=16).contains(&(bytes / 16)) {
                true => Plain::Ranges(op),
                false => Plain::Answer(Status::IoError),
            }
        }
        RequestType::Ranges(_) | RequestType::Unsupported(_) => Plain::Answer(Status::Unsupported),
    }
}

/// Compares what is to be done for `request`, and what lengths are told, with the reference.
pub fn judge(memory: &Memory<'_>, request: &Request<'_>, disk: &Disk) {
    let found = match request.action(disk) {
        Action::Read { sector, data } => {
            assert_eq!(
                (sector, data.bytes()),
                (request.sector, request.data_in.bytes())
            );
            Plain::Read
        }
        Action::Write { sector, data } => {
            assert_eq!(
                (sector, data.bytes()),
                (request.sector, request.data_out.bytes())
            );
            Plain::Write
        }
        Action::Flush => Plain::Flush,
        Action::GetId { data } => {
            assert_eq!(data.bytes(), request.data_in.bytes());
            Plain::GetId
        }
        Action::Ranges { op, data } => {
            ranges(memory, op, &data, disk);
            Plain::Ranges(op)
        }
        Action::Answer(status) => Plain::Answer(status),
    };
    assert_eq!(found, expected(request, disk), "on {disk:?}");

    let all = request.data_in.bytes();
    for done in [0, all / 2, all.saturating_sub(1), all] {
        let told = if done == all { done + 1 } else { done };
        assert_eq!(request.used_len(done), told, "{done} of {all} bytes");
    }
}

fn ranges(memory: &Memory<'_>, op: RangeOp, data: &Payload<'_>, disk: &Disk) {
    let read = |(addr, len): (u64, u32)| memory.bytes(addr.into(), len.into());
    let pieces = data.pieces().map(|piece| (piece.addr.0, piece.len));
    let Some(bytes) = pieces.map(read).collect::<Option<Vec<_>>>() else {
        return;
    };
    for range in bytes.concat().chunks_exact(RANGE_BYTES) {
        let number = |from: usize, to: usize| {
            let digits = range[from..to].iter().rev();
            digits.fold(0, |sum, digit| sum << 8 | u64::from(*digit))
        };
        let (sector, sectors, flags) = (number(0, 8), number(8, 12), number(12, 16));
        let unmap = flags == 1 && op == RangeOp::WriteZeroes;
        let expected = if flags != 0 && !unmap {
            Err(Status::Unsupported)
        } else if sectors > 1 << 22 || !on(disk, sector, u128::from(sectors) * 512) {
            Err(Status::IoError)
        } else {
            Ok((sector, sectors * 512, unmap))
        };
        let bytes = range.try_into().expect("16 bytes");
        let found = Range::parse(bytes, op, disk)
            .map(|range| (range.sector.0, range.bytes.into(), range.unmap));
        assert_eq!(found, expected, "{op:?} on {disk:?}");
    }
}

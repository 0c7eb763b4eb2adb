// SPDX-License-Identifier: GPL-2.0

//! The work that a request asks for.

use crate::guest::{
    Guest,
    What,
    DATA,
    DISK,
    HEADER,
    IO_ERROR,
    MEMORY,
    STATUS, //
};
use vblk_core::{
    addr::Sector,
    disk::Disk,
    range::{
        RangeOp,
        RangeOps, //
    },
    request::{
        Status, //
    },
    testing::{
        BlockRequest,
        Buf,
        Ram, //
    },
};

#[test]
fn each_type_asks_for_what_the_specification_says() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let mut act = |request: BlockRequest| guest.action(&request, &DISK);
    let read = BlockRequest::read(8, HEADER, STATUS);
    let write = BlockRequest::write(8, HEADER, STATUS);
    assert_eq!(
        act(read.clone().data(DATA, 1024)),
        What::Read(Sector(8), 1024)
    );
    assert_eq!(
        act(write.clone().data(DATA, 1024)),
        What::Write(Sector(8), 1024)
    );
    // Nothing to move, nothing to fail.
    assert_eq!(act(read), What::Answer(Status::Ok));
    assert_eq!(act(write), What::Answer(Status::Ok));
    assert_eq!(act(BlockRequest::flush(HEADER, STATUS)), What::Flush);
    let get_id = BlockRequest::get_id(HEADER, STATUS);
    for len in [0, 1, 20, 21, 512] {
        assert_eq!(act(get_id.clone().data(DATA, len)), What::GetId(len));
    }
}

#[test]
fn the_sector_of_a_flush_and_of_an_unknown_type_means_nothing() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let mut act = |kind| guest.action(&BlockRequest::new(kind, u64::MAX, HEADER, STATUS), &DISK);
    assert_eq!(act(4), What::Flush);
    for unknown in [
        2,
        3,
        5,
        6,
        7,
        9,
        10,
        11,
        13,
        14,
        16,
        0x100,
        0x8000_0000,
        u32::MAX,
    ] {
        assert_eq!(act(unknown), What::Answer(Status::Unsupported));
    }
}

#[test]
fn a_read_only_disk_refuses_every_write_and_nothing_else() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let disk = Disk {
        read_only: true,
        ..DISK
    };
    let write = BlockRequest::write(0, HEADER, STATUS);
    assert_eq!(guest.action(&write, &disk), IO_ERROR);
    assert_eq!(guest.action(&write.data(DATA, 512), &disk), IO_ERROR);
    let read = BlockRequest::read(0, HEADER, STATUS).data(DATA, 512);
    assert_eq!(guest.action(&read, &disk), What::Read(Sector(0), 512));
    let flush = BlockRequest::flush(HEADER, STATUS);
    assert_eq!(guest.action(&flush, &disk), What::Flush);
    let get_id = BlockRequest::get_id(HEADER, STATUS).data(DATA, 20);
    assert_eq!(guest.action(&get_id, &disk), What::GetId(20));
}

/// Virtio 1.2, 2.7.8.2: "The device MUST write at least len bytes to descriptor, beginning at the
/// first device-writable buffer, prior to updating the used idx. The device MAY write more than
/// len bytes to descriptor."
#[test]
fn the_length_never_claims_a_byte_that_was_not_written() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let mut used_len = |request: BlockRequest, data_bytes| {
        request.prepare(&ram);
        guest.with(&request.buffers(), false, |parsed| {
            parsed.expect("a request").used_len(data_bytes)
        })
    };
    let read = BlockRequest::read(0, HEADER, STATUS).data(DATA, 1024);
    // All data, then the status behind it.
    assert_eq!(used_len(read.clone(), 1024), 1025);
    // The status was written, but between it and the data lies what was not.
    assert_eq!(used_len(read.clone(), 1023), 1023);
    assert_eq!(used_len(read.clone(), 512), 512);
    assert_eq!(used_len(read, 0), 0);
    // The status is all that is writable.
    let write = BlockRequest::write(0, HEADER, STATUS).data(DATA, 1024);
    assert_eq!(used_len(write, 0), 1);
    assert_eq!(used_len(BlockRequest::flush(HEADER, STATUS), 0), 1);
    let get_id = BlockRequest::get_id(HEADER, STATUS);
    assert_eq!(used_len(get_id.clone().data(DATA, 20), 20), 21);
    assert_eq!(used_len(get_id.clone().data(DATA, 7), 7), 8);
    assert_eq!(used_len(get_id.data(DATA, 512), 20), 20);
    // As many bytes as a chain can have.
    let largest = u32::MAX - 16 - 1;
    let read = BlockRequest::read(0, HEADER, STATUS).data(DATA, largest);
    assert_eq!(used_len(read, largest), largest + 1);
}

fn with_ranges(kind: u32, bytes: u32) -> BlockRequest {
    BlockRequest::new(kind, 0, HEADER, STATUS).data(DATA, bytes)
}

#[test]
fn requests_about_ranges_must_be_negotiated() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let unsupported = What::Answer(Status::Unsupported);
    let kinds = [
        (11, RangeOp::Discard),
        (13, RangeOp::WriteZeroes),
        (14, RangeOp::SecureErase),
    ];
    for (kind, op) in kinds {
        for (_, allowed) in kinds {
            let disk = Disk {
                range_ops: RangeOps {
                    discard: allowed == RangeOp::Discard,
                    write_zeroes: allowed == RangeOp::WriteZeroes,
                    secure_erase: allowed == RangeOp::SecureErase,
                },
                ..DISK
            };
            let expected = if op == allowed {
                What::Ranges(op, 16)
            } else {
                What::Answer(Status::Unsupported)
            };
            assert_eq!(guest.action(&with_ranges(kind, 16), &disk), expected);
        }
        assert_eq!(guest.action(&with_ranges(kind, 16), &DISK), unsupported);
    }
}

#[test]
fn a_request_about_ranges_has_one_to_sixteen_whole_ones() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let disk = Disk {
        range_ops: RangeOps {
            discard: true,
            ..RangeOps::default()
        },
        ..DISK
    };
    for bytes in 0..=300 {
        let expected = if bytes > 0 && bytes <= 256 && bytes % 16 == 0 {
            What::Ranges(RangeOp::Discard, bytes)
        } else {
            IO_ERROR
        };
        assert_eq!(
            guest.action(&with_ranges(11, bytes), &disk),
            expected,
            "{bytes}"
        );
    }
    let read_only = Disk {
        read_only: true,
        ..disk
    };
    assert_eq!(guest.action(&with_ranges(11, 16), &read_only), IO_ERROR);
}

/// Linux's driver takes 14 for a type that reads, since it is even.
#[test]
fn ranges_to_erase_are_found_in_writable_buffers_too() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let disk = Disk {
        range_ops: RangeOps {
            discard: true,
            write_zeroes: true,
            secure_erase: true,
        },
        ..DISK
    };
    let mut act = |kind, readable: u32, writable| {
        let mut request = BlockRequest::new(kind, 0, HEADER, STATUS);
        if readable > 0 {
            request.data.push(Buf::readable(DATA, readable));
        }
        request.data.push(Buf::writable(DATA, writable));
        guest.action(&request, &disk)
    };
    assert_eq!(act(14, 0, 32), What::Ranges(RangeOp::SecureErase, 32));
    // What is where it belongs counts.
    assert_eq!(act(14, 16, 32), What::Ranges(RangeOp::SecureErase, 16));
    for bytes in [1, 17, 272] {
        assert_eq!(act(14, 0, bytes), IO_ERROR, "{bytes}");
    }
    for kind in [11, 13] {
        assert_eq!(act(kind, 0, 32), IO_ERROR, "{kind}");
    }
}

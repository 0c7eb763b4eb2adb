// SPDX-License-Identifier: GPL-2.0

//! Requests in every layout, their limits, and the length that is reported for them.

mod common;

use common::{
    Device,
    RING, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr,
        Sector, //
    },
    range::{
        RangeOp,
        RangeOps, //
    },
    request::{
        Action,
        Disk,
        NotARequest,
        Payload,
        Request,
        RequestType,
        Status, //
    },
    testing::{
        cut,
        join, //
        BlockRequest,
        Buf,
        DriverMemory,
        Layout,
        Ram,
        SplitDriver,
    },
};

const MEMORY: usize = 0x10_0000;
const HEADER: GuestAddr = GuestAddr(0x2_0000);
const DATA: GuestAddr = GuestAddr(0x3_0000);
const STATUS: GuestAddr = GuestAddr(0x4_0000);
const TABLE: GuestAddr = GuestAddr(0x5_0000);

const DISK: Disk = Disk {
    sectors: 1024,
    block_size: 512,
    read_only: false,
    range_ops: RangeOps {
        discard: false,
        write_zeroes: false,
        secure_erase: false,
    },
};

/// A request without the buffers that it borrows.
#[derive(Debug, PartialEq)]
struct Parsed {
    kind: RequestType,
    sector: u64,
    /// The address of each byte.
    data_out: Vec<u64>,
    data_in: Vec<u64>,
    status: u64,
}

/// A guest for one request after the other.
struct Guest<'a> {
    driver: SplitDriver<&'a Ram>,
    device: Device<'a>,
}

impl<'a> Guest<'a> {
    fn new(ram: &'a Ram) -> Self {
        let layout = Layout::with_size(64, RING);
        Self {
            driver: SplitDriver::new(ram, layout, false),
            device: Device::new(ram, &layout),
        }
    }

    /// What `judge` makes of the chain of these buffers.
    fn with<T>(
        &mut self,
        bufs: &[Buf],
        indirect: bool,
        judge: impl FnOnce(Result<Request<'_>, NotARequest>) -> T,
    ) -> T {
        let table = indirect.then_some((TABLE, bufs));
        let direct = if indirect { &[] } else { bufs };
        let head = self.driver.add_chain(direct, table);
        head.expect("enough descriptors");
        self.driver.publish();
        let head = self.device.pop();
        let ram = self.device.ram;
        let chain = self.device.walk(head).expect("a chain");
        let answer = judge(Request::parse(&chain, &ram.table(), ram));
        // The descriptors are needed again.
        let layout = *self.driver.layout();
        self.driver = SplitDriver::starting_at(ram, layout, false, self.driver.next_avail());
        answer
    }

    fn parse(&mut self, bufs: &[Buf], indirect: bool) -> Result<Parsed, NotARequest> {
        self.with(bufs, indirect, |request| {
            let request = request?;
            Ok(Parsed {
                kind: request.kind,
                sector: request.sector.0,
                data_out: bytes_of(&request.data_out),
                data_in: bytes_of(&request.data_in),
                status: request.status.0,
            })
        })
    }

    /// What to do for this request, whose data is not touched.
    fn action(&mut self, request: &BlockRequest, disk: &Disk) -> What {
        request.prepare(&self.device.ram);
        self.with(&request.buffers(), false, |parsed| {
            match parsed.expect("a request").action(disk) {
                Action::Read { sector, data } => What::Read(sector, data.bytes()),
                Action::Write { sector, data } => What::Write(sector, data.bytes()),
                Action::Flush => What::Flush,
                Action::GetId { data } => What::GetId(data.bytes()),
                Action::Ranges { op, data } => What::Ranges(op, data.bytes()),
                Action::Answer(status) => What::Answer(status),
            }
        })
    }
}

#[derive(Debug, PartialEq)]
enum What {
    Read(Sector, u32),
    Write(Sector, u32),
    Flush,
    GetId(u32),
    Ranges(RangeOp, u32),
    Answer(Status),
}

const IO_ERROR: What = What::Answer(Status::IoError);

/// The address of each byte of a payload, whose pieces must be what it says they are.
fn bytes_of(payload: &Payload<'_>) -> Vec<u64> {
    let pieces: Vec<_> = payload.pieces().collect();
    assert!(pieces.iter().all(|piece| piece.len > 0));
    let bytes: Vec<_> = pieces
        .iter()
        .flat_map(|piece| (0..u64::from(piece.len)).map(|i| piece.addr.0 + i))
        .collect();
    assert_eq!(bytes.len(), payload.bytes() as usize);
    bytes
}

fn range(from: GuestAddr, len: u64) -> Vec<u64> {
    (from.0..from.0 + len).collect()
}

/// Some unknown type with data both ways: 5 bytes to the device, 4 bytes from it.
fn both_ways() -> (BlockRequest, Parsed) {
    let mut request = BlockRequest::new(0xABCD, 0x0123_4567_89AB_CDEF, HEADER, STATUS);
    request.data = vec![Buf::readable(DATA, 5), Buf::writable(DATA, 4)];
    let expected = Parsed {
        kind: RequestType::Unsupported(0xABCD),
        sector: 0x0123_4567_89AB_CDEF,
        data_out: range(DATA, 5),
        data_in: range(DATA, 4),
        status: STATUS.0,
    };
    (request, expected)
}

#[test]
fn header_data_and_status_may_be_cut_at_any_two_places_and_the_rest_anywhere() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    let readable = 16 + 5;
    for first in 1..=readable {
        for second in first..=readable {
            // Each subset of the places between the 4 bytes of data and the status.
            for subset in 0..16 {
                let mut cuts = vec![first, second];
                cuts.extend(
                    (0..4)
                        .filter(|i| subset >> i & 1 != 0)
                        .map(|i| readable + 1 + i),
                );
                let bufs = cut(&request.buffers(), &cuts);
                for indirect in [false, true] {
                    let parsed = guest.parse(&bufs, indirect);
                    assert_eq!(parsed.as_ref(), Ok(&expected), "cut at {cuts:?}");
                }
            }
        }
    }
}

#[test]
fn the_header_may_be_cut_at_any_places_at_once() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    for subset in 0..1 << 15 {
        let cuts: Vec<_> = (0..15)
            .filter(|i| subset >> i & 1 != 0)
            .map(|i| i + 1)
            .collect();
        let parsed = guest.parse(&cut(&request.buffers(), &cuts), false);
        assert_eq!(parsed.as_ref(), Ok(&expected), "cut at {cuts:?}");
    }
}

#[test]
fn the_bytes_of_the_header_may_lie_anywhere() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let request = BlockRequest::write(77, HEADER, STATUS);
    let mut bufs = Vec::new();
    for (index, byte) in request.header_bytes().into_iter().enumerate() {
        // From high addresses to low ones, with gaps.
        let at = GuestAddr(DATA.0 - 3 * index as u64);
        ram.write(at, &[byte]);
        bufs.push(Buf::readable(at, 1));
    }
    bufs.push(Buf::readable(DATA, 512));
    bufs.push(Buf::writable(STATUS, 1));
    let parsed = guest.parse(&bufs, false).expect("a request");
    assert_eq!((parsed.kind, parsed.sector), (RequestType::Out, 77));
    assert_eq!(parsed.data_out, range(DATA, 512));
}

#[test]
fn header_and_data_may_share_a_buffer() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let data = GuestAddr(HEADER.0 + 16);
    let request = BlockRequest::write(3, HEADER, STATUS).data(data, 1024);
    request.prepare(&ram);
    let bufs = join(&request.buffers());
    assert_eq!(
        bufs,
        [Buf::readable(HEADER, 1040), Buf::writable(STATUS, 1)]
    );
    for at in 1..1040 {
        let parsed = guest.parse(&cut(&bufs, &[at]), false).expect("a request");
        assert_eq!(parsed.data_out, range(data, 1024));
        assert_eq!((parsed.kind, parsed.status), (RequestType::Out, STATUS.0));
    }
}

#[test]
fn the_status_may_share_a_buffer_with_the_data_before_it() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let status = GuestAddr(DATA.0 + 512);
    let request = BlockRequest::read(3, HEADER, status).data(DATA, 512);
    request.prepare(&ram);
    let bufs = join(&request.buffers());
    assert_eq!(bufs, [Buf::readable(HEADER, 16), Buf::writable(DATA, 513)]);
    for at in 16..529 {
        let parsed = guest.parse(&cut(&bufs, &[at]), false).expect("a request");
        assert_eq!(parsed.data_in, range(DATA, 512));
        assert_eq!((parsed.kind, parsed.status), (RequestType::In, status.0));
    }
}

#[test]
fn empty_buffers_anywhere_change_nothing() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    let bufs = request.buffers();
    for at in 0..=bufs.len() {
        for writable in [false, true] {
            // Behind the status byte as well, and at an address where there is no memory.
            let mut company = bufs.clone();
            let addr = GuestAddr(u64::MAX);
            company.insert(
                at,
                Buf {
                    addr,
                    len: 0,
                    writable,
                },
            );
            let parsed = guest.parse(&company, false);
            assert_eq!(parsed.as_ref(), Ok(&expected), "empty at {at}");
        }
    }
}

#[test]
fn a_header_straddles_regions() {
    for at in 0..=16 {
        let ram = Ram::with_blocks(&[
            (GuestAddr(0), 0x2_0000 + at, HostAddr(1 << 40)),
            (GuestAddr(0x2_0000 + at as u64), 0x8_0000, HostAddr(0x999)),
        ]);
        let mut guest = Guest::new(&ram);
        let request = BlockRequest::write(0x1122_3344_5566, HEADER, STATUS);
        for (offset, byte) in request.header_bytes().into_iter().enumerate() {
            ram.write(GuestAddr(HEADER.0 + offset as u64), &[byte]);
        }
        let parsed = guest.parse(&request.buffers(), false).expect("a request");
        assert_eq!(
            (parsed.kind, parsed.sector),
            (RequestType::Out, 0x1122_3344_5566)
        );
    }
}

#[test]
fn a_header_that_is_too_short_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    for len in 0..16 {
        let bufs = [Buf::readable(HEADER, len), Buf::writable(DATA, 8)];
        let status = Some(GuestAddr(DATA.0 + 7));
        assert_eq!(guest.parse(&bufs, false), Err(NotARequest { status }));
    }
}

#[test]
fn a_header_that_can_not_be_read_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let end = MEMORY as u64;
    for addr in [
        end - 15,
        end - 1,
        end,
        u64::MAX - 15,
        u64::MAX - 14,
        u64::MAX,
    ] {
        let bufs = [Buf::readable(GuestAddr(addr), 16), Buf::writable(STATUS, 1)];
        let status = Some(STATUS);
        assert_eq!(guest.parse(&bufs, false), Err(NotARequest { status }));
    }
}

#[test]
fn a_buffer_that_wraps_behind_the_header_does_not_lead_to_the_last_address() {
    // There is memory up to the last address, so that the header itself can be read.
    let ram = Ram::with_blocks(&[
        (GuestAddr(0), MEMORY, HostAddr(1 << 40)),
        (GuestAddr(u64::MAX - 0xFFF), 0x1000, HostAddr(1 << 50)),
    ]);
    let mut guest = Guest::new(&ram);
    let header = GuestAddr(u64::MAX - 15);
    BlockRequest::write(0, header, STATUS).prepare(&ram);
    let status = Buf::writable(STATUS, 1);
    let whole = [Buf::readable(header, 16), status];
    assert!(guest.parse(&whole, false).is_ok());
    for len in [17, 16 + 512, u32::MAX - 1] {
        let wraps = [Buf::readable(header, len), status];
        let refused = NotARequest {
            status: Some(STATUS),
        };
        assert_eq!(guest.parse(&wraps, false), Err(refused));
    }
}

#[test]
fn without_a_writable_last_byte_there_is_no_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let nowhere = Err(NotARequest { status: None });
    let header = Buf::readable(HEADER, 16);
    let writable = Buf::writable(STATUS, 1);
    assert_eq!(guest.parse(&[header], false), nowhere);
    assert_eq!(
        guest.parse(&[header, Buf::writable(STATUS, 0)], false),
        nowhere
    );
    assert_eq!(guest.parse(&[header, writable, header], false), nowhere);
    // It would be past the last address.
    let wraps = Buf::writable(GuestAddr(u64::MAX), 2);
    assert_eq!(guest.parse(&[header, wraps], false), nowhere);
}

#[test]
fn a_readable_buffer_behind_a_writable_one_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    BlockRequest::write(0, HEADER, STATUS).prepare(&ram);
    let (header, status) = (Buf::readable(HEADER, 16), Buf::writable(STATUS, 1));
    let (readable, writable) = (Buf::readable(DATA, 512), Buf::writable(DATA, 512));
    for bufs in [
        &[writable, header, status][..],
        &[status, header, status],
        // What comes before the disorder would be a request.
        &[header, writable, readable, status],
        &[header, readable, status, readable, status],
    ] {
        let refused = NotARequest {
            status: Some(STATUS),
        };
        assert_eq!(guest.parse(bufs, false), Err(refused));
    }
}

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

/// Whether a read and a write of this range are let through; both must be judged alike.
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
fn a_block_size_that_is_no_power_of_two_or_below_a_sector_is_honoured_all_the_same() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let odd = Disk {
        block_size: 1536,
        ..DISK
    };
    assert!(allowed(&mut guest, &odd, 3, 1536));
    assert!(!allowed(&mut guest, &odd, 1, 1536));
    assert!(!allowed(&mut guest, &odd, 3, 512));
    for block_size in [0, 1, 100] {
        let small = Disk { block_size, ..DISK };
        assert!(allowed(&mut guest, &small, 3, 512));
        assert!(!allowed(&mut guest, &small, 3, 100));
        assert!(!allowed(&mut guest, &small, 3, 1));
    }
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
fn requests_about_ranges_are_only_for_who_negotiated_them() {
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

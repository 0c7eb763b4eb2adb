// SPDX-License-Identifier: GPL-2.0

//! A guest that makes requests, and what they are taken for.

use crate::common::{
    Device,
    RING, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        Sector, //
    },
    disk::Disk,
    range::{
        RangeOp,
        RangeOps, //
    },
    request::{
        Action,
        MalformedRequest,
        Payload,
        Request,
        RequestType,
        Status, //
    },
    table::TableMemory,
    testing::{
        BlockRequest,
        Buf,
        Layout,
        Ram,
        SplitDriver, //
    },
};

pub const MEMORY: usize = 0x10_0000;
pub const HEADER: GuestAddr = GuestAddr(0x2_0000);
pub const DATA: GuestAddr = GuestAddr(0x3_0000);
pub const STATUS: GuestAddr = GuestAddr(0x4_0000);
pub const TABLE: GuestAddr = GuestAddr(0x5_0000);

pub const DISK: Disk = Disk {
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
pub struct Parsed {
    pub kind: RequestType,
    pub sector: u64,
    /// The address of each byte.
    pub data_out: Vec<u64>,
    pub data_in: Vec<u64>,
    pub status: u64,
}

/// A guest for one request after the other.
pub struct Guest<'a> {
    pub driver: SplitDriver<&'a Ram>,
    pub device: Device<'a>,
}

impl<'a> Guest<'a> {
    pub fn new(ram: &'a Ram) -> Self {
        let layout = Layout::with_size(64, RING);
        Self {
            driver: SplitDriver::new(ram, layout, false),
            device: Device::new(ram, &layout),
        }
    }

    /// Returns what `judge` makes of the chain of these buffers.
    pub fn with<T>(
        &mut self,
        bufs: &[Buf],
        indirect: bool,
        judge: impl FnOnce(Result<Request<'_>, MalformedRequest>) -> T,
    ) -> T {
        let table = indirect.then_some((TABLE, bufs));
        let direct = if indirect { &[] } else { bufs };
        let head = self.driver.add_chain(direct, table);
        head.expect("enough descriptors");
        self.driver.publish();
        let head = self.device.pop();
        let ram = self.device.ram;
        let memory = TableMemory {
            table: &ram.table(),
            memory: ram,
        };
        let chain = self.device.walk(head).expect("a chain");
        let answer = judge(Request::parse(&chain, &memory));
        // The descriptors are needed again.
        let layout = *self.driver.layout();
        self.driver = SplitDriver::starting_at(ram, layout, false, self.driver.next_avail());
        answer
    }

    pub fn parse(&mut self, bufs: &[Buf], indirect: bool) -> Result<Parsed, MalformedRequest> {
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

    /// Returns what to do for this request, whose data is not touched.
    pub fn action(&mut self, request: &BlockRequest, disk: &Disk) -> What {
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
pub enum What {
    Read(Sector, u32),
    Write(Sector, u32),
    Flush,
    GetId(u32),
    Ranges(RangeOp, u32),
    Answer(Status),
}

pub const IO_ERROR: What = What::Answer(Status::IoError);

/// Returns the address of each byte of a payload, whose pieces must be what it says they are.
pub fn bytes_of(payload: &Payload<'_>) -> Vec<u64> {
    let pieces: Vec<_> = payload.pieces().collect();
    assert!(pieces.iter().all(|piece| piece.len > 0));
    let bytes: Vec<_> = pieces
        .iter()
        .flat_map(|piece| (0..u64::from(piece.len)).map(|i| piece.addr.0 + i))
        .collect();
    assert_eq!(bytes.len(), payload.bytes() as usize);
    bytes
}

pub fn range(from: GuestAddr, len: u64) -> Vec<u64> {
    (from.0..from.0 + len).collect()
}

/// Returns some unknown type with data both ways: 5 bytes to the device, 4 bytes from it.
pub fn both_ways() -> (BlockRequest, Parsed) {
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

// SPDX-License-Identifier: GPL-2.0

//! One chain and the request in it, against the reference.

use super::reference::{
    Expected,
    Memory,
    Parsed, //
};
use std::cell::Cell;
use vblk_core::{
    addr::HostAddr,
    chain::{
        max_segments,
        ChainError,
        Segment, //
    },
    memory::{
        CopyIn,
        Fault,
        SharedMemory, //
    },
    queue::Head,
    request::{
        Payload,
        PayloadPosition,
        Request, //
    },
    ring::Ring,
    table::TableMemory,
    testing::{
        Ram,
        RamPart, //
    },
};

/// Counts what is loaded from the ring.
pub struct Counting<'a> {
    pub part: RamPart<'a>,
    pub loads: &'a Cell<usize>,
}

impl Counting<'_> {
    fn count<T>(&self, value: T) -> T {
        self.loads.set(self.loads.get() + 1);
        value
    }
}

impl SharedMemory for Counting<'_> {
    fn load_u16(&self, offset: usize) -> u16 {
        self.count(self.part.load_u16(offset))
    }
    fn load_u64(&self, offset: usize) -> u64 {
        self.count(self.part.load_u64(offset))
    }
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.count(self.part.load_acquire_u16(offset))
    }
    fn store_u16(&self, offset: usize, value: u16) {
        self.part.store_u16(offset, value);
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.part.store_u32(offset, value);
    }
    fn store_release_u16(&self, offset: usize, value: u16) {
        self.part.store_release_u16(offset, value);
    }
    fn full_barrier(&self) {}
}

/// Counts what is copied. The memory table tells the truth, so that no copy may fail.
struct Copies<'a> {
    ram: &'a Ram,
    bytes: Cell<usize>,
    calls: Cell<usize>,
}

impl CopyIn for Copies<'_> {
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault> {
        assert!(!to.is_empty(), "a copy of nothing");
        self.bytes.set(self.bytes.get() + to.len());
        self.calls.set(self.calls.get() + 1);
        let copied = self.ram.copy_in(from, to);
        assert_eq!(copied, Ok(()), "{} bytes at {from:?}", to.len());
        copied
    }
}

/// Outcome of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    NoChain(ChainError),
    /// True if there is room for a status all the same.
    NoRequest(bool),
    Request,
}

fn pieces(payload: &Payload<'_>) -> Vec<(u64, u32)> {
    let pieces: Vec<_> = payload.pieces().map(|p| (p.addr.0, p.len)).collect();
    let sum: u64 = pieces.iter().map(|piece| u64::from(piece.1)).sum();
    assert_eq!(sum, u64::from(payload.bytes()));
    pieces
}

fn owned(request: &Request<'_>, header: Vec<u8>) -> Parsed {
    Parsed {
        header,
        data_out: pieces(&request.data_out),
        data_in: pieces(&request.data_in),
        status: request.status.0,
    }
}

/// Walks and parses a chain, and compares with what the reference `expected`. `request` gets what
/// both found to be a request.
pub fn judge(
    memory: &Memory<'_>,
    ring: &Ring<Counting<'_>>,
    loads: &Cell<usize>,
    head: Head,
    indirect: bool,
    expected: Expected,
    mut request: impl FnMut(&Request<'_>),
) -> Outcome {
    let size = usize::from(ring.size().get());
    let table = memory.ram.table();
    let copies = Copies {
        ram: memory.ram,
        bytes: Cell::new(0),
        calls: Cell::new(0),
    };
    let guest = TableMemory {
        table: &table,
        memory: &copies,
    };
    loads.set(0);
    let longest = max_segments(ring.size());
    let mut segments = vec![Segment::default(); longest];
    let walked = ring.walk(head, indirect, &guest, &mut segments);
    // Two words for each descriptor; a window of 8 for each entry of an indirect table, in which
    // not more than one seam lies.
    assert!(loads.get() <= 2 * size, "{} loads", loads.get());
    assert!(copies.bytes.get() <= longest * 8 * 16);
    assert!(copies.calls.get() <= longest * 2);

    let chain = match (walked, expected) {
        (Err(error), expected) => {
            if error != ChainError::IndirectOutsideTable || !expected.or_fault {
                assert_eq!(expected.result, Err(error));
            }
            return Outcome::NoChain(error);
        }
        (Ok(chain), expected) => {
            let bufs = expected.result.expect("an error, as the reference found");
            let found = [chain.readable(), chain.writable()].concat();
            assert_eq!(found, bufs);
            let sum = |writable| -> u64 {
                let bufs = bufs.iter().filter(|buf| buf.writable == writable);
                bufs.map(|buf| u64::from(buf.len)).sum()
            };
            if chain.ordered() {
                assert_eq!(u64::from(chain.readable_bytes()), sum(false));
                assert_eq!(u64::from(chain.writable_bytes()), sum(true));
            }
            chain
        }
    };

    copies.bytes.set(0);
    let parsed = Request::parse(&chain, &guest);
    assert!(copies.bytes.get() <= 16);
    let bufs = [chain.readable(), chain.writable()].concat();
    match memory.parse(&bufs) {
        Ok(expected) => {
            let found = parsed.expect("a request, as the reference found");
            assert_eq!(owned(&found, expected.header.clone()), expected);
            let sector = expected.header[8..].try_into().expect("8 bytes");
            assert_eq!(found.sector.0, u64::from_le_bytes(sector));
            let kind = expected.header[..4].try_into().expect("4 bytes");
            assert_eq!(found.kind, u32::from_le_bytes(kind).into());
            request(&found);
            // What is stored of it leads to the same payloads again.
            let stored = chain.store();
            let positions = [found.data_out, found.data_in].map(|payload| payload.position());
            let again = |at: PayloadPosition| pieces(&stored.payload(&segments, at));
            assert_eq!(positions.map(again), [expected.data_out, expected.data_in]);
            Outcome::Request
        }
        Err(status) => {
            let refused = parsed.expect_err("no request, as the reference found");
            assert_eq!(refused.status.map(|addr| addr.0), status);
            Outcome::NoRequest(status.is_some())
        }
    }
}

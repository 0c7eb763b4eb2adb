// SPDX-License-Identifier: GPL-2.0

//! Chains and the requests in them.

use crate::{
    cases,
    common,
    lengths, //
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::TestRunner, //
};
use std::{
    cell::Cell,
    collections::HashMap, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::{
        ChainError,
        Chains,
        Segment, //
    },
    memory::{
        CopyIn,
        Fault,
        SharedMemory, //
    },
    queue::Popped,
    request::{
        Payload,
        Request, //
    },
    ring::{
        Avail,
        Base,
        Ring, //
    },
    split::Descriptor,
    testing::{
        reference,
        DriverMemory,
        Layout,
        Ram,
        RamPart,
        SplitDriver, //
    },
};

/// Two blocks that touch each other but not in the host, a hole, one more, and the last page of
/// the address space. The ring lies in the first.
const BLOCKS: [(GuestAddr, usize, HostAddr); 4] = [
    (GuestAddr(0), 0x3000, HostAddr(1 << 40)),
    (GuestAddr(0x3000), 0x2000, HostAddr(0x1234_5000)),
    (GuestAddr(0x8000), 0x1000, HostAddr(1 << 50)),
    (
        GuestAddr(u64::MAX - 0xFFF),
        0x1000,
        HostAddr(u64::MAX - 0xFFF),
    ),
];

/// Where indirect tables are: over a seam, into a hole, at the beginning of a block, up to the
/// last address and unaligned.
const TABLES: [u64; 5] = [0x2FC8, 0x4F80, 0x8000, u64::MAX - 0x7F, 0x2801];

/// Entries that are written to each of them, as far as there is memory.
const ENTRIES: usize = 20;

/// Counts what is loaded from the ring.
struct Counting<'a> {
    part: RamPart<'a>,
    loads: &'a Cell<usize>,
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

fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => select(&TABLES[..]),
        2 => (select(&TABLES[..]), 0..64u64).prop_map(|(at, by)| at.wrapping_add(by)),
        4 => 0x1000..0x9100u64,
        2 => (0..2048u64).prop_map(|below| u64::MAX - below),
        1 => any::<u64>(),
    ]
}

fn descriptors() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![
        12 => Just(common::NEXT),
        6 => Just(common::NEXT | common::WRITE),
        3 => Just(common::WRITE),
        1 => Just(0),
        3 => Just(common::INDIRECT),
        1 => any::<u16>(),
    ];
    let next = prop_oneof![12 => 0..16u16, 1 => 0..40u16, 1 => any::<u16>()];
    (addresses(), lengths(), flags, next).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    })
}

/// A ring, the indirect tables, and bytes for all other memory.
#[derive(Debug)]
struct World {
    /// Binary logarithm of the size of the queue.
    order: u32,
    descs: Vec<Descriptor>,
    /// Whether entries without a next of their own lead to the one behind them, so that there are
    /// long chains too.
    in_line: bool,
    indirect: bool,
    seed: u8,
}

fn worlds() -> impl Strategy<Value = World> {
    let count = 16 + TABLES.len() * ENTRIES;
    let switches = (
        0..5u32,
        any::<bool>(),
        prop::bool::weighted(0.9),
        any::<u8>(),
    );
    (vec(descriptors(), count), switches).prop_map(|(descs, (order, in_line, indirect, seed))| {
        World {
            order,
            descs,
            in_line,
            indirect,
            seed,
        }
    })
}

impl World {
    fn ram(&self) -> Ram {
        let ram = Ram::with_blocks(&BLOCKS);
        for (guest, len, _) in BLOCKS {
            let byte = |i: usize| (i as u8).wrapping_mul(37).wrapping_add(self.seed);
            let noise: Vec<u8> = (0..len).map(byte).collect();
            ram.write(guest, &noise);
        }
        ram
    }

    /// Writes all descriptors: those of the ring, then those of each table.
    fn write(&self, driver: &SplitDriver<&Ram>, memory: &reference::Memory<'_, Ram>) {
        let lines = self.descs.iter().enumerate().map(|(index, desc)| {
            let behind = (index % ENTRIES + 1) as u16;
            let next = if self.in_line { behind } else { desc.next };
            Descriptor { next, ..*desc }
        });
        let scratch = GuestAddr(0x2000);
        for (index, desc) in lines.enumerate() {
            if index < 16 {
                if index < 1 << self.order {
                    driver.write_descriptor(index as u16, &desc);
                }
                continue;
            }
            let (table, entry) = ((index - 16) / ENTRIES, (index - 16) % ENTRIES);
            driver.write_raw_descriptor(scratch, &desc);
            for (offset, byte) in memory.memory.read_vec(scratch, 16).into_iter().enumerate() {
                let at = u128::from(TABLES[table]) + (entry * 16 + offset) as u128;
                if memory.has(at, 1) {
                    memory.memory.write(GuestAddr(at as u64), &[byte]);
                }
            }
        }
    }
}

/// What came of one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    NoChain(ChainError),
    /// Whether there is room for a status all the same.
    NoRequest(bool),
    Request,
}

fn pieces(payload: &Payload<'_>) -> Vec<(u64, u32)> {
    let pieces: Vec<_> = payload.pieces().map(|p| (p.addr.0, p.len)).collect();
    let sum: u64 = pieces.iter().map(|piece| u64::from(piece.1)).sum();
    assert_eq!(sum, u64::from(payload.bytes()));
    pieces
}

fn owned(request: &Request<'_>, header: Vec<u8>) -> reference::Parsed {
    reference::Parsed {
        header,
        data_out: pieces(&request.data_out),
        data_in: pieces(&request.data_in),
        status: request.status.0,
    }
}

/// Walks and parses every chain of a world, and compares. Notes each kind of outcome.
fn judge(world: &World, mut outcome: impl FnMut(Outcome)) {
    let ram = world.ram();
    let blocks = BLOCKS.map(|(guest, len, _)| (guest, len as u64));
    let memory = reference::Memory {
        memory: &ram,
        blocks: &blocks,
    };
    let size = 1 << world.order;
    let layout = Layout::with_size(size, GuestAddr(0x100));
    let mut driver = SplitDriver::new(&ram, layout, false);
    world.write(&driver, &memory);

    let loads = Cell::new(0);
    let counting = |part| Counting {
        part,
        loads: &loads,
    };
    let parts = ram.parts(&layout).map(counting);
    let ring = Ring::new(layout.format, layout.size, parts);
    let table = ram.table();
    let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
    let size = size as usize;
    for head in 0..size as u16 {
        driver.post(head);
        driver.publish();
        let Ok(Popped::Chain(popped)) = avail.pop(&ring, || 0) else {
            panic!("{head} is a head");
        };
        let expected = reference::walk(&memory, layout.desc.0, size, head, world.indirect);

        let copies = Copies {
            ram: &ram,
            bytes: Cell::new(0),
            calls: Cell::new(0),
        };
        loads.set(0);
        let mut segments = vec![Segment::default(); size];
        let walked = ring.walk(popped, world.indirect, &table, &copies, &mut segments);
        // Two words for each descriptor; a window of 8 for each entry of an indirect table, in
        // which not more than one seam lies.
        assert!(loads.get() <= 2 * size, "{} loads", loads.get());
        assert!(copies.bytes.get() <= size * 8 * 16);
        assert!(copies.calls.get() <= size * 2);

        let chain = match (walked, expected) {
            (Err(error), expected) => {
                if error != ChainError::IndirectFault || !expected.or_fault {
                    assert_eq!(expected.result, Err(error));
                }
                outcome(Outcome::NoChain(error));
                continue;
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
        let parsed = Request::parse(&chain, &table, &copies);
        assert!(copies.bytes.get() <= 16);
        let bufs = [chain.readable(), chain.writable()].concat();
        match reference::parse(&memory, &bufs) {
            Ok(expected) => {
                let request = parsed.expect("a request, as the reference found");
                assert_eq!(owned(&request, expected.header.clone()), expected);
                let sector = expected.header[8..].try_into().expect("8 bytes");
                assert_eq!(request.sector.0, u64::from_le_bytes(sector));
                let kind = expected.header[..4].try_into().expect("4 bytes");
                assert_eq!(request.kind, u32::from_le_bytes(kind).into());
                outcome(Outcome::Request);
            }
            Err(status) => {
                let refused = parsed.expect_err("no request, as the reference found");
                assert_eq!(refused.status.map(|addr| addr.0), status);
                outcome(Outcome::NoRequest(status.is_some()));
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn chains_and_requests_are_what_the_reference_finds(world in worlds()) {
        judge(&world, |_| ());
    }
}

#[test]
fn every_outcome_is_met_often() {
    let mut runner = TestRunner::deterministic();
    let mut met = HashMap::new();
    for _ in 0..1000 {
        let tree = worlds().new_tree(&mut runner).expect("a world");
        judge(&tree.current(), |outcome| {
            *met.entry(outcome).or_insert(0) += 1
        });
    }
    let errors = [
        ChainError::TooLong,
        ChainError::NextOutOfRange,
        ChainError::IndirectNotNegotiated,
        ChainError::IndirectWithNext,
        ChainError::NestedIndirect,
        ChainError::IndirectSize,
        ChainError::IndirectFault,
        ChainError::TooManyBytes,
    ];
    let chains = [
        Outcome::Request,
        Outcome::NoRequest(false),
        Outcome::NoRequest(true),
    ];
    for outcome in errors.map(Outcome::NoChain).into_iter().chain(chains) {
        let times = met.get(&outcome).copied().unwrap_or(0);
        assert!(times >= 20, "{outcome:?} {times} times, of {met:?}");
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What holds for every ring, table and request, however hostile: no panic, a bound on what is
//! read, and agreement with a reference that is written plainly.

mod common;

#[path = "common/reference.rs"]
mod reference;

use common::RING;
use proptest::{
    collection::vec,
    prelude::*,
    sample::select, //
};
use std::cell::Cell;
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::{
        walk,
        ChainError,
        Segment, //
    },
    memory::{
        CopyIn,
        Fault,
        SharedMemory, //
    },
    request::{
        Payload,
        Request, //
    },
    split::{
        Avail,
        Descriptor,
        Popped,
        SplitRing,
        Used, //
    },
    table::{
        HostSpan,
        MemoryTable,
        Region,
        TableError, //
    },
    testing::{
        Driver,
        DriverMemory,
        Layout,
        Ram,
        RamPart, //
    },
};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

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

fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0..40u32,
        4 => (0..24u32).prop_map(|n| n * 16),
        2 => (0..9u32).prop_map(|n| n * 512),
        1 => (0..20u32).prop_map(|below| u32::MAX - below),
        1 => any::<u32>(),
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
    fn write(&self, driver: &Driver<&Ram>, memory: &reference::Memory<'_>) {
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
            for (offset, byte) in memory.ram.read_vec(scratch, 16).into_iter().enumerate() {
                let at = u128::from(TABLES[table]) + (entry * 16 + offset) as u128;
                if memory.byte(at).is_some() {
                    memory.ram.write(GuestAddr(at as u64), &[byte]);
                }
            }
        }
    }
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

/// Walks and parses every chain of a world, and compares.
fn judge(world: &World) {
    let ram = world.ram();
    let memory = reference::Memory {
        ram: &ram,
        blocks: &BLOCKS,
    };
    let size = 1 << world.order;
    let layout = Layout::with_size(size, GuestAddr(0x100));
    let mut driver = Driver::new(&ram, layout, false);
    world.write(&driver, &memory);

    let loads = Cell::new(0);
    let part = |at, len| Counting {
        part: ram.part(at, len),
        loads: &loads,
    };
    let ring = SplitRing::new(
        layout.size,
        part(layout.desc, layout.size.desc_bytes()),
        part(layout.avail, layout.size.avail_bytes()),
        part(layout.used, layout.size.used_bytes()),
    );
    let table = ram.table();
    let mut avail = Avail::new(0, false);
    let size = size as usize;
    for head in 0..size as u16 {
        driver.post(head);
        driver.publish();
        let Ok(Popped::Chain(popped)) = avail.pop(&ring) else {
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
        let walked = walk(
            &ring,
            popped,
            world.indirect,
            &table,
            &copies,
            &mut segments,
        );
        // Two words for each descriptor; a window of 8 for each entry of an indirect table, in
        // which not more than one seam lies.
        assert!(loads.get() <= 2 * size, "{} loads", loads.get());
        assert!(copies.bytes.get() <= size * 8 * 16);
        assert!(copies.calls.get() <= size * 2);

        let chain = match (walked, expected) {
            (Err(ChainError::IndirectFault), expected) if expected.or_fault => continue,
            (Err(error), expected) => {
                assert_eq!(expected.result, Err(error));
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
                assert_eq!(u64::from(chain.readable_bytes()), sum(false));
                assert_eq!(u64::from(chain.writable_bytes()), sum(true));
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
            }
            Err(status) => {
                let refused = parsed.err().expect("no request, as the reference found");
                assert_eq!(refused.status.map(|addr| addr.0), status);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn chains_and_requests_are_what_the_reference_finds(world in worlds()) {
        judge(&world);
    }
}

/// Regions with ends near each other and near both ends of the address space.
fn regions() -> impl Strategy<Value = (u64, u64, u64)> {
    let guest = prop_oneof![
        4 => (0..40u64).prop_map(|n| n * 8),
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
        1 => any::<u64>(),
    ];
    let size = prop_oneof![
        6 => 1..24u64,
        1 => Just(0),
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
        1 => any::<u64>(),
    ];
    let host = prop_oneof![
        4 => 0..1u64 << 40,
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
    ];
    (guest, size, host)
}

/// First and one behind the last address, and where it is in the host.
type Plain = (u128, u128, u128);

fn plain(&(guest, size, host): &(u64, u64, u64)) -> Plain {
    let first = u128::from(guest);
    (first, first + u128::from(size), u128::from(host))
}

fn reference_spans(regions: &[Plain], addr: u64, len: u64) -> Vec<Result<HostSpan, Fault>> {
    let mut at = u128::from(addr);
    let end = at + u128::from(len);
    let mut spans = Vec::new();
    while at < end {
        let found = regions.iter().find(|r| r.0 <= at && at < r.1);
        let Some((first, behind, host)) = found else {
            spans.push(Err(Fault));
            break;
        };
        let until = end.min(*behind);
        spans.push(Ok(HostSpan {
            addr: HostAddr((host + at - first) as u64),
            len: (until - at) as u64,
        }));
        at = until;
    }
    spans
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn tables_are_what_the_reference_finds(
        asked in vec(regions(), 0..8),
        lookups in vec((0..60i64, lengths(), any::<bool>()), 20),
    ) {
        let one_ok = |r: &(u64, u64, u64)| match Region::new(GuestAddr(r.0), r.1, HostAddr(r.2)) {
            Ok(region) => {
                let (_, behind, host) = plain(r);
                assert!(r.1 > 0);
                assert!(behind <= 1 << 64 && host + u128::from(r.1) <= 1 << 64);
                Some(region)
            }
            Err(TableError::Empty) => {
                assert_eq!(r.1, 0);
                None
            }
            Err(error) => {
                assert_eq!(error, TableError::Wraps);
                let last = u128::from(r.0.max(r.2)) + u128::from(r.1);
                assert!(last > 1 << 64);
                None
            }
        };
        let (asked, regions): (Vec<_>, Vec<_>) =
            asked.iter().filter_map(|r| Some((plain(r), one_ok(r)?))).unzip();
        let overlap = asked.iter().enumerate().any(|(i, a)| {
            asked[..i].iter().any(|b| a.0 < b.1 && b.0 < a.1)
        });
        match MemoryTable::new(regions) {
            Err(error) => assert!(overlap && error == TableError::Overlap),
            Ok(table) => {
                assert!(!overlap);
                let edges: Vec<_> = asked.iter().flat_map(|r| [r.0, r.1]).collect();
                for (offset, len, wide) in lookups {
                    let edge = edges.get(offset as usize % edges.len().max(1));
                    let near = edge.map_or(0, |edge| *edge as u64);
                    let addr = near.wrapping_add_signed(offset % 5 - 2);
                    let len = if wide { u64::from(len) << 32 } else { len.into() };
                    let spans: Vec<_> = table.spans(GuestAddr(addr), len).collect();
                    assert_eq!(spans, reference_spans(&asked, addr, len));
                }
            }
        }
    }
}

/// One step of a driver that keeps no rules.
#[derive(Clone, Debug)]
enum Step {
    AvailIndex(u16),
    AvailEntry(u16, u16),
    AvailFlags(u16),
    UsedEvent(u16),
    Pop(u8),
    Give,
    Enable,
    Disable,
    Decide,
}

fn steps() -> impl Strategy<Value = Step> {
    let near = prop_oneof![4 => 0..24u16, 1 => any::<u16>()];
    prop_oneof![
        4 => near.clone().prop_map(Step::AvailIndex),
        2 => (any::<u16>(), near.clone()).prop_map(|(at, head)| Step::AvailEntry(at, head)),
        1 => any::<u16>().prop_map(Step::AvailFlags),
        1 => near.prop_map(Step::UsedEvent),
        4 => any::<u8>().prop_map(Step::Pop),
        4 => Just(Step::Give),
        1 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => Just(Step::Decide),
    ]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_driver_without_rules_gets_no_more_than_the_ring_holds(
        order in 0..5u32,
        start in prop_oneof![Just(0), 65520..=65535u16],
        event_idx in any::<bool>(),
        steps in vec(steps(), 0..100),
    ) {
        let ram = Ram::new(0x4000);
        let size = 1 << order;
        let layout = Layout::with_size(size, RING);
        let driver = Driver::starting_at(&ram, layout, event_idx, start);
        let ring = ram.ring(&layout);
        let mut avail = Avail::new(start, event_idx);
        let mut used = Used::new(&ring, event_idx);
        let (mut taken, mut given, mut held) = (0u16, 0u16, Vec::new());
        for step in steps {
            match step {
                Step::AvailIndex(at) => driver.write_avail_index(start.wrapping_add(at)),
                Step::AvailEntry(at, head) => driver.write_avail_entry(at, head),
                Step::AvailFlags(flags) => driver.write_avail_flags(flags),
                Step::UsedEvent(at) => driver.write_used_event(start.wrapping_add(at)),
                Step::Pop(times) => for _ in 0..times {
                    match avail.pop(&ring) {
                        Ok(Popped::Chain(head)) => {
                            assert!(u32::from(head.index()) < size);
                            held.push(head);
                        }
                        Ok(Popped::OutOfRange(head)) => assert!(u32::from(head) >= size),
                        Ok(Popped::Empty) => break,
                        Err(impossible) => {
                            let ahead = impossible.claimed.wrapping_sub(impossible.next);
                            assert!(u32::from(ahead) > size);
                            assert_eq!(impossible.next, avail.base());
                            break;
                        }
                    }
                    taken = taken.wrapping_add(1);
                },
                Step::Give => if let Some(head) = held.pop() {
                    used.push(&ring, head, given.into());
                    let entry = driver.used_entry(start.wrapping_add(given));
                    assert_eq!((entry.id, entry.len), (head.index().into(), given.into()));
                    given += 1;
                },
                Step::Enable => {
                    let _ = avail.enable_notify(&ring);
                }
                Step::Disable => avail.disable_notify(&ring),
                Step::Decide => {
                    used.should_interrupt(&ring);
                }
            }
            assert_eq!(avail.base(), start.wrapping_add(taken));
            assert_eq!(driver.used_index(), start.wrapping_add(given));
        }
    }

    /// Interrupts with event index, in positions that count from the beginning of time.
    #[test]
    fn an_interrupt_is_decided_on_exactly_when_the_event_was_passed(
        start in any::<u16>(),
        batches in vec((prop_oneof![8 => 0..6u32, 1 => 0..70_000u32], 0..8i64), 1..12),
    ) {
        let ram = Ram::new(0x4000);
        let layout = Layout::with_size(4, RING);
        let mut driver = Driver::starting_at(&ram, layout, true, start);
        let ring = ram.ring(&layout);
        let mut avail = Avail::new(start, true);
        let mut used = Used::new(&ring, true);
        driver.post(0);
        driver.publish();
        let Ok(Popped::Chain(head)) = avail.pop(&ring) else {
            panic!("there is a chain");
        };
        used.should_interrupt(&ring);
        let mut at = i64::from(start);
        for (pushes, ahead) in batches {
            let event = at + ahead - 2;
            driver.write_used_event(event as u16);
            (0..pushes).for_each(|_| used.push(&ring, head, 0));
            let passed = (at..at + i64::from(pushes)).any(|entry| entry as u16 == event as u16);
            let decided = used.should_interrupt(&ring);
            if pushes < 1 << 16 {
                assert_eq!(decided, passed, "event {event} from {at} by {pushes}");
            } else {
                // All events were passed.
                assert!(decided && passed);
            }
            at += i64::from(pushes);
        }
    }
}

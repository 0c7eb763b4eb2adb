// SPDX-License-Identifier: GPL-2.0

//! Chains and the requests in them.

use crate::{
    cases,
    common,
    judge::{
        action,
        chain::{
            judge,
            Counting,
            Outcome, //
        },
        reference::Memory, //
    },
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
    chain::ChainError,
    queue::Popped,
    ring::{
        Avail,
        Base,
        Ring, //
    },
    split::Descriptor,
    testing::{
        DriverMemory,
        Layout,
        Ram,
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

/// Addresses of indirect tables: over a seam, into a hole, at the beginning of a block, up to the
/// last address and unaligned.
const TABLES: [u64; 5] = [0x2FC8, 0x4F80, 0x8000, u64::MAX - 0x7F, 0x2801];

/// Entries that are written to each of them, as far as there is memory.
const ENTRIES: usize = 20;

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
    /// True if entries without a next of their own lead to the one behind them, so that there are
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
    fn write(&self, driver: &SplitDriver<&Ram>, memory: &Memory<'_>) {
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
                if memory.bytes(at, 1).is_some() {
                    memory.ram.write(GuestAddr(at as u64), &[byte]);
                }
            }
        }
    }
}

/// Walks and parses every chain of a world, and compares. Notes each kind of outcome.
fn judge_all(world: &World, mut outcome: impl FnMut(Outcome)) {
    let ram = world.ram();
    let memory = Memory {
        ram: &ram,
        blocks: &BLOCKS,
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
    let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
    for head in 0..size as u16 {
        driver.post(head);
        driver.publish();
        let Ok(Popped::Chain(popped)) = avail.pop(&ring, || 0) else {
            panic!("{head} is a head");
        };
        let expected = memory.walk(layout.desc.0, size as usize, head, world.indirect);
        outcome(judge(
            &memory,
            &ring,
            &loads,
            popped,
            world.indirect,
            expected,
            |request| action::judge(&memory, request, &action::disk(world.seed)),
        ));
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn chains_and_requests_are_what_the_reference_finds(world in worlds()) {
        judge_all(&world, |_| ());
    }
}

#[test]
fn every_outcome_is_met_often() {
    let mut runner = TestRunner::deterministic();
    let mut met = HashMap::new();
    for _ in 0..1000 {
        let tree = worlds().new_tree(&mut runner).expect("a world");
        judge_all(&tree.current(), |outcome| {
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
        ChainError::IndirectOutsideTable,
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

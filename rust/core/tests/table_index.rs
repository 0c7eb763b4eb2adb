// SPDX-License-Identifier: GPL-2.0

//! The index finds what the table finds, whatever the regions are.

use proptest::prelude::*;
use vblk_core::{
    addr::{GuestAddr, HostAddr},
    memory::Fault,
    table::{MemoryTable, Region},
    table_index::IndexedTable,
};

/// Regions of these gaps and lengths, from `base` on.
fn table(base: u64, parts: &[(u64, u64)]) -> MemoryTable<Vec<Region>> {
    let mut first = base;
    let mut regions = Vec::new();
    for (number, (gap, bytes)) in parts.iter().enumerate() {
        let Some(start) = first.checked_add(*gap) else {
            break;
        };
        let host = HostAddr((number as u64) << 40);
        let Ok(region) = Region::new(GuestAddr(start), *bytes, host) else {
            break;
        };
        regions.push(region);
        match start.checked_add(*bytes) {
            Some(end) => first = end,
            None => break,
        }
    }
    MemoryTable::new(regions).expect("no overlap")
}

fn assert_same(base: u64, parts: &[(u64, u64)], addresses: impl Iterator<Item = u64>) {
    let plain = table(base, parts);
    let entries = IndexedTable::<Vec<Region>, Vec<u32>>::entries(&plain);
    assert!(
        entries <= 2 * plain.regions().len() + 2,
        "{entries} entries"
    );
    let indexed = IndexedTable::new(table(base, parts), vec![0; entries]);
    for addr in addresses.map(GuestAddr) {
        for len in [0, 1, 4096, u64::MAX] {
            let found = indexed.region(addr).map(|region| region.span(addr, len));
            let found = found.unwrap_or(Err(Fault::OutsideTable));
            assert_eq!(found, plain.span(addr, len), "{addr:?}");
        }
    }
}

/// Each end of each region, and what is beside it.
fn edges(base: u64, parts: &[(u64, u64)]) -> Vec<u64> {
    let plain = table(base, parts);
    let mut edges = vec![0, u64::MAX, base, base.wrapping_sub(1)];
    for region in plain.regions() {
        let (first, bytes) = (region.first().0, region.bytes());
        let last = first + (bytes - 1);
        edges.extend([first.wrapping_sub(1), first, first + bytes / 2, last]);
        edges.push(last.wrapping_add(1));
    }
    edges
}

#[test]
fn an_empty_table_has_no_address() {
    assert_same(0, &[], [0, 1, u64::MAX].into_iter());
}

#[test]
fn one_region_may_be_all_of_the_address_space() {
    for part in [(0, 1), (0, u64::MAX), (u64::MAX, 1), (7, 4096)] {
        assert_same(0, &[part], edges(0, &[part]).into_iter());
    }
}

#[test]
fn thousands_of_pages_with_a_hole_are_found() {
    let mut parts = vec![(0, 4096); 5000];
    parts[2500].0 = 1 << 30;
    assert_same(0x1000, &parts, edges(0x1000, &parts).into_iter());
}

#[test]
fn regions_far_apart_are_found() {
    let parts: Vec<_> = (0..60).map(|bit| (1 << bit, 1)).collect();
    assert_same(3, &parts, edges(3, &parts).into_iter());
}

proptest! {
    #[test]
    fn any_address_is_found_where_the_table_has_it(
        base: u64,
        parts in prop::collection::vec((0u64..1 << 20, 1u64..1 << 16), 0..200),
        offsets in prop::collection::vec(0u64..1 << 27, 1..50),
    ) {
        let addresses = offsets.iter().map(|offset| base.wrapping_add(*offset));
        assert_same(base, &parts, addresses.chain(edges(base, &parts)));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Memory tables.

use crate::{
    cases,
    lengths, //
};
use proptest::{
    collection::vec,
    prelude::*, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::Fault,
    table::{
        HostSpan,
        MemoryTable,
        Region,
        TableError, //
    },
};

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

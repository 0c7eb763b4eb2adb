// SPDX-License-Identifier: GPL-2.0

//! Memory tables against a list of regions that is searched one by one.

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
            spans.push(Err(Fault::OutsideTable));
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

/// Makes a table of regions, each guest address, size and host address, and looks up ranges that
/// begin near one of the edges, each as which edge and how far from it, and a length.
pub fn judge(asked: &[(u64, u64, u64)], lookups: &[(i64, u64)]) {
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
    let (asked, regions): (Vec<_>, Vec<_>) = asked
        .iter()
        .filter_map(|r| Some((plain(r), one_ok(r)?)))
        .unzip();
    let overlap = asked
        .iter()
        .enumerate()
        .any(|(i, a)| asked[..i].iter().any(|b| a.0 < b.1 && b.0 < a.1));
    match MemoryTable::new(regions) {
        Err(error) => assert!(overlap && error == TableError::Overlap),
        Ok(table) => {
            assert!(!overlap);
            let edges: Vec<_> = asked.iter().flat_map(|r| [r.0, r.1]).collect();
            for &(offset, len) in lookups {
                let edge = edges.get(offset as usize % edges.len().max(1));
                let near = edge.map_or(0, |edge| *edge as u64);
                let addr = near.wrapping_add_signed(offset % 5 - 2);
                let spans: Vec<_> = table.spans(GuestAddr(addr), len).collect();
                assert_eq!(spans, reference_spans(&asked, addr, len));
            }
        }
    }
}

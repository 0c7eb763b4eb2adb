// SPDX-License-Identifier: GPL-2.0

//! Requests with a priority: both back-ends hand the same one to the disk. As in the tests of
//! [`super::super::priority`], neighbours become one if theirs are the same, and else not.

use super::{
    features::on_split_rings,
    layout::BORDER,
    recipe::{Recipe, Ring},
    side::Side,
};
use crate::{area::Area, disk::NullBlk, prelude::*};
use vblk::backend::Kind;
use vblk_core::testing::STATUS_UNWRITTEN;

const NONE: u32 = 0;
const REAL_TIME: u32 = 1 << 13;
const BEST_EFFORT: u32 = 2 << 13;
const IDLE: u32 = 3 << 13;
const LOWEST: u32 = BEST_EFFORT | 7;
const HINT: u32 = 1 << 3;

/// Priorities that neighbours have by turns, and whether they count as the same.
const PAIRS: [([u32; 2], bool); 10] = [
    ([NONE, NONE], true),
    ([LOWEST, LOWEST], true),
    ([REAL_TIME | 3, REAL_TIME | 3], true),
    // None at all, all of them.
    ([NONE, 7], true),
    ([NONE, IDLE | 1 << 16], true),
    ([NONE, u32::MAX], true),
    ([BEST_EFFORT, LOWEST], false),
    ([LOWEST, IDLE], false),
    ([NONE, REAL_TIME | 4], false),
    ([LOWEST, LOWEST | HINT], false),
];

pub fn priorities(_: &Context) -> Outcome {
    for kind in Kind::ALL {
        let disk = Disk::null(&NullBlk::default())?;
        let mut side = Side::new(kind, disk.path(), on_split_rings())?;
        for (priorities, same) in PAIRS {
            for write in [false, true] {
                let before = disk.merged()?;
                let outcome = side.perform(&row(priorities, write))?;
                for memory in &outcome.memory {
                    assert_eq!(memory[STATUS_AT], OK, "{kind} {priorities:x?}");
                }
                let merges = disk.merged()? > before;
                assert_eq!(merges, same, "{kind} {priorities:x?}, writes: {write}");
            }
        }
        side.stop()?;
    }
    Ok(())
}

const STATUS_AT: usize = 16;
const DATA_AT: u64 = 4096;

/// Requests about neighbouring sectors.
fn row(priorities: [u32; 2], write: bool) -> Vec<Recipe> {
    let requests = (0..16).zip(priorities.into_iter().cycle());
    requests
        .map(|(number, priority)| {
            let area = Area {
                start: GuestAddr(BORDER + number * 2 * DATA_AT),
                bytes: 2 * DATA_AT,
            };
            let (header, status) = (area.start, GuestAddr(area.start.0 + STATUS_AT as u64));
            let mut request = match write {
                true => BlockRequest::write(number * 8, header, status),
                false => BlockRequest::read(number * 8, header, status),
            };
            request.priority = priority;
            request = request.data(GuestAddr(area.start.0 + DATA_AT), DATA_AT as u32);
            Recipe {
                area,
                content: vec![0; area.bytes as usize],
                writes: vec![
                    (header, request.header_bytes().to_vec()),
                    (status, vec![STATUS_UNWRITTEN]),
                ],
                ring: Ring::Direct(request.buffers()),
            }
        })
        .collect()
}

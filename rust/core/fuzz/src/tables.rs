// SPDX-License-Identifier: GPL-2.0

//! Memory tables, and ranges looked up in them.

use crate::{
    judge::table::judge,
    Input, //
};

/// Some more than vhost takes.
const MOST_REGIONS: u8 = 70;
const MOST_LOOKUPS: usize = 200;

/// Makes the table of an input, and looks up its ranges.
pub fn fuzz(data: &[u8]) {
    let mut input = Input(data);
    let Some(count) = input.u8() else {
        return;
    };
    let regions: Vec<_> = (0..count % (MOST_REGIONS + 1))
        .map_while(|_| region(&mut input))
        .collect();
    let lookups = core::iter::from_fn(|| lookup(&mut input));
    judge(&regions, &lookups.take(MOST_LOOKUPS).collect::<Vec<_>>());
}

fn region(input: &mut Input<'_>) -> Option<(u64, u64, u64)> {
    let bits = input.u8()?;
    let mut number = |bit: u8| {
        // Small numbers often touch each other; so do those near the end.
        let near = u64::from(input.u16()?);
        Some(match bits >> bit & 3 {
            0 => near,
            1 => near << 4,
            2 => u64::MAX - near,
            _ => input.u64()?,
        })
    };
    Some((number(0)?, number(2)?, number(4)?))
}

fn lookup(input: &mut Input<'_>) -> Option<(i64, u64)> {
    let edge = i64::from(input.u8()?);
    let len = u64::from(input.u32()?);
    Some((edge, if edge & 1 == 0 { len } else { len << 32 }))
}

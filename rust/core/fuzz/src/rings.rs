// SPDX-License-Identifier: GPL-2.0

//! A driver without rules, step by step, on a ring of either format.

use crate::{
    judge::{
        packed,
        split, //
    },
    Input,
};

/// More steps show nothing new.
const MOST_STEPS: usize = 1000;

/// Does all steps of an input.
pub fn fuzz(data: &[u8]) {
    let mut input = Input(data);
    let (Some(bits), Some(start)) = (input.u8(), input.u16()) else {
        return;
    };
    let order = u32::from(bits >> 2 & 7).min(4);
    let event_idx = bits & 2 != 0;
    if bits & 1 == 0 {
        let steps: Vec<_> = core::iter::from_fn(|| split_step(&mut input)).collect();
        split::judge(
            order,
            start,
            event_idx,
            &steps[..steps.len().min(MOST_STEPS)],
        );
    } else {
        let steps: Vec<_> = core::iter::from_fn(|| packed_step(&mut input)).collect();
        packed::judge(
            order,
            start,
            event_idx,
            &steps[..steps.len().min(MOST_STEPS)],
        );
    }
}

fn split_step(input: &mut Input<'_>) -> Option<split::Step> {
    Some(match input.u8()? % 9 {
        0 => split::Step::AvailIndex(input.u16()?),
        1 => split::Step::AvailEntry(input.u16()?, input.u16()?),
        2 => split::Step::AvailFlags(input.u16()?),
        3 => split::Step::UsedEvent(input.u16()?),
        4 => split::Step::Pop(input.u8()?),
        5 => split::Step::Give,
        6 => split::Step::Enable,
        7 => split::Step::Disable,
        _ => split::Step::Decide,
    })
}

fn packed_step(input: &mut Input<'_>) -> Option<packed::Step> {
    Some(match input.u8()? % 8 {
        0 => packed::Step::Post(input.u8()?, input.u8()? % 40),
        1 => packed::Step::Flags(input.u8()?, input.u16()?),
        2 => packed::Step::Event(input.u16()?, input.u16()?),
        3 => packed::Step::Pop(input.u8()?),
        4 => packed::Step::Give(input.u8()?),
        5 => packed::Step::Enable,
        6 => packed::Step::Disable,
        _ => packed::Step::Decide,
    })
}

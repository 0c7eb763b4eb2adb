// SPDX-License-Identifier: GPL-2.0

//! The answers of libblkio, which come in memory that it fills.

use blkio::Blkioq;
use std::{mem::MaybeUninit, time::Duration};

/// Most answers at a time.
pub const MOST: usize = 256;

/// Submits what was queued, and waits for so many answers. Returns the tag and the result of each.
///
/// # Errors
///
/// `ETIME` when they do not come in time.
///
/// # Panics
///
/// If there are more than [`MOST`].
pub fn answers(
    queue: &mut Blkioq,
    count: usize,
    mut patience: Duration,
) -> blkio::Result<Vec<(usize, i32)>> {
    let mut room = [const { MaybeUninit::uninit() }; MOST];
    let filled = queue.do_io(&mut room[..count], count, Some(&mut patience), None)?;
    let filled = room[..filled].iter().map(|answer| {
        // SAFETY: `do_io` has filled the first ones, as many as it says.
        let answer = unsafe { answer.assume_init_ref() };
        (answer.user_data, answer.ret)
    });
    Ok(filled.collect())
}

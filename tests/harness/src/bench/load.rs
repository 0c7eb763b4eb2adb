// SPDX-License-Identifier: GPL-2.0

//! A load to measure, and how samples of it are taken.

use crate::rng::Rng;
use std::error::Error;

/// Bytes of a request.
pub const BLOCK: usize = 4096;
/// The part of the disk that is used.
pub const WINDOW: u64 = 32 << 20;
/// Samples of which the median is taken, and those before that are thrown away.
const SAMPLES: usize = 1000;
const WARM_UP: usize = 100;

/// Direction of the requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// Behaviour of the driver while the device works. Left alone on one CPU, the scheduler chooses between
/// the first two by what happened before, so each is made to happen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Sleeps, and is woken by the interrupt. One CPU for both.
    Asleep,
    /// Preempted by the kick, and finds the interrupt there when it goes on. One CPU for both.
    HandsOver,
    /// Sleeps, and is woken by the interrupt. A CPU for each.
    Apart,
}

impl Driver {
    /// Returns the CPUs that it takes.
    pub fn cpus(self) -> usize {
        match self {
            Self::Asleep | Self::HandsOver => 1,
            Self::Apart => 2,
        }
    }
}

/// A load to measure.
#[derive(Clone, Copy)]
pub struct Load {
    /// Direction of all of them.
    pub direction: Direction,
    /// Requests at a time.
    pub depth: usize,
    /// Behaviour of the driver.
    pub driver: Driver,
    /// Set when it goes on without end, for a profile of it.
    pub is_endless: bool,
}

/// Returns the one in the middle; 0 of none.
pub fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Takes samples by calling `batch`, which tells how many instructions `depth` requests at the
/// given block numbers took.
pub fn sample(
    load: &Load,
    mut batch: impl FnMut(&[u64]) -> Result<u64, Box<dyn Error>>,
) -> Result<u64, Box<dyn Error>> {
    let mut rng = Rng::new(1);
    let mut samples = Vec::with_capacity(SAMPLES);
    let rounds = if load.is_endless {
        usize::MAX
    } else {
        WARM_UP + SAMPLES
    };
    for round in 0..rounds {
        let block = |_| rng.within(0..WINDOW / BLOCK as u64);
        let blocks: Vec<u64> = (0..load.depth).map(block).collect();
        let time = batch(&blocks)?;
        if round >= WARM_UP && !load.is_endless {
            samples.push(time / load.depth as u64);
        }
    }
    Ok(median(&mut samples))
}

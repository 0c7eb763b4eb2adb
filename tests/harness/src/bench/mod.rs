// SPDX-License-Identifier: GPL-2.0

//! Figures: what a 4 KiB request costs in instructions, by whom it is served.
//!
//! Means something only where the TSC counts instructions and nothing else runs: in L1 under
//! `scripts/l1 --icount`. Each figure is a line of JSON on standard output; `scripts/bench`
//! collects them.

mod load;
mod module;
mod raw;
pub mod scaling;

use crate::disk::{Disk, NullBlk};
use load::{median, Direction, Driver, Load, WINDOW};
use std::{error::Error, time::Duration};

/// Number of samples of each figure.
const RUNS: usize = 3;

/// Measures one load on a disk once: instructions per request.
type Measure = fn(&Disk, &Load) -> Result<u64, Box<dyn Error>>;

/// Server of the requests.
struct Backend {
    name: &'static str,
    measure: Measure,
    /// Set when it can have several requests under way.
    concurrent: bool,
    /// Set when another thread works for the driver, at a kick.
    kicked: bool,
}

const LOADS: [(usize, Driver); 4] = [
    (1, Driver::Asleep),
    (1, Driver::HandsOver),
    (32, Driver::Asleep),
    (32, Driver::HandsOver),
];

const BACKENDS: &[Backend] = &[
    Backend {
        name: "vhost-blk-rs",
        measure: module::pinned_per_request,
        concurrent: true,
        kicked: true,
    },
    Backend {
        name: "vhost-blk-rs, pinned ahead",
        measure: module::pinned_ahead,
        concurrent: true,
        kicked: true,
    },
    Backend {
        name: "libaio",
        measure: raw::libaio,
        concurrent: true,
        kicked: false,
    },
    Backend {
        name: "pread/pwrite",
        measure: raw::synchronous,
        concurrent: false,
        kicked: false,
    },
];

/// The cases to perform.
enum Choice<'a> {
    /// Those whose names contain this, each with all back-ends.
    Named(&'a str),
    /// One, without end, with one back-end.
    Endless { case: &'a str, backend: &'a str },
}

impl Choice<'_> {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Named(pattern) => name.contains(pattern),
            Self::Endless { case, .. } => name == *case,
        }
    }
}

/// Measures the cases whose names contain `pattern`.
pub fn main(pattern: &str) -> Result<(), Box<dyn Error>> {
    perform(&Choice::Named(pattern))
}

/// Performs a case without end, with a back-end of this name, for `scripts/profile`.
pub fn forever(case: &str, backend: &str) -> Result<(), Box<dyn Error>> {
    perform(&Choice::Endless { case, backend })?;
    Err("no such case, or no such back-end for it".into())
}

fn perform(choice: &Choice<'_>) -> Result<(), Box<dyn Error>> {
    // The order matters: writing makes an unwritten disk another one.
    let ram = Disk::ram();
    on_disk(
        "ramdisk-unwritten",
        &ram,
        &[Direction::Read],
        &LOADS,
        choice,
    )?;
    let chunk = vec![0xA5; 1 << 20];
    for offset in (0..WINDOW).step_by(chunk.len()) {
        ram.write(offset, &chunk)?;
    }
    let both = [Direction::Read, Direction::Write];
    on_disk("ramdisk", &ram, &both, &LOADS, choice)?;
    let null = NullBlk {
        mib: (WINDOW >> 20) as u32,
        keeps_data: false,
        ..NullBlk::default()
    };
    on_disk("null_blk", &Disk::null(&null)?, &both, &LOADS, choice)?;
    // Ends each request in an interrupt. One at a time would be little but waiting.
    let later = NullBlk {
        delay: Some(Duration::from_micros(10)),
        ..null
    };
    let many = [(32, Driver::Asleep)];
    on_disk("null_blk-10us", &Disk::null(&later)?, &both, &many, choice)
}

fn on_disk(
    name: &str,
    disk: &Disk,
    directions: &[Direction],
    loads: &[(usize, Driver)],
    choice: &Choice<'_>,
) -> Result<(), Box<dyn Error>> {
    for &direction in directions {
        for &(depth, driver) in loads {
            let way = match direction {
                Direction::Read => "read",
                Direction::Write => "write",
            };
            let how = match driver {
                Driver::Asleep => "",
                Driver::HandsOver => "-handover",
            };
            let case = format!("{name}-{way}-4k-qd{depth}{how}");
            let able = |backend: &&Backend| {
                (backend.concurrent || depth == 1) && (backend.kicked || driver == Driver::Asleep)
            };
            let load = Load {
                direction,
                depth,
                driver,
                is_endless: matches!(choice, Choice::Endless { .. }),
            };
            if !choice.has(&case) {
                continue;
            }
            for it in BACKENDS.iter().filter(able) {
                match choice {
                    Choice::Named(_) => report(&case, it, disk, &load)?,
                    Choice::Endless { backend, .. } if it.name == *backend => {
                        println!("vblk-forever");
                        (it.measure)(disk, &load)?;
                    }
                    Choice::Endless { .. } => (),
                }
            }
        }
    }
    Ok(())
}

fn report(case: &str, backend: &Backend, disk: &Disk, load: &Load) -> Result<(), Box<dyn Error>> {
    let mut values = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        values.push((backend.measure)(disk, load)?);
    }
    let spread = values.iter().max().unwrap_or(&0) - values.iter().min().unwrap_or(&0);
    println!(
        "{{\"case\": \"{case}\", \"backend\": \"{}\", \"metric\": \"cost per request\", \
         \"value\": {}, \"unit\": \"instructions\", \"runs\": {RUNS}, \"spread\": {spread}, \
         \"retries\": 0}}",
        backend.name,
        median(&mut values),
    );
    Ok(())
}

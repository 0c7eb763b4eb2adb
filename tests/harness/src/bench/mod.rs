// SPDX-License-Identifier: GPL-2.0

//! Figures: what a 4 KiB request costs in instructions, by whom it is served.
//!
//! Means something only where the TSC counts instructions and nothing else runs: in L1 under
//! `scripts/l1 --icount`. With two CPUs it counts those of both, and only the cases that take two are
//! measured. Each figure is a line of JSON on standard output; `scripts/bench`
//! collects them.

mod load;
mod module;
mod raw;
pub mod scaling;

use crate::disk::{Disk, NullBlk};
use load::{median, Direction, Driver, Load, WINDOW};
use std::{error::Error, thread, time::Duration};

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
    /// CPUs that it takes.
    cpus: usize,
}

const LOADS: [(usize, Driver); 6] = [
    (1, Driver::Asleep),
    (1, Driver::HandsOver),
    (1, Driver::Apart),
    (32, Driver::Asleep),
    (32, Driver::HandsOver),
    (32, Driver::Apart),
];

const BACKENDS: &[Backend] = &[
    Backend {
        name: "vhost-blk-rs",
        measure: module::pinned_per_request,
        concurrent: true,
        kicked: true,
        cpus: 1,
    },
    Backend {
        name: "vhost-blk-rs, pinned ahead",
        measure: module::pinned_ahead,
        concurrent: true,
        kicked: true,
        cpus: 1,
    },
    Backend {
        name: "vhost-blk-rs, polling",
        measure: module::polling,
        concurrent: true,
        kicked: true,
        cpus: 2,
    },
    Backend {
        name: "libaio",
        measure: raw::libaio,
        concurrent: true,
        kicked: false,
        cpus: 1,
    },
    Backend {
        name: "pread/pwrite",
        measure: raw::synchronous,
        concurrent: false,
        kicked: false,
        cpus: 1,
    },
];

/// The cases to perform.
struct Choice<'a> {
    name: Name<'a>,
    /// CPUs that they take.
    cpus: usize,
}

/// The names of cases.
enum Name<'a> {
    /// Those that contain this, each with all back-ends.
    Part(&'a str),
    /// One, without end, with one back-end.
    Endless { case: &'a str, backend: &'a str },
}

impl<'a> Choice<'a> {
    /// Chooses those that take the CPUs that there are.
    fn new(name: Name<'a>) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            name,
            cpus: thread::available_parallelism()?.get().min(2),
        })
    }

    fn has(&self, name: &str) -> bool {
        match self.name {
            Name::Part(pattern) => name.contains(pattern),
            Name::Endless { case, .. } => name == case,
        }
    }
}

/// Measures the cases whose names contain `pattern`.
pub fn main(pattern: &str) -> Result<(), Box<dyn Error>> {
    perform(&Choice::new(Name::Part(pattern))?)
}

/// Performs a case without end, with a back-end of this name, for `scripts/profile`.
pub fn forever(case: &str, backend: &str) -> Result<(), Box<dyn Error>> {
    perform(&Choice::new(Name::Endless { case, backend })?)?;
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
                Driver::Apart => "-2-cpus",
            };
            let case = format!("{name}-{way}-4k-qd{depth}{how}");
            let able = |backend: &&Backend| {
                (backend.concurrent || depth == 1)
                    && (backend.kicked || driver != Driver::HandsOver)
                    && backend.cpus <= driver.cpus()
            };
            let load = Load {
                direction,
                depth,
                driver,
                is_endless: matches!(choice.name, Name::Endless { .. }),
            };
            if !choice.has(&case) || driver.cpus() != choice.cpus {
                continue;
            }
            for it in BACKENDS.iter().filter(able) {
                match choice.name {
                    Name::Part(_) => report(&case, it, disk, &load)?,
                    Name::Endless { backend, .. } if it.name == backend => {
                        println!("vblk-forever");
                        (it.measure)(disk, &load)?;
                    }
                    Name::Endless { .. } => (),
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

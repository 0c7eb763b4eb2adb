// SPDX-License-Identifier: GPL-2.0

//! Tests and measures `/dev/vhost-blk-rs`. One process plays both sides: the VMM with its ioctls
//! and the guest with its memory and rings. Needs root and the module loaded, and is meant for a
//! machine that may crash: `scripts/l1 -- vblk-harness run`.
//!
//! ```text
//! vblk-harness list                 names of all tests
//! vblk-harness run [NAME…]          runs these, or all; exit status 1 if one fails
//! vblk-harness --list [--format terse] [FILTER…]
//! vblk-harness [FILTER…] [--exact] [--skip PART]… [--nocapture] [--ignored]
//!                                   the same as a program of libtest does it: a filter is a part
//!                                   of names, and no command; exit status 2 if it matches nothing
//! vblk-harness observe [--complaints FILE] -- COMMAND [ARGUMENT…]
//!                                   runs a command before the oracle, and writes what that
//!                                   complains of; exit status of the command, or 120 if it
//!                                   succeeds and there are complaints, 125 if it can't be run
//! vblk-harness bench [PATTERN]      figures; means something under scripts/l1 --icount only
//! vblk-harness bench-scaling        a figure by the clock
//! vblk-harness bench-forever CASE BACKEND  the work of a figure, for scripts/profile
//! ```
//!
//! Environment: MODULE is the module's file, for tests that load it, and TEST_DISK that of the disk
//! of the tests; VBLK_SEED the seed of what is random; with VBLK_LONG=1 tests repeat what they do as often as proves most.

#![deny(unsafe_code)]

mod area;
mod bench;
mod by_vdpa;
mod cgroup;
mod child;
mod context;
mod device;
mod disk;
mod fail_nth;
mod fixtures;
mod kmod;
mod load;
mod memory;
mod observe;
mod oracle;
mod prelude;
mod program;
mod rng;
mod runner;
mod selection;
mod sys;
mod tests;
mod vhost_vdpa;
mod vm;

use context::Case;
use observe::Observation;
use selection::Selection;
use std::process::ExitCode;

/// First words that are no filters.
const COMMANDS: &[&str] = &[
    "list",
    "run",
    "observe",
    "bench",
    "bench-scaling",
    "bench-forever",
    "child",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            tests::all().for_each(|test| println!("{}", test.name()));
            ExitCode::SUCCESS
        }
        ["run", names @ ..] => perform(&Selection::named(names)),
        ["observe", observation @ ..] => match Observation::parse(observation) {
            Some(observation) => observation.main(),
            None => misused("observe needs [--complaints FILE] -- COMMAND [ARGUMENT…]"),
        },
        ["bench"] => measure(""),
        ["bench-scaling"] => report(bench::scaling::main()),
        ["bench", pattern] => measure(pattern),
        ["bench-forever", case, backend] => report(bench::forever(case, backend)),
        ["child", role, arguments @ ..] => match tests::roles().find(|known| known.name == *role) {
            Some(role) => child::main(role, arguments),
            None => misused(&format!("no child role is called {role}")),
        },
        [command, ..] if COMMANDS.contains(command) => {
            misused(&format!("wrong arguments for {command}"))
        }
        words => match Selection::parse(words) {
            Ok(selection) => perform(&selection),
            Err(complaint) => misused(&complaint),
        },
    }
}

fn misused(complaint: &str) -> ExitCode {
    eprintln!("vblk-harness: {complaint}");
    eprintln!(
        "usage: vblk-harness list | run [NAME…] | [FILTER…] | bench [PATTERN] | bench-scaling"
    );
    ExitCode::from(2)
}

/// Lists or runs the selected tests.
fn perform(selection: &Selection<'_>) -> ExitCode {
    let selected = match selection.of(tests::all()) {
        Ok(selected) => selected,
        Err(complaint) => {
            eprintln!("vblk-harness: {complaint}");
            return ExitCode::from(2);
        }
    };
    if selection.is_list {
        selected
            .iter()
            .for_each(|test| println!("{}: test", test.name()));
        return ExitCode::SUCCESS;
    }
    run(&selected)
}

fn run(selected: &[Case]) -> ExitCode {
    if kmod::users().is_none() {
        if let Err(error) = kmod::load() {
            eprintln!("vblk-harness: the module is not loaded, and loading MODULE fails: {error}");
            return ExitCode::FAILURE;
        }
    }
    match runner::run(selected) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn measure(pattern: &str) -> ExitCode {
    report(bench::main(pattern))
}

fn report(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vblk-harness: {error}");
            ExitCode::FAILURE
        }
    }
}

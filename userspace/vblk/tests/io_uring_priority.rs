// SPDX-License-Identifier: GPL-2.0

//! The priority of a request, which the io-uring back-end hands to the kernel. The kernel refuses
//! what is none, or what this process may not have: that shows in the answer. That it arrives at a
//! disk shows in `differential/priorities`.

mod common;

use common::*;
use std::{env, fs, process::Command};

const OK: u8 = 0;

const NONE: u32 = 0;
const REAL_TIME: u32 = 1 << 13;
const BEST_EFFORT: u32 = 2 << 13;
const IDLE: u32 = 3 << 13;

/// CAP_SYS_NICE and CAP_SYS_ADMIN: either allows real-time priority.
const PRIVILEGES: u64 = 1 << 23 | 1 << 21;

fn served_with(priorities: &[u32]) {
    let mut rig = Rig::new(Setup::default());
    for &priority in priorities {
        // In one piece and in several, as each has an operation of its own.
        let at = |request: vblk_core::testing::BlockRequest| {
            let second = vblk_core::addr::GuestAddr(DATA + 65536);
            let pieces = request.clone().data(second, 512);
            [request, pieces]
        };
        for mut request in [read(0, DATA, 512), write(0, DATA, 512)]
            .into_iter()
            .flat_map(at)
        {
            request.priority = priority;
            assert_eq!(rig.request(&request).0, OK, "{priority:#x} {request:?}");
        }
    }
    assert_eq!(rig.backend.stats().unwrap().io_errors, 0);
}

#[test]
fn requests_of_any_class_are_served() {
    served_with(&[
        NONE,
        BEST_EFFORT,
        BEST_EFFORT | 7,
        IDLE,
        REAL_TIME,
        REAL_TIME | 7,
    ]);
}

#[test]
fn what_is_no_priority_counts_as_none() {
    served_with(&[
        // A level without a class; classes without a name; more than 16 bits.
        7,
        4 << 13,
        7 << 13 | 4,
        1 << 16,
        IDLE | 1 << 16,
        IDLE | 1 << 31,
        u32::MAX,
    ]);
}

fn privileges() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(field.unwrap().trim(), 16).unwrap() & PRIVILEGES
}

#[test]
#[ignore = "the next one runs it in a process without privileges"]
fn in_a_process_without_privileges() {
    assert_eq!(privileges(), 0);
    served_with(&[REAL_TIME, REAL_TIME | 7, BEST_EFFORT]);
    println!("served");
}

#[test]
fn real_time_priority_counts_as_none_for_a_launcher_that_may_not_have_it() {
    let this = env::current_exe().unwrap();
    let mut command = if privileges() == 0 {
        Command::new(this)
    } else {
        let mut command = Command::new("setpriv");
        let without = "-sys_nice,-sys_admin";
        command.args(["--inh-caps", without, "--bounding-set", without]);
        command.arg(this);
        command
    };
    let name = "in_a_process_without_privileges";
    let output = command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("served"), "{said}");
}

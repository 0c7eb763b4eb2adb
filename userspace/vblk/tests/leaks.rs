// SPDX-License-Identifier: GPL-2.0

//! What a disk took is given back when it goes away: descriptors, memory and threads. The only
//! test of its process, since it counts what the process has.

mod common;

use common::*;
use std::fs;
use vblk_core::{addr::GuestAddr, testing::DriverMemory};

#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Bytes of all mappings. What the allocator sets aside counts from the beginning, so that they
    /// do not change with how much of it is in use.
    mapped: u64,
}

impl Holdings {
    fn now() -> Self {
        let count = |dir| fs::read_dir(dir).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let bytes = |line: &str| {
            let (start, rest) = line.split_once('-').unwrap();
            let end = rest.split(' ').next().unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            number(end) - number(start)
        };
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            mapped: maps.lines().map(bytes).sum(),
        }
    }

    /// Returns whether both hold the same, but for less memory than half a region of a guest.
    fn equals(&self, other: &Self) -> bool {
        self.descriptors == other.descriptors
            && self.threads == other.threads
            && self.mapped.abs_diff(other.mapped) < SEAM / 2
    }
}

#[test]
fn a_disk_that_goes_away_leaves_nothing_behind() {
    // What the first one leaves behind is there once: allocations of the standard library.
    drop(Rig::new(Setup::default()));
    let before = Holdings::now();
    for round in 0..3 {
        let mut rig = Rig::new(Setup::default());
        let with = Holdings::now();
        assert!(with.descriptors > before.descriptors, "{with:?}");
        assert!(with.mapped - before.mapped >= SEAM, "{with:?} {before:?}");
        rig.memory.write(GuestAddr(DATA), &pattern(round, 4096));
        assert_eq!(rig.request(&write(0, DATA, 4096)), (0, 1));
        // Stopped or not.
        if round > 0 {
            rig.stop();
        }
        drop(rig);
        let after = Holdings::now();
        assert!(after.equals(&before), "{round}: {after:?} {before:?}");
    }
}

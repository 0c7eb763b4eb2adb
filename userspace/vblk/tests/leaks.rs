// SPDX-License-Identifier: GPL-2.0

//! What a disk took is given back when it goes away: descriptors, memory and threads. The only
//! test of its process, since it counts what the process has.

mod common;

use common::*;
use std::fs;
use vblk_core::{
    addr::GuestAddr,
    testing::DriverMemory, //
};

#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Mappings of the size of guest memory's regions.
    regions: usize,
}

fn holdings() -> Holdings {
    let count = |dir| fs::read_dir(dir).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_region = |line: &&str| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        // Neighbours may show as one.
        number(end) - number(start) >= SEAM
    };
    Holdings {
        descriptors: count("/proc/self/fd"),
        threads: count("/proc/self/task"),
        regions: maps.lines().filter(is_region).count(),
    }
}

#[test]
fn a_disk_that_goes_away_leaves_nothing_behind() {
    // What the first one leaves behind is there once: allocations of the standard library.
    drop(Rig::new(Setup::default()));
    let before = holdings();
    for round in 0..3 {
        let mut rig = Rig::new(Setup::default());
        assert_ne!(holdings(), before);
        rig.memory.write(GuestAddr(DATA), &pattern(round, 4096));
        assert_eq!(rig.request(&write(0, DATA, 4096)), (0, 1));
        // Stopped or not.
        if round > 0 {
            rig.stop();
        }
        drop(rig);
        assert_eq!(holdings(), before, "{round}");
    }
}

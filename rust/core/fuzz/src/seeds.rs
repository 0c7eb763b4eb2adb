// SPDX-License-Identifier: GPL-2.0

//! Inputs to begin with: requests as a driver makes them, in rings of both formats, and short runs
//! of the other fuzzers.

use crate::chains::{
    Control,
    MEMORY, //
};
use vblk_core::{
    addr::GuestAddr,
    ring::Format,
    testing::{
        cut,
        BlockRequest,
        Buf,
        Driver,
        DriverMemory,
        Ram, //
    },
};

/// An input of a fuzzer.
pub struct Seed {
    /// The fuzzer.
    pub target: &'static str,
    /// Name that says what is in it.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Returns all seeds.
pub fn all() -> Vec<Seed> {
    let mut seeds = chains();
    let mut add = |target, name: &str, bytes: Vec<u8>| {
        seeds.push(Seed {
            target,
            name: name.to_owned(),
            bytes,
        });
    };
    // An entry, the index that covers it, taking it, giving it back, deciding on an interrupt.
    let split = [1, 0, 0, 0, 0, 0, 1, 0, 4, 1, 5, 8, 6, 7];
    add("rings", "split", [&[8, 0, 0][..], &split].concat());
    add(
        "rings",
        "split-event-index",
        [&[10, 0xFF, 0xFF][..], &split].concat(),
    );
    let packed = [
        0, 0, 2, 3, 1, 4, 0, 7, 5, 6, 0, 0, 1, 3, 1, 4, 0, 2, 1, 0x80, 2, 0, 7,
    ];
    add("rings", "packed", [&[9, 0, 0][..], &packed].concat());
    add(
        "rings",
        "packed-event-index",
        [&[11, 3, 0][..], &packed].concat(),
    );
    let low = [0, 0, 0, 0, 1, 0, 16];
    let next = [0, 0, 1, 0, 1, 0, 32];
    let last = [0b10_00_10, 0xFF, 0, 0, 1, 0, 0];
    let lookups = [0, 0, 2, 0, 0, 1, 0, 0, 0, 1, 2, 0, 1, 0, 0];
    let regions = [&low[..], &next, &last, &lookups].concat();
    add("tables", "three-regions", [&[3][..], &regions].concat());
    add("tables", "overlap", [&[2][..], &low, &low].concat());
    seeds
}

/// Addresses of the parts of a request.
const HEADER: GuestAddr = GuestAddr(0x800);
const DATA: GuestAddr = GuestAddr(0xA00);
const STATUS: GuestAddr = GuestAddr(0xF00);
const TABLE: GuestAddr = GuestAddr(0xC00);

fn requests() -> Vec<(&'static str, BlockRequest)> {
    let of = |kind| BlockRequest::new(kind, 0, HEADER, STATUS);
    let ranges = |kind, count: u32| {
        let mut request = of(kind);
        request.data.push(Buf::readable(DATA, count * 16));
        request
    };
    vec![
        (
            "read",
            BlockRequest::read(8, HEADER, STATUS).data(DATA, 512),
        ),
        (
            "write",
            BlockRequest::write(0, HEADER, STATUS).data(DATA, 1024),
        ),
        ("flush", BlockRequest::flush(HEADER, STATUS)),
        (
            "get-id",
            BlockRequest::get_id(HEADER, STATUS).data(DATA, 20),
        ),
        ("discard", ranges(11, 1)),
        ("write-zeroes", ranges(13, 3)),
        ("secure-erase", ranges(14, 16)),
        ("unknown", of(99)),
    ]
}

/// Returns each request in each format, as plain descriptors, cut into small ones, and as a table.
fn chains() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, request) in requests() {
        for format in [Format::Split, Format::Packed] {
            for (form, indirect, blocks) in
                [("plain", false, 0), ("cut", true, 1), ("table", true, 2)]
            {
                let control = Control {
                    format,
                    order: 4,
                    indirect,
                    blocks,
                    start: 0,
                    disk: 0b1101_0010,
                };
                let ram = Ram::new(MEMORY);
                request.prepare(&ram);
                let mut driver = Driver::new(&ram, control.layout(), false);
                let bufs = request.buffers();
                let added = match form {
                    "plain" => driver.add(&bufs),
                    "cut" => driver.add_mixed(&[], TABLE, &cut(&bufs, &[3, 16, 20, 400])),
                    _ => driver.add_indirect(&bufs, TABLE),
                };
                added.expect("room");
                driver.publish();
                let mut memory = ram.read_vec(GuestAddr(0), MEMORY);
                while memory.last() == Some(&0) {
                    memory.pop();
                }
                seeds.push(Seed {
                    target: "chains",
                    name: format!("{name}-{form}-{format:?}").to_lowercase(),
                    bytes: [&control.to_bytes()[..], &memory].concat(),
                });
            }
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chains::Outcome,
        rings,
        tables, //
    };

    #[test]
    fn each_seed_of_a_chain_is_a_request() {
        let seeds = chains();
        assert_eq!(seeds.len(), 8 * 2 * 3);
        for seed in seeds {
            assert_eq!(
                crate::chains::fuzz(&seed.bytes),
                [Outcome::Request],
                "{}",
                seed.name
            );
        }
    }

    #[test]
    fn no_seed_is_a_finding_nor_what_is_left_of_it_when_it_is_cut() {
        for seed in all() {
            for len in (0..seed.bytes.len()).chain([seed.bytes.len()]) {
                let bytes = &seed.bytes[..len];
                match seed.target {
                    "chains" => drop(crate::chains::fuzz(bytes)),
                    "rings" => rings::fuzz(bytes),
                    _ => tables::fuzz(bytes),
                }
            }
        }
    }
}

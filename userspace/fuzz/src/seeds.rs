// SPDX-License-Identifier: GPL-2.0

//! Inputs to begin with: a driver that begins and makes a request, in either format.

use crate::{
    layout::{layout, MEMORY},
    step::{Control, Step},
};
use vblk::backend::{Features, Format};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    testing::{BlockRequest, Buf, Driver, DriverMemory, Ram},
};

/// An input.
pub struct Seed {
    /// A name for its content.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const HEADER: GuestAddr = GuestAddr(0x8000);
const STATUS: GuestAddr = GuestAddr(0x8010);
const DATA: GuestAddr = GuestAddr(0x9000);

fn requests() -> Vec<(&'static str, BlockRequest)> {
    let of = |kind| BlockRequest::new(kind, 0, HEADER, STATUS);
    let ranges = |kind| {
        let mut request = of(kind);
        request.data.push(Buf::readable(DATA, 32));
        request
    };
    let read = BlockRequest::read(8, HEADER, STATUS);
    let write = BlockRequest::write(2, HEADER, STATUS);
    vec![
        ("read", read.clone().data(DATA, 4096)),
        ("read-misaligned", read.data(GuestAddr(DATA.0 + 1), 512)),
        ("write", write.data(DATA, 1024)),
        ("flush", BlockRequest::flush(HEADER, STATUS)),
        (
            "get-id",
            BlockRequest::get_id(HEADER, STATUS).data(DATA, 20),
        ),
        ("discard", ranges(11)),
        ("write-zeroes", ranges(13)),
        ("unknown", of(99)),
    ]
}

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, request) in requests() {
        for format in [Format::Split, Format::Packed] {
            for read_only in [false, true] {
                let control = Control {
                    packed: format == Format::Packed,
                    read_only,
                };
                let steps = steps(format, read_only, &request);
                let disk = if read_only { "-read-only" } else { "" };
                seeds.push(Seed {
                    name: format!("{name}-{format:?}{disk}").to_lowercase(),
                    bytes: steps.iter().fold(control.to_bytes(), |all, step| {
                        [all, step.to_bytes()].concat()
                    }),
                });
            }
        }
    }
    seeds
}

fn steps(format: Format, read_only: bool, request: &BlockRequest) -> Vec<Step> {
    let ram = Ram::new(MEMORY);
    // Two ranges of a sector each.
    let range = |sector: u64| [sector.to_le_bytes(), 1u64.to_le_bytes()].concat();
    ram.write(DATA, &[range(3), range(9)].concat());
    request.prepare(&ram);
    let mut driver = Driver::new(&ram, layout(format), false);
    driver.add(&request.buffers()).expect("room");
    driver.publish();
    let memory = ram.read_vec(GuestAddr(0), MEMORY);

    let mut features = vec![bit::VERSION_1, bit::RING_INDIRECT_DESC, bit::BLK_FLUSH];
    if format == Format::Packed {
        features.push(bit::RING_PACKED);
    }
    if !read_only {
        features.extend([bit::BLK_DISCARD, bit::BLK_WRITE_ZEROES]);
    }
    let features = features.iter().fold(0, |all, bit| all | 1 << bit);
    let mut steps = fills(&memory);
    // Whatever is in the ring when the driver becomes ready counts as kicked.
    steps.push(Step::Begin(Features(features)));
    // Again, with nothing new, and the end of the driver.
    steps.push(Step::Kick(0));
    steps.push(Step::Refresh);
    steps
}

/// Returns the steps that put this into memory that is zero.
fn fills(memory: &[u8]) -> Vec<Step> {
    const PIECE: usize = 32;
    let pieces = (0u32..).step_by(PIECE).zip(memory.chunks(PIECE));
    pieces
        .filter(|(_, piece)| piece.iter().any(|byte| *byte != 0))
        .map(|(at, piece)| Step::Fill(at, piece.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    #[test]
    fn each_seed_is_a_request_that_is_answered() {
        for seed in all() {
            let stats = fuzz(&seed.bytes).expect("an input");
            assert_eq!((stats.requests, stats.malformed), (1, 0), "{}", seed.name);
        }
    }

    #[test]
    fn no_seed_is_a_finding_when_it_is_cut() {
        for seed in all() {
            for len in (0..seed.bytes.len()).step_by(11) {
                fuzz(&seed.bytes[..len]);
            }
        }
    }
}

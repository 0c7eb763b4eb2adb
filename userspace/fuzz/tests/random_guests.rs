// SPDX-License-Identifier: GPL-2.0

//! Guests by chance, as far as that goes without a fuzzer: mostly steps that mean something, and
//! among them drivers that begin and kick.

use proptest::prelude::*;
use vblk::backend::Features;
use vblk_core::features::bit;
use vblk_device_fuzz::{fuzz, seeds, Control, Step};

fn register() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        4 => 0u32..256,
        1 => any::<u32>(),
    ];
    (0u8..0x48, value).prop_map(|(number, value)| Step::Register { number, value })
}

/// Bytes anywhere in the pages that rings, headers and data of the seeds are in.
fn fill() -> impl Strategy<Value = Step> {
    let at = prop_oneof![0x1000u32..0x1400, 0x8000u32..0x8020, 0u32..1 << 18];
    (at, prop::collection::vec(any::<u8>(), 1..32)).prop_map(|(at, bytes)| Step::Fill(at, bytes))
}

fn begin() -> impl Strategy<Value = Step> {
    let ring = [
        bit::RING_INDIRECT_DESC,
        bit::RING_EVENT_IDX,
        bit::RING_PACKED,
    ];
    prop::collection::vec(any::<bool>(), 3).prop_map(move |chosen| {
        let chosen = ring.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        let features = chosen.fold(1 << bit::VERSION_1, |all, (bit, _)| all | 1 << bit);
        Step::Begin(Features(features))
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => register(),
        2 => (0u16..0x400, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0u16..0x400, 0usize..9).prop_map(|(at, len)| Step::Read(at, len)),
        6 => fill(),
        2 => begin(),
        3 => (0u8..2).prop_map(Step::Kick),
        1 => Just(Step::Refresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if long() { 20_000 } else { 300 }))]

    #[test]
    fn no_guest_is_a_finding(
        (packed, read_only) in any::<(bool, bool)>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let control = Control { packed, read_only };
        let bytes = steps.iter().flat_map(Step::to_bytes);
        prop_assert!(fuzz(&control.to_bytes().into_iter().chain(bytes).collect::<Vec<_>>()).is_some());
    }

    /// A good driver that loses its way.
    #[test]
    fn no_guest_that_begins_well_is_a_finding(
        which in any::<prop::sample::Index>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let seeds = seeds::all();
        let seed = &seeds[which.index(seeds.len())];
        let bytes = steps.iter().flat_map(Step::to_bytes);
        prop_assert!(fuzz(&seed.bytes.iter().copied().chain(bytes).collect::<Vec<_>>()).is_some());
    }
}

fn long() -> bool {
    std::env::var("VBLK_LONG").is_ok_and(|value| value == "1")
}

/// What a step is in bytes is what is taken from them.
#[test]
fn seeds_are_made_of_what_fuzzers_take() {
    let steps = [
        Step::Register {
            number: 28,
            value: 15,
        },
        Step::Write(0x120, vec![1]),
        Step::Read(0x100, 8),
        Step::Fill(0x1000, vec![1, 2, 3]),
        Step::Begin(Features(1 << bit::VERSION_1 | 1 << bit::RING_PACKED)),
        Step::Kick(1),
        Step::Refresh,
    ];
    for step in steps {
        assert_eq!(Step::from_bytes(&step.to_bytes()), Some(step));
    }
}

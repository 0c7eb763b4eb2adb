// SPDX-License-Identifier: GPL-2.0

//! Compares what can be cut for a device with what the block layer does.

use proptest::prelude::*;
use vblk_core::segments::SegmentLimits;

const ANY: SegmentLimits = SegmentLimits {
    most: 128,
    virt_boundary_mask: 0,
};

const GAPLESS: SegmentLimits = SegmentLimits {
    virt_boundary_mask: 4095,
    ..ANY
};

fn few(most: u32) -> SegmentLimits {
    SegmentLimits { most, ..ANY }
}

#[test]
fn a_block_may_have_as_many_segments_as_the_device_takes() {
    let halves = [(0, 2048), (0, 2048)];
    assert!(few(2).keep_blocks_whole(4096, halves));
    assert!(!few(1).keep_blocks_whole(4096, halves));
    assert!(few(1).keep_blocks_whole(2048, halves));
}

#[test]
fn a_vector_has_a_segment_in_each_page() {
    assert!(few(2).keep_blocks_whole(4096, [(512, 4096)]));
    assert!(!few(1).keep_blocks_whole(4096, [(512, 4096)]));
    assert!(few(1).keep_blocks_whole(512, [(512, 4096)]));
    // The second block has the rest of a page, and two vectors.
    let split = [(0, 2048), (0, 4096), (0, 1024), (0, 1024)];
    assert!(!few(2).keep_blocks_whole(4096, split));
    assert!(few(3).keep_blocks_whole(4096, split));
}

#[test]
fn gaps_may_be_between_blocks_only() {
    assert!(GAPLESS.keep_blocks_whole(4096, [(512, 4096), (512, 4096)]));
    assert!(GAPLESS.keep_blocks_whole(4096, [(512, 3584), (0, 512)]));
    assert!(!GAPLESS.keep_blocks_whole(4096, [(0, 512), (0, 3584)]));
    assert!(!GAPLESS.keep_blocks_whole(4096, [(512, 3584), (4, 512)]));
    assert!(ANY.keep_blocks_whole(4096, [(0, 512), (0, 3584)]));
}

/// Memory of whole blocks.
fn vectors(block: u32) -> impl Strategy<Value = Vec<(u32, u32)>> {
    let unit = prop_oneof![Just(4u32), Just(512), Just(1024), Just(4096)];
    let parts = proptest::collection::vec((0u32..1024, 1u32..12), 1..12);
    (unit, parts).prop_map(move |(unit, parts)| {
        let mut vectors: Vec<_> = parts
            .iter()
            .map(|(offset, len)| (offset * unit % 4096, len * unit))
            .collect();
        let bytes: u32 = vectors.iter().map(|(_, len)| len).sum();
        let rest = bytes.next_multiple_of(block) - bytes;
        if rest > 0 {
            vectors.push((0, rest));
        }
        vectors
    })
}

/// Cuts as `bio_split_io_at()` does, where segments are no longer than a page. Returns whether each
/// cut leaves a whole block.
fn can_be_cut(limits: &SegmentLimits, block: u32, mut vectors: Vec<(u32, u32)>) -> bool {
    while !vectors.is_empty() {
        let (mut bytes, mut segments, mut last) = (0, 0, None);
        'all: for (offset, len) in &vectors {
            let is_gap = |end: u32| u64::from(end | offset) & limits.virt_boundary_mask != 0;
            if last.is_some_and(is_gap) {
                break;
            }
            let mut at = *offset;
            while at < offset + len {
                if segments == limits.most {
                    break 'all;
                }
                let now = (4096 - at % 4096).min(offset + len - at);
                (segments, bytes, at) = (segments + 1, bytes + now, at + now);
            }
            last = Some(at);
        }
        let mut cut = bytes / block * block;
        if cut == 0 {
            return false;
        }
        while cut > 0 {
            let (offset, len) = &mut vectors[0];
            let now = cut.min(*len);
            (*offset, *len, cut) = (*offset + now, *len - now, cut - now);
            if *len == 0 {
                vectors.remove(0);
            }
        }
    }
    true
}

proptest! {
    #[test]
    fn what_keeps_its_blocks_can_be_cut(
        block in prop_oneof![Just(512u32), Just(4096), Just(16384)],
        most in 1u32..12,
        virt_boundary_mask in prop_oneof![Just(0u64), Just(511), Just(4095)],
        seed in vectors(16384),
    ) {
        let limits = SegmentLimits { most, virt_boundary_mask };
        let alignment = seed.iter().fold(0, |all, (offset, len)| all | offset | len);
        if limits.keep_blocks_whole(block, seed.iter().copied()) {
            prop_assert!(can_be_cut(&limits, block, seed.clone()));
        }
        if limits.take_all(block, alignment) {
            prop_assert!(can_be_cut(&limits, block, seed));
        }
    }
}

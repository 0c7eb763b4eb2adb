// SPDX-License-Identifier: GPL-2.0

//! Properties of every ring, table and request, however hostile: no panic, a bound on what is
//! read, and agreement with a reference that is written plainly.

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod judge;
mod packed;
mod rings;
mod tables;

use proptest::prelude::*;

/// Failures are not kept in files: what was found becomes a test with a name.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Returns lengths of buffers: short ones, whole tables and blocks, and those near the largest.
fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0..40u32,
        4 => (0..24u32).prop_map(|n| n * 16),
        2 => (0..9u32).prop_map(|n| n * 512),
        1 => (0..20u32).prop_map(|below| u32::MAX - below),
        1 => any::<u32>(),
    ]
}

// SPDX-License-Identifier: GPL-2.0

//! Runs the fuzzers of `vblk_core` on an input: each holds the crate against the reference of its
//! property tests. A panic is a finding, and so is an arithmetic overflow.
//!
//! The inputs are plain bytes with a fixed meaning, so that [`seeds`] can be made by the model of a
//! driver. What was found becomes a unit test with a name.

pub mod chains;
pub mod rings;
pub mod seeds;
pub mod tables;

#[allow(missing_docs)]
#[path = "../../tests/properties/judge/mod.rs"]
mod judge;

use vblk_core::testing::Input;

// SPDX-License-Identifier: GPL-2.0

//! What the fuzzers of `vblk_core` do with their input: they hold the crate against the reference of
//! its property tests. A panic is a finding, and so is an arithmetic overflow.
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

/// Takes numbers off the front of an input.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

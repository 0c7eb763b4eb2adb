// SPDX-License-Identifier: GPL-2.0

//! Inputs of fuzzers.

use std::vec::Vec;

/// Takes numbers off the front of an input, little-endian. Each gives nothing once too little is
/// left.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Returns the next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// Returns the next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    /// Returns the next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// Returns the next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// Returns the next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Returns the next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first.to_vec())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Compares what the crate makes of any input with a reference that is written plainly. The
//! property tests and the fuzzers bring the inputs.

// Each of them uses its own part of this.
#![allow(dead_code)]

pub mod action;
pub mod chain;
pub mod packed;
pub mod reference;
pub mod split;
pub mod table;

use vblk_core::addr::GuestAddr;

/// Address of the ring. The first bytes of memory stay free of it.
pub const RING: GuestAddr = GuestAddr(0x1000);

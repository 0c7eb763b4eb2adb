// SPDX-License-Identifier: GPL-2.0

//! Chains: which ones are walked, what is found in them, and how the others end.

#[path = "../common/mod.rs"]
mod common;

mod direct;
mod indirect;
mod walked;

// SPDX-License-Identifier: GPL-2.0

//! Both halves of a packed ring, against the model of a driver.

#[path = "../common/mod.rs"]
mod common;

mod hostile;
mod moving;
mod notify;
mod queue;

/// Bytes of guest memory.
const MEMORY: usize = 0x10_0000;

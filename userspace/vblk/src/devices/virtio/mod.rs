// SPDX-License-Identifier: GPL-2.0

//! Virtio devices on the MMIO transport (virtio 1.2, 4.2).

pub mod block;
pub mod mmio;
mod used;

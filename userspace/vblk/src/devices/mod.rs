// SPDX-License-Identifier: GPL-2.0

//! What a guest finds at its ports and in its address space. Nothing here knows of KVM.

pub mod bus;
pub mod clock;
pub mod power;
pub mod serial;
pub mod virtio;

// SPDX-License-Identifier: GPL-2.0

//! Devices at a guest's ports and in its address space. Nothing here knows of KVM.

pub mod bus;
pub mod clock;
pub mod power;
pub mod serial;
pub mod virtio;

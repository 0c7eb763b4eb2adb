// SPDX-License-Identifier: GPL-2.0

//! What a driver set up of a queue, but for what the device itself keeps.

use vblk_core::{
    addr::GuestAddr,
    queue::Parts, //
};

/// A queue as its driver set it up.
#[derive(Clone, Copy, Default)]
pub(super) struct Vring {
    /// Where the parts of the ring lie.
    pub(super) addresses: Option<Parts<GuestAddr>>,
    /// It is served while the device is running.
    pub(super) is_ready: bool,
}

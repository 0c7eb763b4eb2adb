// SPDX-License-Identifier: GPL-2.0

//! The status byte of a request, which can be written wherever its I/O completes.

use crate::sys::{
    pin::PinnedByte,
    pinned_extents::LeasedByte, //
};

/// A byte of guest memory to be written in any context.
pub(crate) enum StatusByte {
    /// In a page with a pin of its own.
    Pinned(PinnedByte),
    /// In memory that was pinned ahead.
    Leased(LeasedByte),
}

impl StatusByte {
    /// Writes the byte.
    #[inline]
    pub(crate) fn write(&self, value: u8) {
        match self {
            Self::Pinned(byte) => byte.write(value),
            Self::Leased(byte) => byte.write(value),
        }
    }

    /// Releases the byte, in any context. Returns `false` when a thread must do so soon, by dropping
    /// the value.
    #[inline(always)]
    pub(crate) fn try_release(&mut self) -> bool {
        match self {
            Self::Pinned(byte) => byte.try_release(),
            // Pins nothing of its own. The memory itself may be unpinned by a thread only.
            Self::Leased(byte) => {
                byte.end();
                true
            }
        }
    }
}

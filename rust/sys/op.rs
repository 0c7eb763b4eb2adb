// SPDX-License-Identifier: GPL-2.0

//! Operations of the block layer.

use super::bindings as helpers;

/// What an I/O does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// From the device to memory.
    Read,
    /// From memory to the device.
    Write,
    /// The same, and done only when durable.
    WriteDurable,
    /// Makes all earlier writes durable. Has no pages.
    Flush,
    /// Gives up the content of sectors. Has no pages, as the next two.
    Discard,
    /// Erases the content of sectors.
    SecureErase,
    /// Fills sectors with zeroes, and may give up the space behind them.
    Zero,
}

impl Op {
    /// As the block layer has it: `REQ_OP_*` with `REQ_*`, <linux/blk_types.h>.
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Read => helpers::VBLK_OP_READ,
            Self::Write => helpers::VBLK_OP_WRITE,
            Self::WriteDurable => helpers::VBLK_OP_WRITE_FUA,
            Self::Flush => helpers::VBLK_OP_FLUSH,
            Self::Discard => helpers::VBLK_OP_DISCARD,
            Self::SecureErase => helpers::VBLK_OP_SECURE_ERASE,
            Self::Zero => helpers::VBLK_OP_ZERO,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Features that both back-ends have.

use vblk::backend::Features;
use vblk_core::features::bit;

/// Features of both back-ends.
pub fn common() -> Features {
    Features(Features::SUPPORTED.0 & !(1 << bit::BLK_SECURE_ERASE))
}

/// The same, on split rings.
pub fn on_split_rings() -> Features {
    Features(common().0 & !(1 << bit::RING_PACKED))
}

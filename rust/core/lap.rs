// SPDX-License-Identifier: GPL-2.0

//! Positions in a packed ring.
//!
//! Each half of a packed ring stands at a free-running number of descriptors that wraps at 2^16.
//! Below the size of the queue, which is a power of two, its bits are the place in the ring; the
//! next one up is the lap, even or odd. The wrap counter of virtio is 1 in even laps, since both
//! sides begin with that (virtio 1.2, 2.8.1).

use crate::queue::QueueSize;

/// The wrap counter in [`off_wrap`].
const WRAP: u16 = 1 << 15;

/// A position as virtio and vhost write it: the place in the ring, with the wrap counter in bit 15.
pub const fn off_wrap(size: QueueSize, position: u16) -> u16 {
    let wrap = if even_lap(size, position) { WRAP } else { 0 };
    size.slot(position) as u16 | wrap
}

/// The inverse of [`off_wrap`]; `None` for a place that is not in the ring.
pub const fn position(size: QueueSize, off_wrap: u16) -> Option<u16> {
    let off = off_wrap & !WRAP;
    if off >= size.get() {
        return None;
    }
    Some(if off_wrap & WRAP != 0 {
        off
    } else {
        off + size.get()
    })
}

/// How many descriptors lie between two positions, modulo two laps: more can't be told.
pub const fn distance(size: QueueSize, from: u16, to: u16) -> u16 {
    let two_laps = size.get().wrapping_mul(2).wrapping_sub(1);
    to.wrapping_sub(from) & two_laps
}

/// Whether the wrap counter is 1 at a position.
pub(crate) const fn even_lap(size: QueueSize, position: u16) -> bool {
    position & size.get() == 0
}

// SPDX-License-Identifier: GPL-2.0

//! Positions in a packed ring, with their wrap counter.
//!
//! Each half of a packed ring stands at a free-running number of descriptors that wraps at 2^16.
//! Below the size of the queue, which is a power of two, its bits are the place in the ring. The
//! next bit up changes each time that the half goes around the ring: the wrap counter of virtio is
//! its inverse, since both sides begin with a wrap counter of 1 (virtio 1.2, 2.8.1).
//!
//! ```
//! use vblk_core::{queue::QueueSize, wrap::{distance, off_wrap, position}};
//!
//! let size = QueueSize::new(8).unwrap();
//! // Place 0 of a new ring, and of the lap after.
//! assert_eq!((off_wrap(size, 0), off_wrap(size, 8)), (0x8000, 0));
//! assert_eq!(position(size, 0x8003), Some(3));
//! assert_eq!(position(size, 8), None);
//! assert_eq!(distance(size, 14, 1), 3);
//! ```

use crate::queue::QueueSize;

/// The wrap counter in [`off_wrap`].
const WRAP: u16 = 1 << 15;

/// Encodes a position as virtio and vhost do: the place in the ring, with the wrap counter in
/// bit 15.
pub const fn off_wrap(size: QueueSize, position: u16) -> u16 {
    let wrap = if wrap_counter(size, position) {
        WRAP
    } else {
        0
    };
    size.slot(position) as u16 | wrap
}

/// Decodes a position, the inverse of [`off_wrap`]. Returns `None` for a place that is not in the
/// ring.
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

/// Counts the descriptors between two positions, modulo twice the size of the ring: the wrap
/// counter tells no more.
pub const fn distance(size: QueueSize, from: u16, to: u16) -> u16 {
    let twice_around = size.get().wrapping_mul(2).wrapping_sub(1);
    to.wrapping_sub(from) & twice_around
}

/// Returns the wrap counter at a position, as a truth value.
pub(crate) const fn wrap_counter(size: QueueSize, position: u16) -> bool {
    position & size.get() == 0
}

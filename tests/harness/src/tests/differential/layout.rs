// SPDX-License-Identifier: GPL-2.0

//! Guest memory of a side, and its only ring.

use vblk_core::{addr::GuestAddr, queue::QueueSize, ring::Format, testing::Layout};

/// Entries of the queue.
pub const QUEUE_SIZE: u16 = 256;
/// Address of the ring.
const RING: GuestAddr = GuestAddr(0x1_0000);
/// The end of the second region: there is nothing behind it.
pub const MEMORY_END: u64 = 8 << 20;
/// The end of one region and the beginning of its neighbour.
pub const BORDER: u64 = 4 << 20;

/// Returns where the parts of the ring lie.
pub fn layout(format: Format) -> Layout {
    let size = QueueSize::new(QUEUE_SIZE.into()).expect("a queue size");
    Layout::new(format, size, RING)
}

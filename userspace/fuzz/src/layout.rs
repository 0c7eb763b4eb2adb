// SPDX-License-Identifier: GPL-2.0

//! The layout of the guest's memory.

use vblk::backend::Format;
use vblk_core::{addr::GuestAddr, queue::QueueSize, testing::Layout};

/// Bytes of guest memory.
pub const MEMORY: usize = 256 << 10;
/// Entries of each queue.
pub const QUEUE_SIZE: u16 = 16;

/// Returns the layout of the first queue.
pub fn layout(format: Format) -> Layout {
    let size = QueueSize::new(QUEUE_SIZE.into()).expect("a queue size");
    Layout::new(format, size, GuestAddr(0x1000))
}

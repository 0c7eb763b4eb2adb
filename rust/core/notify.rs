// SPDX-License-Identifier: GPL-2.0

//! Decides whether the other side of a ring wants to hear of progress.
//!
//! ```
//! use vblk_core::notify::need_event;
//!
//! // The other side wants to hear when entry 5 is there.
//! assert!(!need_event(5, 5, 3));
//! assert!(need_event(5, 6, 3));
//! // Indices wrap.
//! assert!(need_event(65535, 0, 65535));
//! ```

/// Returns true if moving an index from `old` to `new` passes `event`, the index that the other
/// side asked to be notified about (virtio 1.2, 2.7.7.2, with VIRTIO_F_EVENT_IDX).
///
/// All three run freely and wrap at 2^16. An index that did not move passes nothing.
#[inline]
pub fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

// SPDX-License-Identifier: GPL-2.0

//! The log of guest memory that a device wrote, from which a VMM knows what to copy once more when
//! its guest moves to another host (VHOST_F_LOG_ALL): a bitmap of pages, shared with the VMM.
//!
//! ```
//! use std::cell::RefCell;
//! use vblk_core::{
//!     addr::GuestAddr,
//!     dirty_log::{bytes_for, mark},
//!     memory::SharedBitmap,
//! };
//!
//! struct Log(RefCell<Vec<u64>>);
//!
//! impl SharedBitmap for Log {
//!     fn set(&self, bit: u64) {
//!         self.0.borrow_mut().push(bit);
//!     }
//! }
//!
//! let log = Log(RefCell::default());
//! mark(&log, GuestAddr(0x2fff), 2);
//! assert_eq!(log.0.into_inner(), [2, 3]);
//! // 512 MiB are 128 Ki pages.
//! assert_eq!(bytes_for(GuestAddr((512 << 20) - 1)), 16 << 10);
//! ```

use crate::{
    addr::GuestAddr,
    memory::SharedBitmap, //
};

/// Bytes of guest memory for each bit: VHOST_PAGE_SIZE.
pub const LOG_PAGE: u64 = 4096;

/// Marks the pages of `bytes` bytes at `at`, which have been written.
pub fn mark(log: &impl SharedBitmap, at: GuestAddr, bytes: u64) {
    let Some(more) = bytes.checked_sub(1) else {
        return;
    };
    let last = at.0.saturating_add(more);
    for page in at.0 / LOG_PAGE..=last / LOG_PAGE {
        log.set(page);
    }
}

/// Returns the bytes of a log for guest memory up to `last`, in whole words of 64 bits.
pub fn bytes_for(last: GuestAddr) -> u64 {
    let words = last.0 / (LOG_PAGE * u64::from(u64::BITS)) + 1;
    words * size_of::<u64>() as u64
}

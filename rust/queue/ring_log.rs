// SPDX-License-Identifier: GPL-2.0

//! The part of a dirty log that a ring has.

use crate::memory::DirtyLog;
use kernel::sync::Arc;
use vblk_core::addr::GuestAddr;

/// The log of a virtqueue: of the data and the status of its requests, and of its ring.
#[derive(Clone)]
pub(crate) struct RingLog {
    /// The log.
    pub(crate) log: Arc<DirtyLog>,
    /// What the device writes of the ring, if that is to be logged: where, and how many bytes.
    pub(crate) written: [Option<(GuestAddr, u64)>; 2],
}

impl RingLog {
    /// Marks all that the device writes of the ring: few pages, which change all the time.
    #[cold]
    pub(super) fn mark_ring(&self) {
        for (at, bytes) in self.written.iter().flatten() {
            self.log.mark(*at, *bytes);
        }
    }

    /// Marks what was written to give a request back, with its status byte.
    #[cold]
    pub(super) fn mark_answer(&self, status: GuestAddr) {
        self.log.mark(status, 1);
        self.mark_ring();
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What the thread of a disk and the device see at once.

use crate::{
    backend::{Error, Offer, OfferSource},
    disk::Disk,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vblk_core::{
    config::{Limits, Queues},
    features::{bit, Features},
};

/// Features that only the module has.
pub const NOT_HERE: u64 = 1 << bit::BLK_SECURE_ERASE;

/// State that may change while the thread serves the disk. The driver sees that something has
/// changed before it makes requests that rely on it, and the ring orders those: no ordering is
/// needed here.
pub struct SharedState {
    pub disk: Disk,
    /// Discarding is offered.
    pub can_discard: bool,
    /// Length of the disk.
    pub sectors: AtomicU64,
    /// Writes must be durable when they are answered: the driver wants it so, or has no command to
    /// make them durable.
    pub write_through: AtomicBool,
}

impl OfferSource for SharedState {
    fn offer(&self, queues: Queues) -> Result<Offer, Error> {
        let sectors = self.disk.sectors_now();
        let mut limits = Limits {
            sectors: sectors.map_err(Error::setup("asking for the disk's size"))?,
            ..self.disk.limits()
        };
        if !self.can_discard {
            limits.discard_sectors = 0;
        }
        self.sectors.store(limits.sectors, Ordering::Relaxed);
        Ok(Offer {
            features: Features(limits.features(&queues).0 & !NOT_HERE),
            config: limits.config(&queues),
        })
    }
}

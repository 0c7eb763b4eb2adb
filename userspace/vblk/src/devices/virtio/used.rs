// SPDX-License-Identifier: GPL-2.0

//! Finds out whether a device has used buffers since its driver last acknowledged an interrupt.
//!
//! Interrupts are raised by the back-end through KVM, unseen by this process. The rings tell: a
//! split ring has the number of used buffers in it, and for packed rings the back-end counts.
//!
//! An acknowledgement is for what was there at the last look. What comes between the two is
//! reported by the next look: a driver that goes by the answer misses nothing.

use super::mmio::QueueRegisters;
use crate::{
    backend::{Backend, Format},
    memory::Memory,
};
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

/// Offset of the index in a used ring (virtio 1.2, 2.7.8).
const USED_INDEX: u64 = 2;

/// The positions of the queues.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Positions {
    /// The used index of each split ring.
    Split(Vec<u16>),
    /// How many requests were given back, over all packed rings; `None` if that is unknown.
    Packed(Option<u64>),
}

/// Compares where the queues stand with where they stood.
#[derive(Debug, Default)]
pub struct UsedWatch {
    /// The used rings, if rings are split.
    rings: Vec<GuestAddress>,
    /// `None` when there is no driver.
    stand: Option<Stand>,
}

#[derive(Debug)]
struct Stand {
    /// At the last look.
    seen: Positions,
    /// At the look before the last acknowledgement.
    acknowledged: Positions,
}

impl UsedWatch {
    /// Starts to watch `queues`, of which nothing is used yet.
    pub fn new(
        memory: &Memory,
        backend: &dyn Backend,
        format: Format,
        queues: Vec<QueueRegisters>,
    ) -> Self {
        let rings = match format {
            Format::Split => queues
                .iter()
                .map(|queue| GuestAddress(queue.used))
                .collect(),
            Format::Packed => Vec::new(),
        };
        let now = match format {
            Format::Split => split(memory, &rings),
            Format::Packed => packed(backend),
        };
        Self {
            rings,
            stand: Some(Stand {
                seen: now.clone(),
                acknowledged: now,
            }),
        }
    }

    /// Returns whether something was used since the last acknowledgement.
    pub fn look(&mut self, memory: &Memory, backend: &dyn Backend) -> bool {
        let Some(stand) = &mut self.stand else {
            return false;
        };
        stand.seen = match stand.seen {
            Positions::Split(_) => split(memory, &self.rings),
            Positions::Packed(_) => packed(backend),
        };
        // A driver that is told too much looks in vain; one that is told too little waits for ever.
        stand.seen == Positions::Packed(None) || stand.seen != stand.acknowledged
    }

    /// Takes what was there at the last look as known to the driver.
    pub fn acknowledge(&mut self) {
        if let Some(stand) = &mut self.stand {
            stand.acknowledged = stand.seen.clone();
        }
    }
}

fn split(memory: &Memory, rings: &[GuestAddress]) -> Positions {
    // The back-end has written the index before it raises the interrupt, and KVM orders the two. A
    // ring outside memory is not served.
    let index = |ring: &GuestAddress| {
        let at = GuestAddress(ring.0.wrapping_add(USED_INDEX));
        memory.load(at, Ordering::Acquire).unwrap_or(0)
    };
    Positions::Split(rings.iter().map(index).collect())
}

fn packed(backend: &dyn Backend) -> Positions {
    Positions::Packed(backend.stats().ok().map(|stats| stats.requests))
}

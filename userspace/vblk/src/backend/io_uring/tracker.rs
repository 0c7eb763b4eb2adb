// SPDX-License-Identifier: GPL-2.0

//! Notes of what a queue has in flight, kept as the vhost-user protocol has them ("Inflight I/O
//! tracking"), so that any back-end that knows it can go on.
//!
//! A process may end after any store, so each step leaves notes that can be understood. What is
//! known here is not read back: the front-end may write to the notes too.

mod notes;
mod packed;
mod split;

use super::memory::RingPart;
use crate::backend::TrackingMemory;
use notes::Recovered;
pub use notes::{BadNotes, Taken};
use packed::{Copies, PackedNotes};
use split::SplitNotes;
use vblk_core::{
    chain::{Chain, ChainError, Segment},
    memory::ReadGuest,
    queue::Head,
    ring::{Base, Ring},
};

/// Notes what a queue takes and gives back.
pub enum Tracker {
    /// No notes are kept.
    Off,
    /// Of a split ring.
    Split(SplitNotes),
    /// Of a packed ring, with the chains of an earlier process.
    Packed(PackedNotes, Copies),
}

impl Tracker {
    /// Begins to keep notes for `ring`, which stands at `base` unless the notes of an earlier process
    /// say otherwise.
    ///
    /// # Errors
    ///
    /// [`BadNotes`], also where there is no room for as many entries as the ring has.
    pub fn begin(
        memory: Option<TrackingMemory>,
        ring: &Ring<RingPart<'_>>,
        base: Base,
        used: u16,
    ) -> Result<(Self, Recovered), BadNotes> {
        let Some(memory) = memory else {
            let chains = Vec::new();
            return Ok((Self::Off, Recovered { base, chains }));
        };
        if memory.entries() < ring.size().get() {
            return Err(BadNotes);
        }
        match ring {
            Ring::Split(ring) => {
                let (notes, recovered) = SplitNotes::begin(memory, ring.size(), base, used)?;
                Ok((Self::Split(notes), recovered))
            }
            Ring::Packed(ring) => {
                let (notes, copies, recovered) = PackedNotes::begin(memory, ring, base)?;
                Ok((Self::Packed(notes, copies), recovered))
            }
        }
    }

    /// Notes that a chain was taken.
    pub fn take(&mut self, ring: &Ring<RingPart<'_>>, head: Head) -> Taken {
        let entry = match (self, ring) {
            (Self::Split(notes), _) => notes.take(head),
            (Self::Packed(notes, _), Ring::Packed(ring)) => notes.take(ring, head),
            _ => 0,
        };
        Taken {
            head,
            entry,
            is_copied: false,
        }
    }

    /// Calls `add_used`, which gives the chain back, and notes that.
    pub fn give_back(&mut self, chain: Taken, add_used: impl FnOnce()) {
        match self {
            Self::Off => add_used(),
            Self::Split(notes) => notes.give_back(chain.entry, add_used),
            Self::Packed(notes, _) => notes.give_back(chain, add_used),
        }
    }

    /// Reads the buffers of a chain, as [`Ring::walk`] does.
    ///
    /// # Errors
    ///
    /// [`ChainError`].
    pub fn walk<'s>(
        &self,
        ring: &Ring<RingPart<'_>>,
        chain: Taken,
        indirect: bool,
        memory: &impl ReadGuest,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError> {
        match self {
            Self::Packed(_, copies) if chain.is_copied => {
                copies.walk(chain.head, indirect, memory, segments)
            }
            _ => ring.walk(chain.head, indirect, memory, segments),
        }
    }
}

#[cfg(test)]
mod tests;

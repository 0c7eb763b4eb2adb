// SPDX-License-Identifier: GPL-2.0

//! Notes of a split ring. The descriptors of a chain stay where they are until it is given back, so
//! its head is all there is to note.

use super::notes::{are_kept, in_flight, were_kept, BadNotes, Recovered, Taken, COUNTER, INFLIGHT};
use crate::backend::TrackingMemory;
use vblk_core::{
    queue::{Head, QueueSize},
    ring::Base,
};

/// `QueueRegionSplit` of the protocol.
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
/// `DescStateSplit`.
const NEXT: usize = 6;

/// Notes of a queue with a split ring.
pub struct SplitNotes {
    memory: TrackingMemory,
    /// Number for the next chain.
    counter: u64,
    last_batch_head: u16,
    /// The used index.
    used: u16,
}

impl SplitNotes {
    /// Begins, or goes on. `used` is the used index of the ring.
    pub fn begin(
        memory: TrackingMemory,
        size: QueueSize,
        base: Base,
        used: u16,
    ) -> Result<(Self, Recovered), BadNotes> {
        let mut notes = Self {
            memory,
            counter: 0,
            last_batch_head: 0,
            used,
        };
        let mut heads = Vec::new();
        if were_kept(&notes.memory)? {
            notes.last_batch_head = notes.memory.load(LAST_BATCH_HEAD);
            notes.finish_batch(size);
            heads = in_flight(&notes.memory, size.get());
        }
        notes.memory.store(USED_IDX, used);
        are_kept(&notes.memory);
        if let Some((last, _)) = heads.last() {
            notes.counter = last.wrapping_add(1);
        }
        // What was taken begins where the used index stands, whatever order it is given back in.
        let avail = match heads.len() as u16 {
            0 => base.avail,
            count => used.wrapping_add(count),
        };
        let chains = heads.into_iter().map(|(_, head)| Taken {
            head: Head::new(head, head, 1),
            entry: head,
            is_copied: false,
        });
        let recovered = Recovered {
            base: Base { avail, ..base },
            chains: chains.collect(),
        };
        Ok((notes, recovered))
    }

    /// Completes the notes of what was given back by a process that ended meanwhile.
    fn finish_batch(&self, size: QueueSize) {
        let mut left = self.used.wrapping_sub(self.memory.load(USED_IDX));
        let mut head = self.last_batch_head;
        // More than the ring holds were not given back at once: the ring is another.
        while (1..=size.get()).contains(&left) && head < size.get() {
            self.memory.store_field(head, INFLIGHT, 0_u8);
            head = self.memory.load_field(head, NEXT);
            left -= 1;
        }
    }

    /// Notes that a chain was taken. Returns its entry.
    pub fn take(&mut self, head: Head) -> u16 {
        let head = head.index();
        self.memory.store_field(head, COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.memory.store_field(head, INFLIGHT, 1_u8);
        head
    }

    /// Notes that a chain is given back, which `add_used` does.
    pub fn give_back(&mut self, head: u16, add_used: impl FnOnce()) {
        self.memory.store_field(head, NEXT, self.last_batch_head);
        self.last_batch_head = head;
        self.memory.store(LAST_BATCH_HEAD, head);
        add_used();
        self.memory.store_field(head, INFLIGHT, 0_u8);
        self.used = self.used.wrapping_add(1);
        self.memory.store(USED_IDX, self.used);
    }
}

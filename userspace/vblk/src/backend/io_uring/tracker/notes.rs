// SPDX-License-Identifier: GPL-2.0

//! What the notes of both formats have in common.

use crate::backend::TrackingMemory;
use vblk_core::{queue::Head, ring::Base};

/// Version of the layout. A region of zeroes was never used.
const VERSION: u16 = 1;
/// Offsets in the notes of a queue that both formats have in common.
const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 10;

/// Offsets in the notes of a descriptor that both formats have in common.
pub const INFLIGHT: usize = 0;
pub const COUNTER: usize = 8;

/// Notes that can't be true.
#[derive(Debug, PartialEq, Eq)]
pub struct BadNotes;

/// A chain that was taken, and where that is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The chain.
    pub head: Head,
    /// The entry of the notes.
    pub entry: u16,
    /// The chain was taken by an earlier process, and its descriptors are in the notes.
    pub is_copied: bool,
}

/// The position at which a queue goes on, and what it has in flight already.
#[derive(Debug)]
pub struct Recovered {
    /// Where the ring stands.
    pub base: Base,
    /// What an earlier process took and did not give back, in the order in which it was taken.
    pub chains: Vec<Taken>,
}

/// Returns whether an earlier process has kept notes here.
pub fn were_kept(memory: &TrackingMemory) -> Result<bool, BadNotes> {
    match memory.load::<u16>(VERSION_AT) {
        0 => Ok(false),
        VERSION if memory.load::<u16>(ENTRIES_AT) == memory.entries() => Ok(true),
        _ => Err(BadNotes),
    }
}

/// Returns which of so many entries have a chain in flight, with its number, in the order of these.
pub fn in_flight(memory: &TrackingMemory, entries: u16) -> Vec<(u64, u16)> {
    let is_taken = |entry: &u16| memory.load_field::<u8>(*entry, INFLIGHT) != 0;
    let mut taken: Vec<_> = (0..entries)
        .filter(is_taken)
        .map(|entry| (memory.load_field(entry, COUNTER), entry))
        .collect();
    taken.sort_unstable();
    taken
}

/// Says that there are notes, when all else is in place.
pub fn are_kept(memory: &TrackingMemory) {
    memory.store(ENTRIES_AT, memory.entries());
    memory.store(VERSION_AT, VERSION);
}

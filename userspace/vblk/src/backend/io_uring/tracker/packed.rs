// SPDX-License-Identifier: GPL-2.0

//! Notes of a packed ring. What is given back is written over descriptors of chains that may still
//! be in flight, so the notes have copies of these, in lists of entries.

use super::notes::{are_kept, in_flight, were_kept, BadNotes, Recovered, Taken, COUNTER, INFLIGHT};
use crate::backend::TrackingMemory;
use vblk_core::{
    memory::SharedMemory,
    packed::{Descriptor, PackedRing},
    queue::{Head, Parts, QueueSize},
    ring::Base,
    wrap,
};

/// `QueueRegionPacked` of the protocol.
const FREE_HEAD: usize = 12;
const OLD_FREE_HEAD: usize = 14;
const USED_IDX: usize = 16;
const OLD_USED_IDX: usize = 18;
const USED_WRAP: usize = 20;
const OLD_USED_WRAP: usize = 21;
/// `DescStatePacked`.
const NEXT: usize = 2;
const LAST: usize = 4;
const NUM: usize = 6;
const ID: usize = 16;
const FLAGS: usize = 18;
const LEN: usize = 20;
const ADDR: usize = 24;

/// Bit of a position that is its wrap counter, as vhost encodes it.
const WRAP: u16 = 1 << 15;

/// Notes of a queue with a packed ring.
pub struct PackedNotes {
    memory: TrackingMemory,
    size: QueueSize,
    /// Number for the next chain.
    counter: u64,
    /// Position of the used half of the ring.
    used: u16,
    /// First of the free entries, each of which names the next.
    free_head: u16,
    next: Vec<u16>,
    /// The last entry of the chain that begins with an entry.
    last: Vec<u16>,
}

impl PackedNotes {
    /// Begins at `base`, or goes on where the notes say.
    pub fn begin<M: SharedMemory>(
        memory: TrackingMemory,
        ring: &PackedRing<M>,
        base: Base,
    ) -> Result<(Self, Copies, Recovered), BadNotes> {
        let entries = memory.entries();
        let mut notes = Self {
            memory,
            size: ring.size(),
            counter: 0,
            used: base.used,
            free_head: 0,
            next: (1..=entries).collect(),
            last: vec![0; entries.into()],
        };
        if !were_kept(&notes.memory)? {
            notes.write_free_list();
            notes.store_used(USED_IDX, USED_WRAP, base.used);
            notes.store_used(OLD_USED_IDX, OLD_USED_WRAP, base.used);
            are_kept(&notes.memory);
            let (copies, chains) = (copies(notes.size, Vec::new()), Vec::new());
            return Ok((notes, copies, Recovered { base, chains }));
        }
        notes.end_batch(ring)?;
        let (chains, words) = notes.chains()?;
        let copies = copies(notes.size, words);
        let used = notes.used;
        let held: u16 = chains.iter().map(|chain| chain.head.count()).sum();
        let base = Base {
            avail: used.wrapping_add(held),
            used,
        };
        Ok((notes, copies, Recovered { base, chains }))
    }

    /// Writes all entries as free.
    fn write_free_list(&self) {
        for (entry, next) in (0..).zip(&self.next) {
            self.memory.store_field(entry, INFLIGHT, 0_u8);
            self.memory.store_field(entry, NEXT, *next);
        }
        self.memory.store(FREE_HEAD, self.free_head);
        self.memory.store(OLD_FREE_HEAD, self.free_head);
    }

    fn store_used(&self, index_at: usize, wrap_at: usize, position: u16) {
        let both = wrap::off_wrap(self.size, position);
        self.memory.store(index_at, both & !WRAP);
        self.memory.store(wrap_at, u8::from(both & WRAP != 0));
    }

    fn load_used(&self, index_at: usize, wrap_at: usize) -> Result<u16, BadNotes> {
        let index: u16 = self.memory.load(index_at);
        let wrap = u16::from(self.memory.load::<u8>(wrap_at) & 1) << 15;
        match index & WRAP {
            0 => wrap::position(self.size, index | wrap).ok_or(BadNotes),
            _ => Err(BadNotes),
        }
    }

    /// Completes or undoes the notes of what was being given back by a process that ended meanwhile.
    fn end_batch<M: SharedMemory>(&mut self, ring: &PackedRing<M>) -> Result<(), BadNotes> {
        let (new, old) = (
            self.load_used(USED_IDX, USED_WRAP)?,
            self.load_used(OLD_USED_IDX, OLD_USED_WRAP)?,
        );
        let was_given_back = new != old && !is_available(ring, old);
        let free_head = match was_given_back {
            true => FREE_HEAD,
            false => OLD_FREE_HEAD,
        };
        self.used = if was_given_back { new } else { old };
        self.free_head = self.memory.load(free_head);
        self.memory.store(FREE_HEAD, self.free_head);
        self.store_used(USED_IDX, USED_WRAP, self.used);
        self.memory.store(OLD_FREE_HEAD, self.free_head);
        self.store_used(OLD_USED_IDX, OLD_USED_WRAP, self.used);
        Ok(())
    }

    /// Returns the chains in flight in the order in which they were taken, and their descriptors.
    fn chains(&mut self) -> Result<(Vec<Taken>, Vec<u64>), BadNotes> {
        let mut known = Known(vec![false; self.next.len()]);
        self.find_free(&mut known)?;
        let heads = in_flight(&self.memory, self.memory.entries());
        if let Some((last, _)) = heads.last() {
            self.counter = last.wrapping_add(1);
        }
        let (mut chains, mut words) = (Vec::new(), Vec::new());
        for (_, entry) in heads {
            let index = (words.len() / 2) as u16;
            let (id, count) = self.copy_chain(entry, &mut known, &mut words)?;
            chains.push(Taken {
                head: Head::new(index, id, count),
                entry,
                is_copied: true,
            });
        }
        let room = 2 * usize::from(self.size.get());
        // An entry that is neither free nor taken would be lost.
        if known.0.contains(&false) || words.len() > room {
            return Err(BadNotes);
        }
        Ok((chains, words))
    }

    /// Follows the list of free entries.
    fn find_free(&mut self, known: &mut Known) -> Result<(), BadNotes> {
        let mut free = self.free_head;
        while usize::from(free) < self.next.len() {
            known.add(free)?;
            self.memory.store_field(free, INFLIGHT, 0_u8);
            free = self.follow(free);
        }
        Ok(())
    }

    /// Appends the descriptors of the chain at `first`. Returns its id and their number.
    fn copy_chain(
        &mut self,
        first: u16,
        known: &mut Known,
        words: &mut Vec<u64>,
    ) -> Result<(u16, u16), BadNotes> {
        let count: u16 = self.memory.load_field(first, NUM);
        let (mut entry, mut last) = (first, None);
        for _ in 0..count {
            known.add(entry)?;
            let rest: u64 = self.memory.load_field(entry, ID);
            // Id, flags and length, which the ring has in another order.
            let (id_and_flags, len) = (rest & 0xffff_ffff, rest >> 32);
            words.push(self.memory.load_field(entry, ADDR));
            words.push(id_and_flags << 32 | len);
            last = Some(entry);
            entry = self.follow(entry);
        }
        let last = last.ok_or(BadNotes)?;
        self.last[usize::from(first)] = last;
        Ok((self.memory.load_field(last, ID), count))
    }

    /// Reads the entry behind one that is known.
    fn follow(&mut self, entry: u16) -> u16 {
        let next = self.memory.load_field(entry, NEXT);
        self.next[usize::from(entry)] = next;
        next
    }

    /// Notes that a chain was taken. Returns its first entry.
    pub fn take<M: SharedMemory>(&mut self, ring: &PackedRing<M>, head: Head) -> u16 {
        let first = self.free_head;
        let (mut entry, mut last) = (first, first);
        for step in 0..head.count() {
            let desc = ring.descriptor(head.index().wrapping_add(step));
            self.memory.store_field(entry, ADDR, desc.addr);
            self.memory.store_field(entry, LEN, desc.len);
            self.memory.store_field(entry, FLAGS, desc.flags);
            self.memory.store_field(entry, ID, head.id());
            last = entry;
            // There is a free entry for each descriptor that the ring has room for.
            entry = self.next.get(usize::from(entry)).copied().unwrap_or(entry);
        }
        if let Some(of_first) = self.last.get_mut(usize::from(first)) {
            *of_first = last;
        }
        self.memory.store_field(first, LAST, last);
        self.memory.store_field(first, NUM, head.count());
        self.memory.store_field(first, COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.memory.store_field(first, INFLIGHT, 1_u8);
        self.free_head = entry;
        self.memory.store(FREE_HEAD, entry);
        // Until here the entries count as free.
        self.memory.store(OLD_FREE_HEAD, entry);
        first
    }

    /// Notes that a chain is given back, which `add_used` does.
    pub fn give_back(&mut self, chain: Taken, add_used: impl FnOnce()) {
        let first = chain.entry;
        let last = self.last.get(usize::from(first)).copied().unwrap_or(first);
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = self.free_head;
        }
        self.memory.store_field(last, NEXT, self.free_head);
        self.free_head = first;
        self.memory.store(FREE_HEAD, first);
        self.used = self.used.wrapping_add(chain.head.count());
        self.store_used(USED_IDX, USED_WRAP, self.used);
        // Whether this was done tells whether the notes so far are true.
        add_used();
        self.memory.store_field(first, INFLIGHT, 0_u8);
        self.memory.store(OLD_FREE_HEAD, first);
        self.store_used(OLD_USED_IDX, OLD_USED_WRAP, self.used);
    }
}

/// Entries that were found in a list.
struct Known(Vec<bool>);

impl Known {
    /// Adds an entry, which must be there and in no other list.
    fn add(&mut self, entry: u16) -> Result<(), BadNotes> {
        match self.0.get_mut(usize::from(entry)) {
            Some(known) if !*known => {
                *known = true;
                Ok(())
            }
            _ => Err(BadNotes),
        }
    }
}

/// Returns whether the descriptor at a position is one that the driver made available there.
fn is_available<M: SharedMemory>(ring: &PackedRing<M>, position: u16) -> bool {
    let available = match wrap::off_wrap(ring.size(), position) & WRAP {
        0 => Descriptor::F_USED,
        _ => Descriptor::F_AVAIL,
    };
    ring.descriptor(position).flags & (Descriptor::F_AVAIL | Descriptor::F_USED) == available
}

/// The descriptors of chains that an earlier process took, as a ring that only this one has.
pub type Copies = PackedRing<Words>;

fn copies(size: QueueSize, mut words: Vec<u64>) -> Copies {
    words.resize(2 * usize::from(size.get()), 0);
    let none = || Words(Vec::new());
    let parts = Parts {
        desc: Words(words),
        driver: none(),
        device: none(),
    };
    PackedRing::new(size, parts)
}

/// Memory that holds still: two words for each descriptor.
pub struct Words(Vec<u64>);

impl SharedMemory for Words {
    fn load_u16(&self, offset: usize) -> u16 {
        (self.load_u64(offset) >> (offset % 8 * 8)) as u16
    }

    fn load_u64(&self, offset: usize) -> u64 {
        self.0.get(offset / 8).copied().unwrap_or(0)
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.load_u16(offset)
    }

    // Nothing is given back here.
    fn store_u16(&self, _: usize, _: u16) {}
    fn store_u32(&self, _: usize, _: u32) {}
    fn store_release_u16(&self, _: usize, _: u16) {}
    fn full_barrier(&self) {}
}

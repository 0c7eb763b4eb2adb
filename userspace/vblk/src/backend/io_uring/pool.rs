// SPDX-License-Identifier: GPL-2.0

//! Buffers for transfers, and the bounds on them.
//!
//! A guest can make requests of 2^32 bytes in 32768 pieces, as many at a time as its queues are
//! long. What that costs here has an upper limit: lists of pieces and bounce buffers come from a
//! pool, and a request that finds it empty waits in the ring.

use crate::{
    memory::Memory,
    sys::iobuf::{Bounce, GuestBuffer},
};

/// Pieces of all transfers in flight, unless there is a single one.
const MAX_PIECES: usize = 1 << 16;
/// Bounce buffers of a disk.
const MAX_BOUNCES: usize = 32;
/// Bytes of a bounce buffer; longer requests take several turns.
pub const BOUNCE_BYTES: usize = 256 << 10;

/// The pool is empty; something in flight will fill it.
#[derive(Debug)]
pub struct Exhausted;

/// The buffers of one disk.
pub struct BufferPool {
    memory: Memory,
    lists: Vec<GuestBuffer>,
    bounces: Vec<Bounce>,
    pieces_out: usize,
    bounces_out: usize,
}

impl BufferPool {
    /// A pool for transfers to and from `memory`.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            lists: Vec::new(),
            bounces: Vec::new(),
            pieces_out: 0,
            bounces_out: 0,
        }
    }

    /// An empty list of pieces. It counts for nothing until [`Self::charge`].
    pub fn list(&mut self) -> GuestBuffer {
        let memory = &self.memory;
        self.lists
            .pop()
            .unwrap_or_else(|| GuestBuffer::new(memory.clone()))
    }

    /// Counts `pieces` pieces as in flight.
    pub fn charge(&mut self, pieces: usize) -> Result<(), Exhausted> {
        let sum = self.pieces_out.saturating_add(pieces);
        if sum > MAX_PIECES && self.pieces_out > 0 {
            return Err(Exhausted);
        }
        self.pieces_out = sum;
        Ok(())
    }

    /// Undoes [`Self::charge`].
    pub fn discharge(&mut self, pieces: usize) {
        self.pieces_out = self.pieces_out.saturating_sub(pieces);
    }

    /// Takes a list back.
    pub fn put_list(&mut self, mut list: GuestBuffer) {
        list.clear();
        self.lists.push(list);
    }

    /// A bounce buffer.
    pub fn bounce(&mut self) -> Result<Bounce, Exhausted> {
        if self.bounces_out >= MAX_BOUNCES {
            return Err(Exhausted);
        }
        self.bounces_out += 1;
        let kept = self.bounces.pop();
        Ok(kept.unwrap_or_else(|| Bounce::new(BOUNCE_BYTES)))
    }

    /// Takes a bounce buffer back.
    pub fn put_bounce(&mut self, bounce: Bounce) {
        self.bounces_out = self.bounces_out.saturating_sub(1);
        self.bounces.push(bounce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use vm_memory::GuestAddress;

    fn pool() -> BufferPool {
        BufferPool::new(memory::anonymous(&[(GuestAddress(0), 1 << 16)]).unwrap())
    }

    #[test]
    fn what_is_in_flight_has_a_bound() {
        let mut pool = pool();
        let mut bounces: Vec<_> = (0..MAX_BOUNCES).map(|_| pool.bounce().unwrap()).collect();
        assert!(pool.bounce().is_err());
        pool.put_bounce(bounces.pop().unwrap());
        assert!(pool.bounce().is_ok());
        pool.charge(MAX_PIECES - 1).unwrap();
        pool.charge(1).unwrap();
        assert!(pool.charge(1).is_err());
    }

    #[test]
    fn one_request_of_any_length_is_served() {
        let mut pool = pool();
        pool.charge(2 * MAX_PIECES).unwrap();
        assert!(pool.charge(1).is_err());
        pool.discharge(2 * MAX_PIECES);
        pool.charge(1).unwrap();
    }
}

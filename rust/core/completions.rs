// SPDX-License-Identifier: GPL-2.0

//! Counts the finished I/Os of a queue, and decides whom to wake.
//!
//! The worker submits and counts what it submits; I/O finishes in any context. This is what both
//! sides share, to be kept under one lock: a completion decides under it whom to wake, and a thread
//! that is about to wait says so under it. That lock is what makes each wake-up certain.

/// Whom a completion must wake, once the lock is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeUps {
    /// The thread that waits for I/Os to finish.
    pub waiter: bool,
    /// The worker: it must look at the queue.
    pub worker: bool,
}

/// The I/Os that a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// All, of which there are so many since the start.
    All(u64),
    /// Those of earlier generations.
    Earlier,
}

/// Counts the finished I/Os of a queue.
#[derive(Debug)]
pub struct Completions {
    finished: u64,
    /// Each replacement of guest memory begins a generation of I/Os.
    generation: u32,
    /// I/Os of earlier generations in flight.
    earlier: u64,
    awaited: Awaited,
    /// The worker found no free I/O and left requests in the ring.
    starved: bool,
}

impl Default for Completions {
    fn default() -> Self {
        Self {
            finished: 0,
            generation: 0,
            earlier: 0,
            awaited: Awaited::Nothing,
            starved: false,
        }
    }
}

impl Completions {
    /// Counts an I/O of `generation` as finished. It can be used again from here on.
    #[inline]
    pub fn complete(&mut self, generation: u32) -> WakeUps {
        self.finished = self.finished.wrapping_add(1);
        // What keeps memory of another table, unmapped meanwhile, is with I/Os until the worker takes
        // them back.
        let mut is_to_be_released = false;
        if generation != self.generation {
            self.earlier = self.earlier.saturating_sub(1);
            is_to_be_released = self.earlier == 0;
        }
        WakeUps {
            waiter: self.awaited != Awaited::Nothing && self.is_over(),
            worker: core::mem::take(&mut self.starved) || is_to_be_released,
        }
    }

    /// Notes that the worker has no free I/O. The next completion wakes it.
    pub fn starve(&mut self) {
        self.starved = true;
    }

    /// Returns whether all of the I/Os that were `submitted` since the start have finished. If not,
    /// the completion of the last one wakes the waiter.
    pub fn await_all(&mut self, submitted: u64) -> bool {
        self.wait_for(Awaited::All(submitted))
    }

    /// Returns whether all I/Os of earlier generations have finished. If not, the completion of the
    /// last one wakes the waiter.
    pub fn await_earlier(&mut self) -> bool {
        self.wait_for(Awaited::Earlier)
    }

    /// Begins a generation, when as many I/Os were `submitted` since the start. Returns its number.
    pub fn begin_generation(&mut self, submitted: u64) -> u32 {
        self.earlier = submitted.wrapping_sub(self.finished);
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn wait_for(&mut self, awaited: Awaited) -> bool {
        self.awaited = awaited;
        let over = self.is_over();
        if over {
            self.awaited = Awaited::Nothing;
        }
        over
    }

    fn is_over(&self) -> bool {
        match self.awaited {
            Awaited::Nothing => true,
            Awaited::All(submitted) => self.finished == submitted,
            Awaited::Earlier => self.earlier == 0,
        }
    }
}

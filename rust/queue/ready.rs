// SPDX-License-Identifier: GPL-2.0

//! The queues of a worker that want to be served, and how it is woken.

use crate::sys::{
    read_once,
    task::without_preemption, //
};
use kernel::{
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full, //
        },
        Arc, //
    },
    task::Task, //
};
use vblk_core::ready::{
    AtomicBits,
    ReadySet, //
};

/// Queues that a device can have.
pub(crate) const MAX_QUEUES: usize = ReadySet::<Bits, WORDS>::QUEUES;

const WORDS: usize = 4;

/// 64 bits, by the kernel's atomics.
struct Bits(Atomic<u64>);

impl AtomicBits for Bits {
    #[inline]
    fn fetch_or(&self, bits: u64) -> u64 {
        let mut seen = read_once(&self.0);
        // Ends: each turn sees a change that another CPU made.
        loop {
            // Also when all are set: the exchange is the full barrier that callers rely on.
            match self.0.cmpxchg(seen, seen | bits, Full) {
                Ok(before) => return before,
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn take(&self) -> u64 {
        self.0.xchg(0, Full)
    }

    #[inline]
    fn peek(&self) -> u64 {
        read_once(&self.0)
    }
}

/// The queues of a worker that want to be served.
pub(crate) struct ReadyQueues(ReadySet<Bits, WORDS>);

impl ReadyQueues {
    /// Creates the set without any.
    pub(crate) fn new() -> Self {
        Self(ReadySet::new([const { Bits(Atomic::new(0)) }; WORDS]))
    }

    /// Returns whether there is one.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.0.any()
    }

    /// Calls `serve` with the number of each, and forgets it before.
    #[inline]
    pub(crate) fn take(&self, serve: impl FnMut(usize)) {
        self.0.take(serve);
    }

    /// Marks a queue, in the worker itself, which looks again before it sleeps.
    pub(crate) fn mark_again(&self, queue: usize) {
        self.0.mark(queue);
    }
}

/// Wakes the worker of a queue. In any context.
pub(crate) struct VqWaker {
    ready: Arc<ReadyQueues>,
    worker: ARef<Task>,
    queue: usize,
}

impl VqWaker {
    /// Creates the waker of a queue that `worker` serves when it is in `ready`.
    pub(crate) fn new(ready: Arc<ReadyQueues>, worker: ARef<Task>, queue: usize) -> Self {
        Self {
            ready,
            worker,
            queue,
        }
    }

    /// Has the worker look at the queue.
    #[inline]
    pub(crate) fn wake(&self) {
        // Another task that finds the mark before the wake-up does not wake the worker.
        without_preemption(|| {
            if self.ready.0.mark(self.queue) {
                self.worker.wake_up();
            }
        });
    }

    /// Returns the worker.
    #[inline]
    pub(crate) fn worker(&self) -> &Task {
        &self.worker
    }
}

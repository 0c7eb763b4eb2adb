// SPDX-License-Identifier: GPL-2.0

//! A worker that takes marks, and threads that make them.

use crate::task::Task;
use loom::sync::{
    atomic::{
        AtomicU64,
        Ordering::{
            AcqRel,
            Relaxed, //
        },
    },
    Arc, //
};
use vblk_core::ready::{
    AtomicBits,
    ReadySet, //
};

/// 64 bits in loom's atomics. Read-modify-writes that acquire and release are less than the full
/// barriers that the trait asks for, so that a model that holds with them holds with those. That
/// they write in any case is what matters.
pub struct Bits(AtomicU64);

impl AtomicBits for Bits {
    fn fetch_or(&self, bits: u64) -> u64 {
        self.0.fetch_or(bits, AcqRel)
    }

    fn take(&self) -> u64 {
        self.0.swap(0, AcqRel)
    }

    fn peek(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The words of a set.
const WORDS: usize = 2;

/// A worker, as threads that wake it see it.
pub struct Worker {
    ready: ReadySet<Bits, WORDS>,
    task: Arc<Task>,
}

impl Worker {
    /// Creates a worker that nothing was marked for.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: ReadySet::new(core::array::from_fn(|_| Bits(AtomicU64::new(0)))),
            task: Task::new(),
        })
    }

    /// Marks a queue, without a wake-up: the worker has not looked yet.
    pub fn mark(&self, queue: usize) {
        self.ready.mark(queue);
    }

    /// Has the worker look at a queue.
    pub fn wake(&self, queue: usize) {
        if self.ready.mark(queue) {
            self.task.wake_up();
        }
    }

    /// Sleeps until there is a mark, then calls `serve` for each.
    pub fn serve_marked(&self, serve: impl FnMut(usize)) {
        self.task.sleep_until(|| self.ready.any());
        self.ready.take(serve);
    }
}

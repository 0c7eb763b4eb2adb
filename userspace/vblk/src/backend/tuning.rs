// SPDX-License-Identifier: GPL-2.0

//! Options of the module for a disk.

/// How many threads of the module serve the queues of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// This many, which the queues are spread over.
    Count(u16),
    /// One for each queue.
    PerQueue,
}

impl Workers {
    /// Returns the number of threads for `queues` queues. More threads than queues are of no use.
    pub fn for_queues(self, queues: u16) -> u16 {
        match self {
            Self::Count(count) => count.clamp(1, queues.max(1)),
            Self::PerQueue => queues.max(1),
        }
    }
}

/// Options of the module for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Pin all of the guest's memory when the disk is started, instead of the pages of each
    /// request.
    pub memory_pinned: bool,
    /// The threads.
    pub workers: Workers,
    /// Microseconds for which a thread may look at an empty ring before it sleeps; 0: not at all.
    pub poll_us: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            memory_pinned: false,
            workers: Workers::Count(1),
            poll_us: 0,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Counters of a disk: written by its thread, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};
use vblk_core::uapi::Stats;

/// One number.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. There is one writer, so that a load and a store do.
    pub fn add(&self, amount: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        // Counters say nothing about other memory: no ordering.
        self.0.load(Ordering::Relaxed)
    }
}

/// As in [`Stats`].
#[derive(Default)]
pub struct Counters {
    pub kicks: Counter,
    pub requests: Counter,
    pub bytes_read: Counter,
    pub bytes_written: Counter,
    pub flushes: Counter,
    pub interrupts: Counter,
    pub io_errors: Counter,
    pub malformed: Counter,
    pub stopped_queues: Counter,
}

impl Counters {
    /// How they stand. Not all at the same moment while the disk is being served.
    pub fn read(&self) -> Stats {
        Stats {
            kicks: self.kicks.get(),
            requests: self.requests.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
            flushes: self.flushes.get(),
            interrupts: self.interrupts.get(),
            io_errors: self.io_errors.get(),
            malformed: self.malformed.get(),
            stopped_queues: self.stopped_queues.get(),
            ..Stats::default()
        }
    }
}

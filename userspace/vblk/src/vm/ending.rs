// SPDX-License-Identifier: GPL-2.0

//! How and when a guest ended.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Mutex, PoisonError,
};
use vmm_sys_util::eventfd::EventFd;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked for a restart.
    Reset,
    /// Its kernel panicked, and asked for a restart.
    Panic,
    /// Its CPUs have halted, and nothing can wake them.
    Halted,
    /// It can't go on, or a back-end can't; with the reason.
    Failed(String),
}

/// The place where the end of a guest is made known. The first report counts.
pub struct Ending {
    end: Mutex<Option<End>>,
    over: AtomicBool,
    event: EventFd,
}

impl Ending {
    /// No end yet. `event` will be signalled.
    pub fn new(event: EventFd) -> Self {
        Self {
            end: Mutex::new(None),
            over: AtomicBool::new(false),
            event,
        }
    }

    /// Ends the guest.
    pub fn report(&self, end: End) {
        let mut first = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(end);
        self.over.store(true, Ordering::Release);
        let _ = self.event.write(1);
    }

    /// Returns how it ended, if it did.
    pub fn get(&self) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }

    /// Returns whether CPUs should stop.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Makes CPUs stop although the guest did not end.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Signalled at the end.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

// SPDX-License-Identifier: GPL-2.0

//! When a worker looks at an empty ring instead of asking its driver for a kick.

use kernel::time::{
    Instant,
    Monotonic, //
};
use vblk_core::{
    drain::Next,
    poll_window::PollWindow, //
};

/// The polling of a ring.
pub(super) struct Polling {
    window: PollWindow,
    /// Since when the ring is empty, if it was left so.
    empty_since: Option<Instant<Monotonic>>,
}

impl Polling {
    /// Creates the polling of a ring, for at most so many microseconds.
    pub(super) fn new(limit_us: u32) -> Self {
        Self {
            window: PollWindow::new(limit_us),
            empty_since: None,
        }
    }

    /// Sets the most microseconds. What was learnt is forgotten.
    pub(super) fn set_limit(&mut self, limit_us: u32) {
        self.window = PollWindow::new(limit_us);
        self.empty_since = None;
    }

    /// Returns whether the ring is ever polled.
    #[inline]
    pub(super) fn is_enabled(&self) -> bool {
        self.window.is_enabled()
    }

    /// Returns whether the ring is to be polled when it is empty.
    pub(super) fn is_open(&self) -> bool {
        self.window.is_open()
    }

    /// Learns from a drain that began then and took something.
    pub(super) fn learn(&mut self, began: Instant<Monotonic>) {
        if let Some(since) = self.empty_since.take() {
            self.window.learn(nanos(since, began));
        }
    }

    /// Notes how a drain ended.
    pub(super) fn end_drain(&mut self, next: Next) {
        match next {
            Next::Kick | Next::Poll => {
                self.empty_since.get_or_insert_with(Instant::now);
            }
            Next::Soon | Next::Completion | Next::Never => self.empty_since = None,
        }
    }

    /// Returns whether the ring is still to be polled.
    pub(super) fn goes_on(&self) -> bool {
        self.empty_since
            .is_some_and(|since| self.window.covers(nanos(since, Instant::now())))
    }
}

fn nanos(since: Instant<Monotonic>, until: Instant<Monotonic>) -> u64 {
    u64::try_from((until - since).as_nanos()).unwrap_or(0)
}

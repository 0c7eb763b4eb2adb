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
    /// When the drain began that runs, or the last one.
    began: Option<Instant<Monotonic>>,
    /// Since when the ring is empty, if it was left so.
    empty_since: Option<Instant<Monotonic>>,
}

impl Polling {
    /// Creates the polling of a ring, for at most so many microseconds.
    pub(super) fn new(limit_us: u32) -> Self {
        Self {
            window: PollWindow::new(limit_us),
            began: None,
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

    /// Notes that a drain begins. Returns whether the ring is to be polled when it is empty.
    pub(super) fn begin_drain(&mut self) -> bool {
        self.began = Some(Instant::now());
        self.window.is_open()
    }

    /// Notes how a drain ended, and whether it took something.
    pub(super) fn end_drain(&mut self, took_some: bool, next: Next) {
        if took_some {
            if let (Some(since), Some(began)) = (self.empty_since.take(), self.began) {
                self.window.learn(nanos(since, began));
            }
        }
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

// SPDX-License-Identifier: GPL-2.0

//! How long a worker looks at an empty ring before it asks for a kick.
//!
//! Looking takes a CPU; a kick takes an exit of the guest and a wake-up of the worker. Looking is
//! worth its time where the next request comes soon, and how soon it comes is learnt from how long
//! the ring was empty before.
//!
//! ```
//! use vblk_core::poll_window::PollWindow;
//!
//! let mut window = PollWindow::new(50);
//! assert!(!window.is_open());
//! // A request came 10 microseconds after the ring was empty: twice as long is looked.
//! window.learn(10_000);
//! assert!(window.covers(19_999) && !window.covers(20_000));
//! // Later ones than it may look for close it by and by.
//! (0..5).for_each(|_| window.learn(1_000_000));
//! assert!(!window.is_open());
//! ```

/// The gap that the window covers, in gaps that were seen.
const MARGIN: u64 = 2;
/// The share by which the window follows shorter gaps.
const SLOWNESS: u64 = 8;
/// A window that is shorter is of no use: a kick takes longer.
const SHORTEST_NS: u64 = 1000;

/// The time for which an empty ring is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollWindow {
    limit_ns: u64,
    window_ns: u64,
}

impl PollWindow {
    /// Creates a window of at most so many microseconds, as VHOST_SET_VRING_BUSYLOOP_TIMEOUT has them.
    /// With 0 it is never open. It opens after the first gap that it can cover.
    pub fn new(limit_us: u32) -> Self {
        Self {
            limit_ns: u64::from(limit_us) * 1000,
            window_ns: 0,
        }
    }

    /// Returns whether it can open.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.limit_ns != 0
    }

    /// Returns whether an empty ring is looked at.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.window_ns != 0
    }

    /// Returns whether a ring is still looked at that has been empty for so many nanoseconds.
    #[inline]
    pub fn covers(&self, empty_ns: u64) -> bool {
        empty_ns < self.window_ns
    }

    /// Learns that a ring was empty for so many nanoseconds until requests came.
    pub fn learn(&mut self, gap_ns: u64) {
        if gap_ns > self.limit_ns {
            // Looking would have been in vain.
            self.window_ns /= 2;
            if self.window_ns < SHORTEST_NS {
                self.window_ns = 0;
            }
            return;
        }
        let wanted = gap_ns
            .saturating_mul(MARGIN)
            .max(SHORTEST_NS)
            .min(self.limit_ns);
        if wanted >= self.window_ns {
            self.window_ns = wanted;
        } else {
            self.window_ns -= (self.window_ns - wanted).div_ceil(SLOWNESS);
        }
    }
}

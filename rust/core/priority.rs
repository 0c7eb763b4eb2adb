// SPDX-License-Identifier: GPL-2.0

//! The priority of a request: the `ioprio` field of its header, as Linux drivers fill it in.
//!
//! ```
//! use vblk_core::priority::Priority;
//!
//! // The class is in the bits above 13: best effort, level 3.
//! assert_eq!(Priority::grant(2 << 13 | 3, false).get(), 2 << 13 | 3);
//! // Real time, for a device that may not use it.
//! assert_eq!(Priority::grant(1 << 13, false), Priority::NONE);
//! ```

/// An I/O priority as `ioprio_set` takes it: a class in the upper three bits, hints, and a level in
/// the lowest three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority(u16);

/// Bits below the class.
const CLASS_SHIFT: u32 = 13;
/// The real-time class (IOPRIO_CLASS_RT, <linux/ioprio.h>).
const REALTIME: u32 = 1;
/// The best-effort class (IOPRIO_CLASS_BE).
const BEST_EFFORT: u32 = 2;
/// The idle class (IOPRIO_CLASS_IDLE).
const IDLE: u32 = 3;

impl Priority {
    /// No priority of its own: the I/O has that of the thread that submits it.
    pub const NONE: Self = Self(0);

    /// Grants the priority that a driver asks for in `field`, by Linux's rules for a process
    /// (`ioprio_check_cap`). `realtime` says that the device may use the real-time class. A
    /// priority that a process would be refused counts as not asked for.
    #[inline]
    pub fn grant(field: u32, realtime: bool) -> Self {
        match field >> CLASS_SHIFT {
            BEST_EFFORT | IDLE => Self(field as u16),
            REALTIME if realtime => Self(field as u16),
            _ => Self::NONE,
        }
    }

    /// Returns the number, as `struct bio` and io_uring take it.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

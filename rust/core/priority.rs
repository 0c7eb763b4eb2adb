// SPDX-License-Identifier: GPL-2.0

//! The priority of a request: the `ioprio` field of its header, as Linux drivers fill it in.

/// An I/O priority as `ioprio_set` takes it: a class in the upper three bits, hints, and a level in
/// the lowest three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority(u16);

/// The values whose class is the real-time one.
const REALTIME: core::ops::RangeInclusive<u32> = 0x2000..=0x3fff;
/// The values of the other two classes that can be asked for, best-effort and idle.
const ORDINARY: core::ops::RangeInclusive<u32> = 0x4000..=0x7fff;

impl Priority {
    /// No priority of its own: the I/O has that of the thread that submits it.
    pub const NONE: Self = Self(0);

    /// Grants the priority that a driver asks for in `field`, by Linux's rules for a process
    /// (`ioprio_check_cap`). `realtime` says that the device may use the real-time class. A
    /// priority that a process would be refused counts as not asked for.
    #[inline]
    pub fn grant(field: u32, realtime: bool) -> Self {
        if ORDINARY.contains(&field) || realtime && REALTIME.contains(&field) {
            Self(field as u16)
        } else {
            Self::NONE
        }
    }

    /// Returns the number, as `struct bio` and io_uring take it.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The priority of a request: the `ioprio` field of its header, as Linux drivers fill it in.

/// What `ioprio_set` takes: a class in the upper three bits, hints, and a level in the lowest three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority(u16);

/// The values whose class is the real-time one.
const REALTIME: core::ops::RangeInclusive<u32> = 0x2000..=0x3fff;
/// Those of the other two classes that one can be put into, best-effort and idle.
const ORDINARY: core::ops::RangeInclusive<u32> = 0x4000..=0x7fff;

impl Priority {
    /// That of whoever submits the I/O.
    pub const NONE: Self = Self(0);

    /// What a device gives to a driver that asks for `field`, if it may itself use the real-time
    /// class or not: the same as the kernel would give to a process (`ioprio_check_cap`), but that
    /// what would be refused there counts as not having asked.
    #[inline]
    pub fn grant(field: u32, realtime: bool) -> Self {
        if ORDINARY.contains(&field) || realtime && REALTIME.contains(&field) {
            Self(field as u16)
        } else {
            Self::NONE
        }
    }

    /// The number for the kernel.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

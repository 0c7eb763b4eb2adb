// SPDX-License-Identifier: GPL-2.0

//! Exit statuses.

/// The end of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The guest ended as it wanted to, or the question was answered.
    Success,
    /// The guest or a back-end failed.
    Failure,
    /// The command line, or what it refers to, is wrong.
    Usage,
    /// A signal ended it.
    Signal(u8),
}

impl Status {
    /// Returns the number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Signal(number) => number.saturating_add(128),
        }
    }
}

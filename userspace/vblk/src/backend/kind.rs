// SPDX-License-Identifier: GPL-2.0

//! The names of the back-ends.

use std::{fmt, str::FromStr};

/// The back-ends there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel module, through `/dev/vhost-blk-rs`.
    Vhost,
    /// A thread of this process with an io_uring.
    IoUring,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Vhost, Self::IoUring];

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::IoUring => "io-uring",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no back-end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of vhost, io-uring")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

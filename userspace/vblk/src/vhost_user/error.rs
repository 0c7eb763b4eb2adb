// SPDX-License-Identifier: GPL-2.0

//! Why a request of a front-end is refused.

use super::{memory::MemoryError, message::Malformed};
use crate::{backend, errno};
use std::io;

/// A request is refused. The connection can go on.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not what the protocol has.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Features that were not offered.
    #[error("features {0:#x} were not offered")]
    Features(u64),
    /// It belongs to a feature that was not agreed on.
    #[error("its feature was not agreed on")]
    NotAgreed,
    /// There are not as many rings.
    #[error("no ring {0}")]
    NoSuchRing(u32),
    /// A ring of no power of two, or of too many entries.
    #[error("{0} entries")]
    RingSize(u32),
    /// A ring can't be changed while it is served.
    #[error("the ring is being served")]
    RingRuns,
    /// What is written is to be logged, and there is no log.
    #[error("there is no log")]
    NoLog,
    /// Room for notes of what is in flight, where there are not as many queues, or none of that size.
    #[error("notes for {0} queues of {1} entries")]
    Tracking(u16, u16),
    /// Flags of a ring that the protocol does not have.
    #[error("flags {0:#x} of a ring")]
    Flags(u32),
    /// Neither 0 nor 1.
    #[error("{0} is neither 0 nor 1")]
    NotASwitch(u32),
    /// A descriptor for a ring is no eventfd.
    #[error("not an eventfd")]
    NotAnEvent,
    /// A part of the configuration space that can't be written.
    #[error("this part of the configuration space is read-only")]
    ReadOnly,
    /// A region of memory is of no use.
    #[error("{0}")]
    Memory(#[from] MemoryError),
    /// The descriptor for notices is no connected UNIX socket.
    #[error("the socket for notices: {}", errno::text(.0))]
    Notices(io::Error),
    /// The back-end says so.
    #[error("{0}")]
    Backend(#[from] backend::Error),
}

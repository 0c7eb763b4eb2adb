// SPDX-License-Identifier: GPL-2.0

//! The rest of the work for a request.

use crate::sys::uring::Operation;

/// How a request goes on.
pub enum Next {
    /// Something is left to do.
    Again(Operation),
    /// All is done: so many bytes were moved.
    Done(u32),
}

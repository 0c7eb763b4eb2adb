// SPDX-License-Identifier: GPL-2.0

//! What the device writes into a used ring of either format.

/// A chain that the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedEntry {
    /// Id of the chain.
    pub id: u32,
    /// Bytes that the device claims to have written.
    pub len: u32,
}

// SPDX-License-Identifier: GPL-2.0

//! Guest memory: anonymous pages of this process, which both back-ends reach.

use std::sync::Arc;
use vm_memory::{mmap::FromRangesError, GuestAddress, GuestMemoryMmap};

/// Guest memory, shared between the vCPUs, the devices and the back-ends.
pub type Memory = Arc<GuestMemoryMmap>;

/// Guest memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot map guest memory: {0}")]
pub struct Error(#[from] FromRangesError);

/// Maps `ranges` of guest-physical addresses, each given by its first address and its length in
/// bytes. Pages are handed out by the host when they are first touched.
///
/// # Errors
///
/// When ranges overlap, or the host refuses that much address space.
pub fn anonymous(ranges: &[(GuestAddress, usize)]) -> Result<Memory, Error> {
    Ok(Arc::new(GuestMemoryMmap::from_ranges(ranges)?))
}

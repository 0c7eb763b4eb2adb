// SPDX-License-Identifier: GPL-2.0

//! The memory table: where guest memory lies in the owner.

use kernel::prelude::*;
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    table::{
        MemoryTable,
        Region,
        TableError, //
    },
};

/// A region of guest memory, as a VMM describes it.
#[derive(Clone, Copy)]
pub(crate) struct MemoryRegion {
    /// Guest-physical address.
    pub(crate) guest: GuestAddr,
    /// Address in the owner.
    pub(crate) host: HostAddr,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// Where guest memory lies in the address space of the owner.
pub(crate) type OwnerTable = MemoryTable<KVec<Region>>;

/// Returns the error for a table that was refused.
pub(super) fn table_error(error: TableError) -> Error {
    match error {
        TableError::Empty | TableError::Wraps => EFAULT,
        TableError::Overlap => EINVAL,
    }
}

/// Returns the table of these regions.
///
/// # Errors
///
/// EFAULT when a region is empty or wraps; EINVAL when regions overlap; ENOMEM.
pub(super) fn table_of(regions: &[MemoryRegion]) -> Result<OwnerTable> {
    let mut table = KVec::with_capacity(regions.len(), GFP_KERNEL_ACCOUNT)?;
    for region in regions {
        let region = Region::new(region.guest, region.bytes, region.host).map_err(table_error)?;
        table.push(region, GFP_KERNEL_ACCOUNT)?;
    }
    MemoryTable::new(table).map_err(table_error)
}

// SPDX-License-Identifier: GPL-2.0

//! The memory table of guest memory that is pinned ahead.

use super::table::{
    table_error,
    table_of,
    MemoryRegion, //
};
use crate::sys::{
    gfp_user_sized,
    pinned_extents::{
        ExtentAddr,
        PinnedExtents, //
    },
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::Fault,
    table::{
        MemoryTable,
        Region, //
    },
    table_index::IndexedTable, //
};

/// A region of guest memory, and where its parts lie in pinned memory: each in an extent, at an
/// [`ExtentAddr`].
struct PinnedRegion {
    first: GuestAddr,
    parts: IndexedTable<KVVec<Region>, KVVec<u32>>,
}

impl PinnedRegion {
    /// Pins a region of the current process.
    ///
    /// # Errors
    ///
    /// Those of [`PinnedExtents::pin`].
    fn new(whole: Region, extents: &mut PinnedExtents) -> Result<Self> {
        let mut guest = whole.first();
        let mut parts = KVVec::new();
        for extent in extents.pin(whole.host(), whole.bytes())? {
            let bytes = extents.bytes_of(extent);
            let host = HostAddr(ExtentAddr::start_of(extent).0);
            let part = Region::new(guest, bytes, host).map_err(table_error)?;
            parts.push(part, gfp_user_sized())?;
            // The last part may end where the address space does.
            guest = guest.checked_add(bytes).unwrap_or(guest);
        }
        let parts = MemoryTable::new(parts).map_err(table_error)?;
        let entries = IndexedTable::<_, KVVec<u32>>::entries(&parts);
        let room = KVVec::from_elem(0, entries, gfp_user_sized())?;
        Ok(Self {
            first: whole.first(),
            parts: IndexedTable::new(parts, room),
        })
    }
}

/// The memory table of guest memory that is pinned ahead.
pub(crate) struct PinnedTable {
    /// Sorted by guest address.
    regions: KVec<PinnedRegion>,
    pub(super) extents: Arc<PinnedExtents>,
}

impl PinnedTable {
    /// Pins the memory of these regions of the current process, whose address space is `mm`.
    ///
    /// # Errors
    ///
    /// EFAULT when a region is empty or wraps, or can't be pinned; EINVAL when regions overlap;
    /// ENOMEM; EINTR when the task is being killed.
    pub(super) fn new(regions: &[MemoryRegion], mm: ARef<MmWithUser>) -> Result<Self> {
        // Judged as a whole before anything is pinned.
        let whole = table_of(regions)?;
        let mut extents = PinnedExtents::new(mm);
        let mut regions = KVec::with_capacity(whole.regions().len(), GFP_KERNEL_ACCOUNT)?;
        for region in whole.regions() {
            let region = PinnedRegion::new(*region, &mut extents)?;
            regions.push(region, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            regions,
            extents: Arc::new(extents, GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Returns the part that holds `at`: contiguous memory in one extent.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideTable`].
    #[inline]
    pub(super) fn part(&self, at: GuestAddr) -> Result<&Region, Fault> {
        // A guest has few regions, and most of its memory in the last ones.
        self.regions
            .iter()
            .rev()
            .find(|region| region.first <= at)
            .and_then(|region| region.parts.region(at))
            .ok_or(Fault::OutsideTable)
    }
}

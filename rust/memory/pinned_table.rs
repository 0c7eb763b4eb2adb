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
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use crate::sys::{
    mapped_pages::MappedPages,
    mapped_range::{
        Access,
        MappedRange, //
    },
    vdpa_ops::HostDriver, //
};
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use kernel::page::PAGE_SIZE;
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
        Self::of_parts(whole.first(), parts)
    }

    /// Creates the region that begins at `first` and has these parts.
    ///
    /// # Errors
    ///
    /// EINVAL when they overlap; ENOMEM.
    fn of_parts(first: GuestAddr, parts: KVVec<Region>) -> Result<Self> {
        let parts = MemoryTable::new(parts).map_err(table_error)?;
        let entries = IndexedTable::<_, KVVec<u32>>::entries(&parts);
        let room = KVVec::from_elem(0, entries, gfp_user_sized())?;
        Ok(Self {
            first,
            parts: IndexedTable::new(parts, room),
        })
    }
}

/// The memory table of guest memory that is pinned ahead.
pub(crate) struct PinnedTable {
    /// Sorted by guest address.
    regions: KVec<PinnedRegion>,
    pub(super) extents: Arc<PinnedExtents>,
    /// The version of the [`Iotlb`](super::iotlb::Iotlb) that it is made of.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(super) version: u64,
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
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            version: 0,
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

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
impl PinnedTable {
    /// Creates the table of mappings, sorted by guest address, which are `version` of their [`Iotlb`].
    ///
    /// # Errors
    ///
    /// ENOMEM, and those of the mappings.
    ///
    /// [`Iotlb`]: super::iotlb::Iotlb
    pub(super) fn of_mapped(
        mapped: impl Iterator<Item = Result<(GuestAddr, Arc<MappedPages>)>>,
        version: u64,
    ) -> Result<Self> {
        let mut parts = KVVec::new();
        let mut pages = KVVec::new();
        for (number, mapping) in mapped.enumerate() {
            let (at, run) = mapping?;
            let host = HostAddr(ExtentAddr::start_of(number).0);
            let part = Region::new(at, run.bytes(), host).map_err(table_error)?;
            parts.push(part, gfp_user_sized())?;
            pages.push(run, gfp_user_sized())?;
        }
        let mut regions = KVec::new();
        if let Some(first) = parts.first().map(Region::first) {
            regions.push(PinnedRegion::of_parts(first, parts)?, GFP_KERNEL)?;
        }
        Ok(Self {
            regions,
            extents: Arc::new(PinnedExtents::of_mapped(pages)?, GFP_KERNEL)?,
            version,
        })
    }

    /// Creates the table of all memory of the host, by physical address, for a driver of the host.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn of_host(host: &HostDriver) -> Result<Self> {
        let mut at = 0;
        let mapped = (0..).map_while(|part| host.memory(part)).map(|run| {
            let start = GuestAddr(at);
            at += run.bytes();
            Ok((start, Arc::new(run, GFP_KERNEL)?))
        });
        Self::of_mapped(mapped, 0)
    }

    /// Maps `len` bytes at `at` into the kernel, for accesses of up to `align` bytes each.
    ///
    /// # Errors
    ///
    /// EINVAL when `at` is not aligned; EFAULT when some of it is not mapped, or may not be accessed
    /// so; ENOMEM.
    pub(crate) fn map(
        &self,
        at: GuestAddr,
        len: usize,
        align: usize,
        access: Access,
    ) -> Result<MappedRange> {
        let offset = (at.0 % PAGE_SIZE as u64) as usize;
        let count = offset.checked_add(len).ok_or(EFAULT)?.div_ceil(PAGE_SIZE);
        let mut pages = KVVec::with_capacity(count, gfp_user_sized())?;
        let mut page = GuestAddr(at.0 - offset as u64);
        for number in 0..count {
            let part = self.part(page).map_err(|_| EFAULT)?;
            let span = part.span(page, 1).map_err(|_| EFAULT)?;
            let found = self.extents.mapped(ExtentAddr(span.addr.0)).ok_or(EFAULT)?;
            pages.push(found, gfp_user_sized())?;
            if number + 1 < count {
                page = page.checked_add(PAGE_SIZE as u64).ok_or(EFAULT)?;
            }
        }
        MappedRange::of_mapped(&pages, offset, len, align, access)
    }
}

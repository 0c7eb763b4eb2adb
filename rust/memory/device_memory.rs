// SPDX-License-Identifier: GPL-2.0

//! Guest memory of a device, of either kind.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::iotlb::Iotlb;
use super::{
    pinned_table::PinnedTable,
    table::{
        table_of,
        MemoryRegion,
        OwnerTable, //
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

/// Guest memory of a device.
#[derive(Clone)]
pub(crate) enum DeviceMemory {
    /// Of the owner, whose pages are pinned for each request.
    Owner(Arc<OwnerTable>),
    /// Pinned ahead.
    Pinned(Arc<PinnedTable>),
    /// Mapped by the user of a vDPA device, and what was mapped last.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Mapped(Arc<Iotlb>, Arc<PinnedTable>),
}

impl DeviceMemory {
    /// Creates the guest memory of the current process, whose address space is `mm`: pinned now if
    /// `ahead`.
    ///
    /// # Errors
    ///
    /// EFAULT when a region is empty or wraps, or can't be pinned; EINVAL when regions overlap;
    /// ENOMEM; EINTR when the task is being killed.
    #[inline(never)]
    pub(crate) fn new(regions: &[MemoryRegion], ahead: Option<ARef<MmWithUser>>) -> Result<Self> {
        Ok(match ahead {
            Some(mm) => Self::Pinned(Arc::new(
                PinnedTable::new(regions, mm)?,
                GFP_KERNEL_ACCOUNT,
            )?),
            None => Self::Owner(Arc::new(table_of(regions)?, GFP_KERNEL_ACCOUNT)?),
        })
    }

    /// Returns whether it was pinned ahead as a whole, and is let go of as a whole.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self, Self::Pinned(_))
    }

    /// Returns the table of what is pinned ahead.
    pub(crate) fn pinned_table(&self) -> Option<&Arc<PinnedTable>> {
        match self {
            Self::Owner(_) => None,
            Self::Pinned(table) => Some(table),
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Self::Mapped(_, table) => Some(table),
        }
    }
}

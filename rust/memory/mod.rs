// SPDX-License-Identifier: GPL-2.0

//! Guest memory, behind one trait.
//!
//! [`OwnerMemory`] is memory of the process that owns the device: each access goes through its page
//! tables, and pages are pinned while a request is in flight. [`PinnedMemory`] is pinned as a whole
//! when the memory table is set, and needs neither the page tables nor the process from then on.

mod device_memory;
mod dirty_log;
mod guest_memory;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
mod iotlb;
mod owner;
mod pinned;
mod pinned_table;
mod status_byte;
mod table;

pub(crate) use device_memory::DeviceMemory;
pub(crate) use dirty_log::DirtyLog;
pub(crate) use guest_memory::{
    copy_in,
    for_each_part,
    GuestMemory, //
};
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) use iotlb::{
    Iotlb,
    Unmapped, //
};
pub(crate) use owner::OwnerMemory;
pub(crate) use pinned::PinnedMemory;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) use pinned_table::PinnedTable;
pub(crate) use status_byte::StatusByte;
pub(crate) use table::MemoryRegion;

// SPDX-License-Identifier: GPL-2.0

//! vDPA devices of class block: the kernel's own vhost_vdpa offers them to every VMM, virtio_vdpa to
//! the host itself.
//!
//! They are made and deleted by ioctls of `/dev/vhost-blk-rs`, since vDPA's netlink can't name a
//! disk. docs/vmm.md shows who uses them.

mod commands;
mod ops;
mod state;
mod vdpa_blk;

pub(crate) use commands::{
    add,
    check_admin,
    decode_add,
    delete,
    info,
    stats, //
};

use crate::{
    queue::ready::MAX_QUEUES,
    sys::vdpa::Management, //
};
use kernel::error::Result;
use vblk_core::features::Features;
pub(crate) use vdpa_blk::Params;
use vdpa_blk::VdpaBlk;

/// The management device, which `vdpa mgmtdev show` shows.
pub(crate) struct Bus {
    _management: Management<VdpaBlk>,
}

impl Bus {
    /// Registers the management device.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            _management: Management::new(Features::MAPPED.0, MAX_QUEUES as u32)?,
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The log of what a device writes to guest memory, while the guest moves to another host.

use super::vring::{
    RingAddresses,
    VringConfig, //
};
use crate::{
    memory::{
        DirtyLog,
        MemoryRegion, //
    },
    queue::ring_log::RingLog, //
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
    queue::Parts,
    ring::Format, //
};

/// The log of a device whose disk is attached.
pub(crate) struct Log {
    log: Arc<DirtyLog>,
    /// Guest memory, by which the descriptors of a packed ring are found in it.
    regions: KVec<MemoryRegion>,
}

impl Log {
    /// Creates the log for guest memory of these regions, with its bits at `base` in the current process,
    /// whose address space is `mm`.
    ///
    /// # Errors
    ///
    /// ENOMEM; those of [`DirtyLog::new`].
    pub(super) fn new(
        mm: ARef<MmWithUser>,
        base: HostAddr,
        regions: &[MemoryRegion],
    ) -> Result<Self> {
        let last = regions
            .iter()
            .map(|it| it.guest.0.saturating_add(it.bytes.saturating_sub(1)));
        let last = GuestAddr(last.max().unwrap_or(0));
        let log = DirtyLog::new(mm, base, last)?;
        let mut known = KVec::with_capacity(regions.len(), GFP_KERNEL_ACCOUNT)?;
        known.extend_from_slice(regions, GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            log: Arc::new(log, GFP_KERNEL_ACCOUNT)?,
            regions: known,
        })
    }

    /// Returns the log of a queue.
    pub(super) fn of_ring(&self, vring: &VringConfig, format: Format) -> RingLog {
        RingLog {
            log: self.log.clone(),
            written: self.written(vring, format).unwrap_or([None; 2]),
        }
    }

    /// Returns what the device writes of a ring, if that is to be logged.
    fn written(
        &self,
        vring: &VringConfig,
        format: Format,
    ) -> Option<[Option<(GuestAddr, u64)>; 2]> {
        let device = vring.log?;
        let parts = format.parts(vring.size?);
        let desc = match (format, vring.addresses?) {
            (Format::Packed, RingAddresses::Owner(Parts { desc, .. })) => {
                let at = guest_of(&self.regions, desc);
                at.map(|at| (at, parts.desc.bytes as u64))
            }
            _ => None,
        };
        Some([Some((device, parts.device.bytes as u64)), desc])
    }
}

/// Returns where an address of the owner is in guest memory.
fn guest_of(regions: &[MemoryRegion], at: HostAddr) -> Option<GuestAddr> {
    regions.iter().find_map(|region| {
        let offset = at.0.checked_sub(region.host.0)?;
        (offset < region.bytes).then(|| region.guest.checked_add(offset))?
    })
}

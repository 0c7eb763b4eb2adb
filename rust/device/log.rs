// SPDX-License-Identifier: GPL-2.0

//! Logging what a device writes to guest memory, while the guest moves to another host.

use super::{
    vring::{
        RingAddresses,
        VringConfig, //
    },
    Device, //
};
use crate::{
    memory::{
        DirtyLog,
        MemoryRegion, //
    },
    queue::ring_log::RingLog, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    features::{
        bit,
        Features, //
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

impl Device {
    /// Creates the log that the features ask for, with its bits at `base`, for guest memory of these
    /// regions. `None` when they ask for none.
    ///
    /// # Errors
    ///
    /// EFAULT when there is no base; ENOMEM; those of [`DirtyLog::new`].
    pub(super) fn make_log(
        &self,
        features: Features,
        base: Option<HostAddr>,
        regions: &[MemoryRegion],
    ) -> Result<Option<Log>> {
        if !features.has(bit::LOG_ALL) {
            return Ok(None);
        }
        let owner = self.owner.clone().ok_or(EFAULT)?;
        let last = regions
            .iter()
            .map(|it| it.guest.0.saturating_add(it.bytes.saturating_sub(1)));
        let last = GuestAddr(last.max().unwrap_or(0));
        let log = DirtyLog::new(owner, base.ok_or(EFAULT)?, last)?;
        let mut known = KVec::with_capacity(regions.len(), GFP_KERNEL_ACCOUNT)?;
        known.extend_from_slice(regions, GFP_KERNEL_ACCOUNT)?;
        Ok(Some(Log {
            log: Arc::new(log, GFP_KERNEL_ACCOUNT)?,
            regions: known,
        }))
    }

    /// Exchanges the log. When this returns, all that the device writes is in the new one, and nothing
    /// is written to the old one any more.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(super) fn exchange_log(&mut self, log: Option<Log>) -> Result {
        let format = self.format();
        let (vrings, new) = (&self.vrings, &log);
        self.workers.for_each_queue_by_index(|index, queue| {
            let vring = vrings.get(index);
            let of_ring = new
                .as_ref()
                .zip(vring)
                .map(|(log, vring)| log.of_ring(vring, format));
            queue.set_log(of_ring);
        })?;
        // Kept until the end: the last one to let go of its pages is this thread.
        let _old = core::mem::replace(&mut self.log, log);
        if let Some(attachment) = &self.attachment {
            attachment.wait_for_earlier()?;
            self.workers
                .for_each_queue(|queue| queue.release_memory())?;
        }
        Ok(())
    }

    /// Sets where the bits of the log are in the owner.
    ///
    /// # Errors
    ///
    /// Those of [`Self::make_log`] and [`Self::exchange_log`], while what is written is logged.
    pub(crate) fn set_log_base(&mut self, base: HostAddr) -> Result {
        if self.log.is_some() {
            let log = self.make_log(self.features, Some(base), &self.regions)?;
            self.exchange_log(log)?;
        }
        self.log_base = Some(base);
        Ok(())
    }

    /// Sets where the parts of a ring are in the owner, and where its used ring is in guest memory if
    /// writes to the ring are to be logged.
    ///
    /// # Errors
    ///
    /// EBUSY when the parts of a queue that is served would be elsewhere; ENOBUFS, ENOMEM; those of
    /// [`Self::exchange_log`].
    pub(crate) fn set_vring_addr(
        &mut self,
        index: usize,
        addresses: Parts<HostAddr>,
        log: Option<GuestAddr>,
    ) -> Result {
        let addresses = Some(RingAddresses::Owner(addresses));
        if self.vring(index)?.addresses != addresses {
            self.check_detached()?;
        }
        let vring = self.vring(index)?;
        vring.addresses = addresses;
        vring.log = log;
        if self.log.is_some() {
            let log = self.log.take();
            self.exchange_log(log)?;
        }
        Ok(())
    }
}

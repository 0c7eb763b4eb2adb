// SPDX-License-Identifier: GPL-2.0

//! Beginning to log what a device writes to guest memory, and ending it, while a disk is attached or not.

use super::{
    log::Log,
    vring::RingAddresses,
    Device, //
};
use crate::memory::MemoryRegion;
use kernel::prelude::*;
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    features::{
        bit,
        Features, //
    },
    queue::Parts, //
};

impl Device {
    /// Creates the log that the features ask for, with its bits at `base`, for guest memory of these
    /// regions. `None` when they ask for none.
    ///
    /// # Errors
    ///
    /// EFAULT when there is no base; those of [`Log::new`].
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
        Log::new(owner, base.ok_or(EFAULT)?, regions).map(Some)
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

    /// Begins to log what is written, or ends it, while a disk is attached: all that `features` may change.
    ///
    /// # Errors
    ///
    /// Those of [`Self::make_log`] and [`Self::exchange_log`].
    pub(super) fn set_logging(&mut self, features: Features) -> Result {
        let log = self.make_log(features, self.log_base, &self.regions)?;
        self.exchange_log(log)?;
        self.features = features;
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

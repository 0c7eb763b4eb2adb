// SPDX-License-Identifier: GPL-2.0

//! What only a device does that no process owns: its memory is what is mapped at the time, its queues
//! start and stop one by one, and its workers come and go with the driver.

use super::{
    attachment::KickTarget,
    vring::{
        RingAddresses,
        VringConfig, //
    },
    worker::Workers,
    Device, //
};
use crate::memory::DeviceMemory;
use kernel::prelude::*;
use vblk_core::{
    addr::GuestAddr,
    uapi::Stats, //
};

impl Device {
    /// Gives the device its workers and its memory, for a driver that begins to use it.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached.
    pub(crate) fn begin(&mut self, workers: Workers, memory: DeviceMemory) -> Result {
        self.check_detached()?;
        self.workers = workers;
        self.memory = Some(memory);
        Ok(())
    }

    /// Forgets a driver and all that it set up, but for what was counted. What is in flight is waited
    /// for.
    pub(crate) fn reset(&mut self) {
        self.abandon();
        self.workers = Workers::none();
        self.memory = None;
        self.features = Default::default();
        self.writeback = None;
        self.config_call = None;
        for vring in &mut self.vrings {
            let past = vring.past;
            *vring = VringConfig {
                past,
                ..VringConfig::default()
            };
        }
    }

    /// Stops everything at once, when the device can't go on. A driver must reset it.
    pub(crate) fn halt(&mut self) {
        self.abandon();
        self.memory = None;
    }

    /// Returns whether a disk is attached: queues are served, or can be started.
    pub(crate) fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    /// Returns the writeback switch, if it was used.
    pub(crate) fn writeback(&self) -> Option<bool> {
        self.writeback
    }

    /// Tells the driver that the configuration space or the status has changed.
    pub(crate) fn signal_config(&self) {
        if let Some(call) = &self.config_call {
            call.signal();
        }
    }

    /// Begins to serve a queue with its ring at these addresses. Returns what kicks it.
    ///
    /// # Errors
    ///
    /// ENODEV while no disk is attached; those of [`super::attachment::Attachment::add_queue`].
    pub(crate) fn start_queue(
        &mut self,
        index: usize,
        addresses: RingAddresses,
    ) -> Result<KickTarget> {
        if let Some(DeviceMemory::Mapped(iotlb, _)) = &self.memory {
            let table = iotlb.table()?;
            self.memory = Some(DeviceMemory::Mapped(iotlb.clone(), table));
        }
        self.vring(index)?.addresses = Some(addresses);
        let mut attachment = self.attachment.take().ok_or(ENODEV)?;
        let started = self.attach_params().and_then(|params| {
            let vring = self.vrings.get(index).ok_or(EINVAL)?;
            attachment.add_queue(&params, index, vring)
        });
        self.attachment = Some(attachment);
        if started.is_err() {
            self.vring(index)?.addresses = None;
        }
        started
    }

    /// Ends the service of a queue, when its I/O has ended.
    pub(crate) fn stop_queue(&mut self, index: usize) {
        let Some(vring) = self.vrings.get_mut(index) else {
            return;
        };
        vring.addresses = None;
        let half = self.workers.take_queue(vring.worker, index);
        if let (Some(half), Some(attachment)) = (half, &mut self.attachment) {
            attachment.remove_queue(index, half, vring);
        }
    }

    /// Has all queues use nothing that was unmapped, and waits for I/O that began before.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed. Queues may still use what was unmapped.
    pub(crate) fn follow(&mut self) -> Result {
        match &self.memory {
            Some(DeviceMemory::Mapped(iotlb, _)) => {
                let nothing = iotlb.nothing();
                self.set_memory(DeviceMemory::Mapped(iotlb.clone(), nothing))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a part of the ring of a queue that is served is in a range of guest memory.
    pub(crate) fn has_ring_in(&self, index: usize, first: GuestAddr, last: GuestAddr) -> bool {
        let Some(vring) = self.vrings.get(index) else {
            return false;
        };
        let (Some(size), Some(RingAddresses::Guest(addresses))) = (vring.size, vring.addresses)
        else {
            return false;
        };
        let parts = self.format().parts(size).zip(addresses);
        [parts.desc, parts.driver, parts.device]
            .iter()
            .any(|(part, at)| {
                let end = at.0.saturating_add(part.bytes as u64 - 1);
                at.0 <= last.0 && first.0 <= end
            })
    }

    /// Returns what was counted on a queue since the device was created.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; EINTR when the current task is being killed.
    pub(crate) fn queue_stats(&mut self, index: usize) -> Result<Stats> {
        let vring = self.vring(index)?;
        let (worker, mut stats) = (vring.worker, vring.past);
        self.workers
            .with_queue(worker, index, |queue| queue.add_stats(&mut stats))?;
        Ok(stats)
    }
}

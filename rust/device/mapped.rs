// SPDX-License-Identifier: GPL-2.0

//! What only a device does that no process owns: its memory is what is mapped at the time, its queues
//! start and stop one by one, and its workers come with a VMM and stay over resets.

use super::{
    attachment::KickTarget,
    vring::{
        RingAddresses,
        VringConfig, //
    },
    worker::Workers,
    Device, //
};
use crate::memory::{
    DeviceMemory,
    Unmapped, //
};
use kernel::prelude::*;
use vblk_core::{
    addr::GuestAddr,
    uapi::Stats, //
};

impl Device {
    /// Exchanges the workers, which serve no queue.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached.
    pub(crate) fn set_workers(&mut self, workers: Workers) -> Result {
        self.check_detached()?;
        self.workers = workers;
        Ok(())
    }

    /// Gives the device its memory, for a driver that begins to use it.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached.
    pub(crate) fn begin(&mut self, memory: DeviceMemory) -> Result {
        self.check_detached()?;
        self.memory = Some(memory);
        Ok(())
    }

    /// Forgets a driver and all that it set up, but for what was counted and what only the administrator sets. What is in flight is waited
    /// for. Workers of the current process stay.
    pub(crate) fn reset(&mut self) {
        self.abandon();
        if !self.workers.are_of_current_process() {
            self.workers = Workers::none();
        }
        self.memory = None;
        self.features = Default::default();
        self.writeback = None;
        self.config_call = None;
        for vring in &mut self.vrings {
            let VringConfig { past, poll_us, .. } = *vring;
            *vring = VringConfig {
                past,
                poll_us,
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

    /// Begins to serve a queue with its ring at these addresses, as soon as it is kicked by what is
    /// returned.
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

    /// Takes what was unmapped from all queues, and waits for the I/O that uses it.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed. It may still be used then.
    pub(crate) fn release_unmapped(&mut self, unmapped: &Unmapped) -> Result {
        let Some(DeviceMemory::Mapped(iotlb, _)) = &self.memory else {
            return Ok(());
        };
        let nothing = DeviceMemory::Mapped(iotlb.clone(), iotlb.nothing());
        self.workers
            .for_each_queue(|queue| queue.replace_memory(&nothing))?;
        self.memory = Some(nothing);
        unmapped.wait_until_unused()?;
        // I/O that has ended may keep it.
        self.workers.for_each_queue(|queue| queue.release_memory())
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

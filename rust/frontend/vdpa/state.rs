// SPDX-License-Identifier: GPL-2.0

//! What the driver of a vDPA device made of it so far.

use crate::{
    device::{
        attachment::KickTarget,
        disk::config_limits,
        vring::RingAddresses,
        Device, //
    },
    sys::{
        block_file::BlockFile,
        signal::Signal, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::GuestAddr,
    config::Limits,
    queue::Parts, //
};

/// Bits of the device status (virtio 1.2, 2.1).
pub(super) mod status {
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

/// A queue as its driver set it up, but for what [`Device`] keeps.
#[derive(Clone, Default)]
pub(super) struct Vring {
    /// The parts of the ring.
    pub(super) addresses: Option<Parts<GuestAddr>>,
    /// What will kick it, when all is there to serve it and it shall not be served yet.
    pub(super) prepared: Option<KickTarget>,
    /// It is served while the device is running.
    pub(super) is_ready: bool,
}

/// A device as its driver set it up.
pub(super) struct State {
    pub(super) device: Device,
    pub(super) status: u8,
    pub(super) vrings: KVec<Vring>,
    pub(super) is_suspended: bool,
    /// What the configuration space was last told from, and how often that changed.
    pub(super) told: Limits,
    pub(super) generation: u32,
}

impl State {
    /// Returns a queue.
    ///
    /// # Errors
    ///
    /// EINVAL when there is no such queue.
    pub(super) fn vring(&mut self, index: usize) -> Result<&mut Vring> {
        self.vrings.get_mut(index).ok_or(EINVAL)
    }

    /// Returns whether queues that are ready are served.
    pub(super) fn is_running(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && self.device.is_attached()
    }

    /// Returns an error while a queue is served, or all is there for it: it does not change.
    ///
    /// # Errors
    ///
    /// EBUSY; EINVAL when there is no such queue.
    pub(super) fn check_stopped(&mut self, index: usize) -> Result {
        let vring = self.vring(index)?;
        let is_used = vring.is_ready || vring.prepared.is_some();
        if is_used && self.device.is_attached() {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Has a queue served, as soon as it is kicked by what is returned.
    ///
    /// # Errors
    ///
    /// EINVAL when there is no such queue or ring; those of [`Device::start_queue`].
    pub(super) fn serve(&mut self, index: usize) -> Result<KickTarget> {
        let addresses = self.vring(index)?.addresses.ok_or(EINVAL)?;
        self.device
            .start_queue(index, RingAddresses::Guest(addresses))
    }

    /// Returns what several may signal. Without memory for it the driver gets no interrupts, and must
    /// reset the device.
    pub(super) fn share(&mut self, call: Result<Option<Signal>>) -> Option<Arc<Signal>> {
        let shared = match call {
            Ok(None) => return None,
            Ok(Some(call)) => Arc::new(call, GFP_KERNEL).ok(),
            Err(_) => None,
        };
        if shared.is_none() {
            self.need_reset();
        }
        shared
    }

    /// Notes whether a queue has stopped at what its guest did. Starting it anew does not mend that.
    pub(super) fn note_stopped(&mut self) {
        let stats = self.device.stats();
        if stats.is_ok_and(|stats| stats.stopped_queues > 0) {
            self.status |= status::NEEDS_RESET;
        }
    }

    /// Tells the driver that it must reset the device.
    pub(super) fn need_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
        self.device.signal_config();
    }

    /// Looks whether the disk has changed in what the configuration space tells of it.
    pub(super) fn look_at(&mut self, disk: &BlockFile) {
        let now = config_limits(disk);
        if now != self.told {
            self.told = now;
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A virtio-blk device: what is configured, what is attached, and which threads serve it.
//!
//! A front-end has a [`Device`] and decides who may change it. Nothing here knows an ioctl.

pub(crate) mod attachment;
mod config_notifier;
pub(crate) mod disk;
mod log;
mod logging;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
mod mapped;
pub(crate) mod vring;
pub(crate) mod worker;

use crate::{
    memory::{
        DeviceMemory,
        MemoryRegion, //
    },
    queue::{
        context::Rules,
        ready::MAX_QUEUES, //
    },
    sys::{
        block_file::BlockFile,
        errno::enobufs,
        eventfd::EventFile,
        signal::Signal,
        task::may_use_realtime_io,
        worker_thread::ThreadKind, //
    },
};
use attachment::{
    AttachParams,
    Attachment, //
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use log::Log;
use vblk_core::{
    addr::HostAddr,
    config::Limits,
    features::{
        bit,
        Features, //
    },
    range::RangeOps,
    request::ID_BYTES,
    ring::Format,
    uapi::Stats, //
};
use vring::VringConfig;
use worker::Workers;

/// A device. Dropping it stops everything.
pub(crate) struct Device {
    /// `Some` while a disk is attached.
    attachment: Option<Attachment>,
    vrings: KVec<VringConfig>,
    features: Features,
    memory: Option<DeviceMemory>,
    /// What guest memory of the owner was made of.
    regions: KVec<MemoryRegion>,
    /// Where the owner has the bits of the log.
    log_base: Option<HostAddr>,
    /// `Some` while a disk is attached and what is written is logged.
    log: Option<Log>,
    /// Guest memory is pinned when it is set.
    is_memory_pinned: bool,
    /// The answer to GET_ID.
    serial: [u8; ID_BYTES],
    /// The writeback switch, if it was used since the features were set.
    writeback: Option<bool>,
    /// Signalled when the configuration space has changed.
    config_call: Option<Arc<Signal>>,
    /// The owner may have the real-time class of I/O priorities.
    realtime: bool,
    workers: Workers,
    /// The address space of the process that owns the device, if one does.
    owner: Option<ARef<MmWithUser>>,
}

impl Device {
    /// Creates a device that the current process owns, with one worker.
    ///
    /// # Errors
    ///
    /// EPERM when the process has no address space; ENOMEM; EAGAIN when it may not have one more
    /// thread; EINTR when it is being killed.
    #[inline(never)]
    pub(crate) fn new(kind: ThreadKind) -> Result<Self> {
        let mm: ARef<MmWithUser> = kernel::current!().mm().ok_or(EPERM)?.into();
        let workers = Workers::new(kind, Some(mm.clone()))?;
        Ok(Self::with(workers, Some(mm), may_use_realtime_io()))
    }

    /// Creates a device that no process owns, with so many queues and without a worker. All of its
    /// memory is pinned ahead.
    ///
    /// # Errors
    ///
    /// ENOBUFS when there can't be so many queues; ENOMEM.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn without_owner(queues: usize) -> Result<Self> {
        let mut device = Self::with(Workers::none(), None, false);
        // All at once: most of what a driver of the vDPA bus does to a queue it can't be told the
        // failure of.
        for index in 0..queues {
            device.vring(index)?;
        }
        Ok(device)
    }

    fn with(workers: Workers, owner: Option<ARef<MmWithUser>>, realtime: bool) -> Self {
        Self {
            attachment: None,
            vrings: KVec::new(),
            features: Features::default(),
            memory: None,
            regions: KVec::new(),
            log_base: None,
            log: None,
            is_memory_pinned: false,
            serial: [0; ID_BYTES],
            writeback: None,
            config_call: None,
            realtime,
            workers,
            owner,
        }
    }

    /// Returns whether the current process is the owner: its address space counts, as in C vhost.
    pub(crate) fn is_owner_current(&self) -> bool {
        match (kernel::current!().mm(), &self.owner) {
            (Some(mm), Some(owner)) => core::ptr::eq(mm.as_raw(), owner.as_raw()),
            _ => false,
        }
    }

    /// Returns the configuration of a queue.
    ///
    /// # Errors
    ///
    /// ENOBUFS when there is no such queue; ENOMEM.
    pub(crate) fn vring(&mut self, index: usize) -> Result<&mut VringConfig> {
        if index >= MAX_QUEUES {
            return Err(enobufs());
        }
        while self.vrings.len() <= index {
            self.vrings
                .push(VringConfig::default(), GFP_KERNEL_ACCOUNT)?;
        }
        self.vrings.get_mut(index).ok_or_else(enobufs)
    }

    /// Returns the workers.
    pub(crate) fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// Stops a worker.
    ///
    /// # Errors
    ///
    /// ENODEV when there is no such worker; EBUSY while a queue is attached to it.
    pub(crate) fn free_worker(&mut self, id: usize) -> Result {
        self.workers.get(id)?;
        // Queues that were never configured are with the first worker.
        let is_default = id == 0 && self.vrings.len() < MAX_QUEUES;
        if is_default || self.vrings.iter().any(|vring| vring.worker == id) {
            return Err(EBUSY);
        }
        self.workers.free(id);
        Ok(())
    }

    /// Attaches a queue to a worker.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached; ENODEV when there is no such worker.
    pub(crate) fn set_vring_worker(&mut self, index: usize, id: usize) -> Result {
        self.check_detached()?;
        self.workers.get(id)?;
        self.vring(index)?.worker = id;
        Ok(())
    }

    /// Returns the negotiated features.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Returns the format of the rings.
    pub(crate) fn format(&self) -> Format {
        Format::of(self.features)
    }

    /// Sets the negotiated features. While a disk is attached only logging may change.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached; those of [`Self::set_logging`].
    pub(crate) fn set_features(&mut self, features: Features) -> Result {
        let changed = Features(self.features.0 ^ features.0);
        if self.attachment.is_some() && changed == Features(1 << bit::LOG_ALL) {
            return self.set_logging(features);
        }
        self.check_detached()?;
        self.features = features;
        self.writeback = None;
        Ok(())
    }

    /// Returns an error while a disk is attached: a queue that is served does not change.
    ///
    /// # Errors
    ///
    /// EBUSY.
    pub(crate) fn check_detached(&self) -> Result {
        match self.attachment {
            Some(_) => Err(EBUSY),
            None => Ok(()),
        }
    }

    /// Returns the address space of the owner, if guest memory is to be pinned when it is set.
    pub(crate) fn pins_memory(&self) -> Option<ARef<MmWithUser>> {
        self.owner.clone().filter(|_| self.is_memory_pinned)
    }

    /// Selects whether guest memory is pinned when it is set, and forgets what was set.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached.
    pub(crate) fn set_memory_pinned(&mut self, is_pinned: bool) -> Result {
        self.check_detached()?;
        if self.is_memory_pinned != is_pinned {
            self.is_memory_pinned = is_pinned;
            self.memory = None;
        }
        Ok(())
    }

    /// Replaces guest memory by memory of these regions. Memory that was pinned is let go of when no
    /// request uses it any more.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed; those of [`Self::make_log`] and
    /// [`Self::exchange_log`], while what is written is logged.
    pub(crate) fn set_memory(
        &mut self,
        memory: DeviceMemory,
        regions: KVec<MemoryRegion>,
    ) -> Result {
        if self.log.is_some() {
            let log = self.make_log(self.features, self.log_base, &regions)?;
            self.exchange_log(log)?;
        }
        self.regions = regions;
        self.workers
            .for_each_queue(|queue| queue.replace_memory(&memory))?;
        let is_pinned = memory.is_pinned();
        // Kept until the end: the last one to let go of pinned memory is this thread.
        let _old = self.memory.replace(memory);
        if let (Some(attachment), true) = (&self.attachment, is_pinned) {
            attachment.wait_for_earlier()?;
            self.workers
                .for_each_queue(|queue| queue.release_memory())?;
        }
        Ok(())
    }

    /// Exchanges the answer to GET_ID.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn set_serial(&mut self, serial: [u8; ID_BYTES]) -> Result {
        self.workers
            .for_each_queue(|queue| queue.set_serial(serial))?;
        self.serial = serial;
        Ok(())
    }

    /// Switches between writing back and writing through.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn set_writeback(&mut self, writeback: bool) -> Result {
        self.workers
            .for_each_queue(|queue| queue.set_durable(!writeback))?;
        self.writeback = Some(writeback);
        Ok(())
    }

    /// Returns whether writes must be durable before they are answered: the guest switched to writing
    /// through, or it has no way to make them durable itself and counts on it that they are
    /// (virtio 1.2, 5.2.6.2).
    fn is_durable(&self) -> bool {
        match self.writeback {
            Some(writeback) => !writeback,
            None => !self.features.has(bit::BLK_FLUSH),
        }
    }

    /// Exchanges the eventfd that tells of a changed configuration space.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    pub(crate) fn set_config_call(&mut self, call: Option<Arc<Signal>>) -> Result {
        if let Some(attachment) = &mut self.attachment {
            attachment.set_config_call(call.clone())?;
        }
        self.config_call = call;
        Ok(())
    }

    /// Exchanges the kick eventfd of a queue.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; nothing changed then.
    pub(crate) fn set_kick(&mut self, index: usize, kick: Option<Arc<EventFile>>) -> Result {
        if let Some(attachment) = &mut self.attachment {
            attachment.set_kick(index, kick.as_ref())?;
        }
        self.vring(index)?.kick = kick;
        Ok(())
    }

    /// Exchanges the call eventfd of a queue.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; nothing changed then.
    pub(crate) fn set_call(&mut self, index: usize, call: Option<Arc<Signal>>) -> Result {
        self.vring(index)?.call = call.clone();
        if let Some(attachment) = &self.attachment {
            attachment.set_call(index, call);
        }
        Ok(())
    }

    /// Exchanges the error eventfd of a queue.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; EINTR when the current task is being killed; nothing changed then.
    pub(crate) fn set_err(&mut self, index: usize, err: Option<Arc<Signal>>) -> Result {
        let worker = self.vring(index)?.worker;
        self.workers
            .with_queue(worker, index, |queue| queue.set_err(err.clone()))?;
        self.vring(index)?.err = err;
        Ok(())
    }

    /// Sets for how many microseconds the worker of a queue may look at its ring when it is empty.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; EINTR when the current task is being killed; nothing changed then.
    pub(crate) fn set_poll_limit(&mut self, index: usize, poll_us: u32) -> Result {
        let worker = self.vring(index)?.worker;
        self.workers
            .with_queue(worker, index, |queue| queue.set_poll_limit(poll_us))?;
        self.vring(index)?.poll_us = poll_us;
        Ok(())
    }

    /// Returns the position of a queue, as VHOST_GET_VRING_BASE tells it.
    ///
    /// # Errors
    ///
    /// ENOBUFS, ENOMEM; EINTR when the current task is being killed.
    pub(crate) fn base(&mut self, index: usize) -> Result<u32> {
        let initial = self.format().initial_base();
        let vring = self.vring(index)?;
        let (worker, configured) = (vring.worker, vring.base.unwrap_or(initial));
        let served = self
            .workers
            .with_queue(worker, index, |queue| queue.base())?;
        Ok(served.unwrap_or(configured))
    }

    /// Attaches a disk, of which the owner was told these limits, and begins to serve the queues that
    /// are configured.
    ///
    /// # Errors
    ///
    /// EFAULT without guest memory; EINVAL when no queue is configured and a process owns the device,
    /// which can't configure one later; those of [`Attachment::new`].
    #[inline(never)]
    pub(crate) fn attach(&mut self, disk: Arc<BlockFile>, told: Limits) -> Result {
        self.log = self.make_log(self.features, self.log_base, &self.regions)?;
        let mut vrings = core::mem::take(&mut self.vrings);
        let attached = self.attach_params().and_then(|params| {
            if self.owner.is_some() && !vrings.iter().any(VringConfig::is_configured) {
                return Err(EINVAL);
            }
            Attachment::new(&params, disk, told, &mut vrings)
        });
        self.vrings = vrings;
        self.attachment = Some(attached.inspect_err(|_| self.log = None)?);
        Ok(())
    }

    fn attach_params(&self) -> Result<AttachParams<'_>> {
        let rules = Rules {
            range_ops: RangeOps::negotiated(self.features),
            durable: self.is_durable(),
            realtime: self.realtime,
            indirect: self.features.has(bit::RING_INDIRECT_DESC),
            serial: self.serial,
        };
        Ok(AttachParams {
            workers: &self.workers,
            owner: self.owner.as_ref(),
            features: self.features,
            memory: self.memory.as_ref().ok_or(EFAULT)?,
            rules,
            log: self.log.as_ref(),
            config_call: self.config_call.as_ref(),
        })
    }

    /// Detaches the disk, if there is one.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed before the workers let go of the queues.
    pub(crate) fn detach(&mut self) -> Result {
        if let Some(attachment) = &mut self.attachment {
            self.workers.take_queues(|index, queue| {
                attachment.stopped(index, queue);
            })?;
        }
        self.end(true);
        Ok(())
    }

    fn end(&mut self, is_owner: bool) {
        if let Some(attachment) = self.attachment.take() {
            attachment.end(is_owner, &mut self.vrings);
        }
        self.log = None;
    }

    /// Returns what was counted since the device was created.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for vring in &self.vrings {
            stats += &vring.past;
        }
        self.workers
            .for_each_queue(|queue| queue.add_stats(&mut stats))?;
        Ok(stats)
    }
}

impl Device {
    /// Detaches the disk, if there is one, from a driver that is gone: requests that need its memory
    /// fail.
    fn abandon(&mut self) {
        // Workers must not wait for memory whose handler waits for this.
        self.workers.give_up();
        if let Some(attachment) = &mut self.attachment {
            self.workers
                .take_queues_patiently(|index, queue| attachment.stopped(index, queue));
        }
        let is_owner = false;
        self.end(is_owner);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.abandon();
    }
}

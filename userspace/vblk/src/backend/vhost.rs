// SPDX-License-Identifier: GPL-2.0

//! The back-end in the kernel, `/dev/vhost-blk-rs`.
//!
//! Once started, no request touches this process: kicks and calls go through eventfds that KVM and
//! the module hold.

mod device;

use super::{
    Backend, Error, Kind, Offer, OfferSource, Position, QueueConfig, Queues, Tuning, Workers,
};
use crate::{
    disk::{self, Disk},
    memory::Memory,
    sys::vhost_blk,
};
use ::vhost::{VhostBackend, VringConfigData};
use device::{
    check_log, get_features, host, logged, regions, ring_of, set_log_base, set_vring, step, Device,
};
use std::{
    fs::{File, OpenOptions},
    os::fd::AsFd,
    sync::Arc,
};
use vblk_core::{
    features::{bit, Features},
    ring::Format,
    uapi::{Info, Stats},
};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// The device node of the module.
pub const DEVICE: &str = "/dev/vhost-blk-rs";

/// Version, limits and features of the module.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Version and limits.
    pub info: Info,
    /// The features that it offers.
    pub features: Features,
}

/// Asks the module for its version, limits and features.
///
/// # Errors
///
/// [`Error::NoModule`] and [`Error::Module`].
pub fn module() -> Result<Module, Error> {
    let device = open_device()?;
    Ok(Module {
        info: vhost_blk::get_info(&device).map_err(Error::Module)?,
        features: get_features(&device)?,
    })
}

/// Opens the module's device.
///
/// # Errors
///
/// [`Error::NoModule`] and [`Error::Module`].
pub(crate) fn open_device() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|e| match e.raw_os_error() {
            // ENXIO and ENODEV: a node without a driver behind it.
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::NoModule,
            _ => Error::Module(e),
        })
}

/// The version of the module's interface that has worker threads to choose and pinned memory.
const TUNING_VERSION: u32 = 4;
/// The version of the module's interface that has polling.
const POLLING_VERSION: u32 = 6;

/// A disk that the kernel serves.
pub struct VhostKernel {
    shared: Arc<Shared>,
    tuning: Tuning,
    features: Features,
    /// Signalled by the module when the configuration space has changed.
    config_call: EventFd,
    /// The owner was set.
    owned: bool,
    /// The numbers of the worker threads, without the first, which every owner has.
    workers: Vec<u32>,
    /// The queues that are attached, and their memory, which must stay mapped until then.
    attached: Option<Attached>,
    /// Counters of what was attached earlier.
    earlier: Stats,
    /// The module can log what it writes.
    can_log: bool,
    /// Where it does.
    log: Option<Arc<MmapRegion>>,
}

/// State that others use while the disk is being served.
struct Shared {
    device: File,
    disk: Disk,
}

impl OfferSource for Shared {
    fn offer(&self, queues: Queues) -> Result<Offer, Error> {
        let disk = self.disk.file().as_fd();
        let (features, config) = vhost_blk::get_config(&self.device, disk, queues)
            .map_err(host("VHOST_BLK_GET_CONFIG"))?;
        Ok(Offer { features, config })
    }
}

struct Attached {
    memory: Memory,
    features: Features,
    rings: Vec<(u16, VringConfigData)>,
}

impl VhostKernel {
    /// Opens the module for `disk`, and becomes its owner once, so that a limit on threads is
    /// found now.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(disk: Disk, tuning: Tuning) -> Result<Self, Error> {
        if disk.kind() != disk::DiskKind::Block {
            return Err(Error::NotABlockDevice(disk.path().display().to_string()));
        }
        let device = open_device()?;
        let info = vhost_blk::get_info(&device).map_err(Error::Module)?;
        check_version(info.version, tuning)?;
        let offered = get_features(&device)?;
        let mut this = Self {
            // What is between the module and a VMM is no driver's.
            features: Features(offered.0 & Features::SUPPORTED.0),
            config_call: EventFd::new(EFD_NONBLOCK).map_err(host("eventfd"))?,
            shared: Arc::new(Shared { device, disk }),
            tuning,
            owned: false,
            workers: Vec::new(),
            attached: None,
            earlier: Stats::default(),
            can_log: offered.has(bit::LOG_ALL),
            log: None,
        };
        this.own()?;
        // Now, where the caller belongs: what starts the disk may be bound to other CPUs.
        if let Workers::Count(count) = tuning.workers {
            this.provide_workers(count)?;
        }
        Ok(this)
    }

    /// Becomes the owner of a device without an earlier set-up.
    fn own(&mut self) -> Result<(), Error> {
        let file = &self.shared.device;
        let device = Device::without_memory(file);
        device.set_owner().map_err(step("VHOST_SET_OWNER"))?;
        self.owned = true;
        if self.tuning.memory_pinned {
            vhost_blk::set_memory_pinned(file).map_err(host("VHOST_BLK_SET_MEMORY_PINNED"))?;
        }
        Ok(())
    }

    /// Forgets every set-up, and what was counted for it.
    fn disown(&mut self) -> Result<(), Error> {
        let mut stats = self.stats()?;
        // Nothing is attached any more.
        stats.stopped_queues = 0;
        let device = Device::without_memory(&self.shared.device);
        device.reset_owner().map_err(step("VHOST_RESET_OWNER"))?;
        self.earlier = stats;
        self.owned = false;
        self.workers.clear();
        Ok(())
    }

    /// Has at least so many worker threads. They are threads of the caller's process, which begin on the
    /// CPUs of the calling thread.
    fn provide_workers(&mut self, count: u16) -> Result<(), Error> {
        while self.workers.len() + 1 < count.into() {
            let worker = vhost_blk::new_worker(&self.shared.device);
            self.workers.push(worker.map_err(host("VHOST_NEW_WORKER"))?);
        }
        Ok(())
    }

    /// Adds logging to `features`, if there is a log.
    fn with_log(&self, features: Features) -> u64 {
        features.0 | u64::from(self.log.is_some()) << bit::LOG_ALL
    }

    /// Has the module use the log that there is now, if it serves a disk.
    fn apply_log(&self, was_logged: bool) -> Result<(), Error> {
        let Some(attached) = &self.attached else {
            return Ok(());
        };
        let file = &self.shared.device;
        let device = Device {
            file,
            memory: attached.memory.clone(),
            format: Format::of(attached.features),
        };
        if let Some(log) = &self.log {
            check_log(log, &attached.memory)?;
            set_log_base(file, log)?;
        }
        let is_logged = self.log.is_some();
        if is_logged == was_logged {
            return Ok(());
        }
        for (index, ring) in &attached.rings {
            device
                .set_vring_addr(usize::from(*index), &logged(ring, is_logged))
                .map_err(step("VHOST_SET_VRING_ADDR"))?;
        }
        device
            .set_features(self.with_log(attached.features))
            .map_err(step("VHOST_SET_FEATURES"))
    }

    fn attach(
        &self,
        memory: &Memory,
        features: Features,
        queues: &[QueueConfig],
    ) -> Result<(), Error> {
        let (file, disk) = (&self.shared.device, &self.shared.disk);
        let device = Device {
            file,
            memory: memory.clone(),
            format: Format::of(features),
        };
        spread(file, queues, &self.workers)?;
        vhost_blk::set_config_call(file, &self.config_call)
            .map_err(host("VHOST_BLK_SET_CONFIG_CALL"))?;
        if let Some(log) = &self.log {
            check_log(log, memory)?;
            set_log_base(file, log)?;
        }
        device
            .set_features(self.with_log(features))
            .map_err(step("VHOST_SET_FEATURES"))?;
        device
            .set_mem_table(&regions(memory))
            .map_err(step("VHOST_SET_MEM_TABLE"))?;
        for queue in queues {
            set_vring(&device, queue, self.log.is_some())?;
            if self.tuning.poll_us != 0 {
                let us = self.tuning.poll_us;
                vhost_blk::set_vring_busyloop_timeout(file, queue.index.into(), us)
                    .map_err(host("VHOST_SET_VRING_BUSYLOOP_TIMEOUT"))?;
            }
        }
        vhost_blk::set_serial(file, disk.id()).map_err(host("VHOST_BLK_SET_SERIAL"))?;
        vhost_blk::set_backend(file, Some(disk.file().as_fd()))
            .map_err(host("VHOST_BLK_SET_BACKEND"))
    }
}

/// Spreads `queues` over the first worker thread, which has all of them, and `others`.
fn spread(device: &File, queues: &[QueueConfig], others: &[u32]) -> Result<(), Error> {
    for (queue, worker) in queues.iter().zip(round_robin(others)) {
        if let Some(worker) = worker {
            vhost_blk::attach_vring_worker(device, queue.index.into(), worker)
                .map_err(host("VHOST_ATTACH_VRING_WORKER"))?;
        }
    }
    Ok(())
}

/// Yields the worker thread of each queue, for ever; `None` is the first one.
fn round_robin(others: &[u32]) -> impl Iterator<Item = Option<u32>> + '_ {
    let others = others.iter().copied().map(Some);
    std::iter::once(None).chain(others).cycle()
}

/// Refuses `tuning` that a module with this version of its interface does not know.
///
/// # Errors
///
/// [`Error::OldModule`].
pub(crate) fn check_version(version: u32, tuning: Tuning) -> Result<(), Error> {
    let wanted = Tuning::default();
    let lacking = [
        (
            "memory-pinned",
            TUNING_VERSION,
            tuning.memory_pinned != wanted.memory_pinned,
        ),
        ("workers", TUNING_VERSION, tuning.workers != wanted.workers),
        ("poll-us", POLLING_VERSION, tuning.poll_us != wanted.poll_us),
    ]
    .into_iter()
    .find(|(_, needed, is_wanted)| *is_wanted && version < *needed);
    match lacking {
        Some((option, needed, _)) => Err(Error::OldModule {
            option,
            needed,
            version,
        }),
        None => Ok(()),
    }
}

impl Backend for VhostKernel {
    fn kind(&self) -> Kind {
        Kind::Vhost
    }

    fn features(&self) -> Features {
        self.features
    }

    fn offer_source(&self) -> Arc<dyn OfferSource> {
        self.shared.clone()
    }

    fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        vhost_blk::set_writeback(&self.shared.device, on).map_err(host("VHOST_BLK_SET_WRITEBACK"))
    }

    fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    fn can_log(&self) -> bool {
        self.can_log
    }

    fn set_log(&mut self, log: Option<Arc<MmapRegion>>) -> Result<(), Error> {
        if log.is_some() && !self.can_log {
            return Err(Error::NoLog);
        }
        // Kept until the module does not write to it any more.
        let old = std::mem::replace(&mut self.log, log);
        let result = self.apply_log(old.is_some());
        if result.is_err() {
            self.log = old;
        }
        result
    }

    fn set_call(&mut self, index: u16, call: EventFd) -> Result<bool, Error> {
        Device::without_memory(&self.shared.device)
            .set_vring_call(index.into(), &call)
            .map_err(step("VHOST_SET_VRING_CALL"))?;
        Ok(true)
    }

    fn start(
        &mut self,
        memory: &Memory,
        features: Features,
        queues: Vec<QueueConfig>,
    ) -> Result<(), Error> {
        if self.attached.is_some() {
            return Err(Error::Started);
        }
        if !self.owned {
            self.own()?;
        }
        let features = Features(features.0 & self.features.0);
        let count = u16::try_from(queues.len()).unwrap_or(u16::MAX);
        self.provide_workers(self.tuning.workers.for_queues(count))?;
        if let Err(error) = self.attach(memory, features, &queues) {
            // No ring of this driver may be there for the next one, which may have fewer.
            self.disown()?;
            return Err(error);
        }
        let rings = queues.iter().map(|queue| (queue.index, ring_of(queue)));
        self.attached = Some(Attached {
            memory: memory.clone(),
            features,
            rings: rings.collect(),
        });
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<Position>, Error> {
        let Some(attached) = &self.attached else {
            return Ok(Vec::new());
        };
        vhost_blk::set_backend(&self.shared.device, None).map_err(host("VHOST_BLK_SET_BACKEND"))?;
        let device = Device::without_memory(&self.shared.device);
        let position = |&(index, _): &(u16, VringConfigData)| {
            let base = device
                .get_vring_base(index.into())
                .map_err(step("VHOST_GET_VRING_BASE"))?;
            Ok(Position { index, base })
        };
        let positions = attached.rings.iter().map(position).collect();
        self.attached = None;
        positions
    }

    fn stats(&self) -> Result<Stats, Error> {
        if !self.owned {
            return Ok(self.earlier);
        }
        let mut stats =
            vhost_blk::get_stats(&self.shared.device).map_err(host("VHOST_BLK_GET_STATS"))?;
        stats += &self.earlier;
        Ok(stats)
    }

    fn config_call(&self) -> Option<&EventFd> {
        Some(&self.config_call)
    }
}

impl Drop for VhostKernel {
    fn drop(&mut self) {
        // Closing the device would do, but not before the memory is unmapped.
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_module_is_refused_only_for_what_it_lacks() {
        let pinned = Tuning {
            memory_pinned: true,
            ..Tuning::default()
        };
        let spread = Tuning {
            workers: Workers::PerQueue,
            ..Tuning::default()
        };
        let polling = Tuning {
            poll_us: 50,
            ..Tuning::default()
        };
        assert!(check_version(3, Tuning::default()).is_ok());
        for (tuning, option, needed) in [
            (pinned, "memory-pinned", 4),
            (spread, "workers", 4),
            (polling, "poll-us", 6),
        ] {
            assert!(check_version(needed, tuning).is_ok());
            let old = needed - 1;
            let refused = check_version(old, tuning).unwrap_err().to_string();
            let line = format!(
                "{option} needs version {needed} of the module's interface, and the loaded module \
                 has {old}: load a newer vhost_blk_rs"
            );
            assert_eq!(refused, line);
        }
    }

    #[test]
    fn queues_are_spread_over_all_workers_in_turn() {
        let workers: Vec<_> = round_robin(&[7, 9]).take(5).collect();
        assert_eq!(workers, [None, Some(7), Some(9), None, Some(7)]);
        assert!(round_robin(&[]).take(3).all(|worker| worker.is_none()));
    }

    #[test]
    fn there_are_not_more_workers_than_queues() {
        for (workers, queues, expected) in [
            (Workers::Count(1), 4, 1),
            (Workers::Count(3), 4, 3),
            (Workers::Count(8), 4, 4),
            (Workers::PerQueue, 4, 4),
            (Workers::PerQueue, 0, 1),
        ] {
            assert_eq!(workers.for_queues(queues), expected, "{workers:?} {queues}");
        }
    }
}

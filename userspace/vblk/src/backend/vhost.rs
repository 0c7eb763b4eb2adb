// SPDX-License-Identifier: GPL-2.0

//! The back-end in the kernel, `/dev/vhost-blk-rs`.
//!
//! Once started, no request touches this process: kicks and calls go through eventfds that KVM and
//! the module hold.

use super::{
    Backend,
    Error,
    Kind,
    Offer,
    Position,
    QueueConfig,
    Queues, //
};
use crate::{
    disk::{
        self,
        Disk, //
    },
    memory::Memory,
    sys::vhost_blk, //
};
use ::vhost::{
    vhost_kern::VhostKernBackend,
    VhostBackend,
    VhostUserMemoryRegionInfo,
    VringConfigData, //
};
use std::{
    fs::{
        File,
        OpenOptions, //
    },
    io,
    os::fd::{
        AsFd,
        AsRawFd,
        RawFd, //
    },
};
use vblk_core::{
    features::Features,
    queue::{
        QueueSize,
        MAX_QUEUE_SIZE, //
    },
    ring::Format,
    uapi::{
        Info,
        Stats, //
    },
};
use vm_memory::{
    Address,
    GuestMemoryBackend,
    GuestMemoryRegion, //
};
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

/// The device node of the module.
pub const DEVICE: &str = "/dev/vhost-blk-rs";

/// What the module says of itself.
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

fn open_device() -> Result<File, Error> {
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

/// An open `/dev/vhost-blk-rs` with the memory that its addresses refer to, as the `vhost` crate
/// wants it.
struct Device<'a> {
    file: &'a File,
    memory: Memory,
    /// Of the rings.
    format: Format,
}

impl<'a> Device<'a> {
    /// For commands without addresses.
    fn without_memory(file: &'a File) -> Self {
        Self {
            file,
            memory: Memory::default(),
            format: Format::Split,
        }
    }
}

impl AsRawFd for Device<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Device<'_> {
    type AS = Memory;

    fn mem(&self) -> &Memory {
        &self.memory
    }

    /// The crate's own check refuses rings that end where memory ends.
    fn is_valid(&self, config: &VringConfigData) -> bool {
        let Some(size) = QueueSize::new(config.queue_size.into()) else {
            return false;
        };
        let parts = self.format.parts(size);
        [
            (config.desc_table_addr, parts.desc),
            (config.avail_ring_addr, parts.driver),
            (config.used_ring_addr, parts.device),
        ]
        .into_iter()
        .all(|(addr, part)| {
            self.memory
                .get_slice(vm_memory::GuestAddress(addr), part.bytes)
                .is_ok()
        })
    }
}

fn get_features(file: &File) -> Result<Features, Error> {
    let device = Device::without_memory(file);
    let features = device.get_features().map_err(step("VHOST_GET_FEATURES"))?;
    Ok(Features(features))
}

/// A disk that the kernel serves.
pub struct VhostKernel {
    device: File,
    disk: Disk,
    features: Features,
    /// Signalled by the module when the configuration space has changed.
    config_call: EventFd,
    /// The owner was set, so that the device must be reset before it is set up once more.
    owned: bool,
    /// What is attached. The memory must stay mapped until it is detached.
    attached: Option<Attached>,
    /// Counters of what was attached earlier.
    earlier: Stats,
}

struct Attached {
    _memory: Memory,
    queues: Vec<u16>,
}

impl VhostKernel {
    /// Opens the module for `disk`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(disk: Disk) -> Result<Self, Error> {
        if disk.kind() != disk::Kind::Block {
            return Err(Error::NotABlockDevice(disk.path().display().to_string()));
        }
        let device = open_device()?;
        Ok(Self {
            features: get_features(&device)?,
            config_call: EventFd::new(EFD_NONBLOCK).map_err(host("eventfd"))?,
            device,
            disk,
            owned: false,
            attached: None,
            earlier: Stats::default(),
        })
    }

    /// Forgets every earlier set-up, and what was counted for it.
    fn own(&mut self, device: &impl VhostBackend) -> Result<(), Error> {
        if self.owned {
            self.earlier = self.stats()?;
            device.reset_owner().map_err(step("VHOST_RESET_OWNER"))?;
            self.owned = false;
        }
        device.set_owner().map_err(step("VHOST_SET_OWNER"))?;
        self.owned = true;
        Ok(())
    }
}

impl Backend for VhostKernel {
    fn kind(&self) -> Kind {
        Kind::Vhost
    }

    fn features(&self) -> Features {
        self.features
    }

    fn offer(&self, queues: Queues) -> Result<Offer, Error> {
        vhost_blk::get_config(&self.device, self.disk.file().as_fd(), queues)
            .map_err(host("VHOST_BLK_GET_CONFIG"))
    }

    fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        vhost_blk::set_writeback(&self.device, on).map_err(host("VHOST_BLK_SET_WRITEBACK"))
    }

    fn disk(&self) -> &Disk {
        &self.disk
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
        let file = self.device.try_clone().map_err(Error::Module)?;
        let features = Features(features.0 & self.features.0);
        let device = Device {
            file: &file,
            memory: memory.clone(),
            format: Format::of(features),
        };
        self.own(&device)?;
        vhost_blk::set_config_call(&file, &self.config_call)
            .map_err(host("VHOST_BLK_SET_CONFIG_CALL"))?;
        device
            .set_features(features.0)
            .map_err(step("VHOST_SET_FEATURES"))?;
        device
            .set_mem_table(&regions(memory))
            .map_err(step("VHOST_SET_MEM_TABLE"))?;
        for queue in &queues {
            set_vring(&device, queue)?;
        }
        if let Some(serial) = self.disk.serial() {
            vhost_blk::set_serial(&file, serial).map_err(host("VHOST_BLK_SET_SERIAL"))?;
        }
        vhost_blk::set_backend(&file, Some(self.disk.file().as_fd()))
            .map_err(host("VHOST_BLK_SET_BACKEND"))?;
        self.attached = Some(Attached {
            _memory: memory.clone(),
            queues: queues.iter().map(|queue| queue.index).collect(),
        });
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<Position>, Error> {
        let Some(attached) = &self.attached else {
            return Ok(Vec::new());
        };
        vhost_blk::set_backend(&self.device, None).map_err(host("VHOST_BLK_SET_BACKEND"))?;
        let device = Device::without_memory(&self.device);
        let position = |&index: &u16| {
            let base = device
                .get_vring_base(index.into())
                .map_err(step("VHOST_GET_VRING_BASE"))?;
            Ok(Position { index, base })
        };
        let positions = attached.queues.iter().map(position).collect();
        self.attached = None;
        positions
    }

    fn stats(&self) -> Result<Stats, Error> {
        if !self.owned {
            return Ok(self.earlier);
        }
        let now = vhost_blk::get_stats(&self.device).map_err(host("VHOST_BLK_GET_STATS"))?;
        Ok(sum(&self.earlier, &now))
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

fn set_vring(device: &Device<'_>, queue: &QueueConfig) -> Result<(), Error> {
    let index = usize::from(queue.index);
    device
        .set_vring_num(index, queue.size)
        .map_err(|_| Error::Queue(queue.index))?;
    let config = VringConfigData {
        queue_max_size: MAX_QUEUE_SIZE,
        queue_size: queue.size,
        flags: 0,
        desc_table_addr: queue.desc.raw_value(),
        used_ring_addr: queue.used.raw_value(),
        avail_ring_addr: queue.avail.raw_value(),
        log_addr: None,
    };
    device
        .set_vring_addr(index, &config)
        .map_err(|_| Error::Queue(queue.index))?;
    vhost_blk::set_vring_base(device.file, queue.index.into(), queue.base)
        .map_err(host("VHOST_SET_VRING_BASE"))?;
    device
        .set_vring_call(index, &queue.call)
        .map_err(step("VHOST_SET_VRING_CALL"))?;
    if let Some(err) = &queue.err {
        device
            .set_vring_err(index, err)
            .map_err(step("VHOST_SET_VRING_ERR"))?;
    }
    device
        .set_vring_kick(index, &queue.kick)
        .map_err(step("VHOST_SET_VRING_KICK"))
}

fn regions(memory: &Memory) -> Vec<VhostUserMemoryRegionInfo> {
    let region = |region: &vm_memory::GuestRegionMmap| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        ..Default::default()
    };
    memory.iter().map(region).collect()
}

fn sum(a: &Stats, b: &Stats) -> Stats {
    Stats {
        kicks: a.kicks + b.kicks,
        requests: a.requests + b.requests,
        bytes_read: a.bytes_read + b.bytes_read,
        bytes_written: a.bytes_written + b.bytes_written,
        flushes: a.flushes + b.flushes,
        interrupts: a.interrupts + b.interrupts,
        io_errors: a.io_errors + b.io_errors,
        malformed: a.malformed + b.malformed,
    }
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Setup { step, cause }
}

fn step(step: &'static str) -> impl FnOnce(::vhost::Error) -> Error {
    move |error| {
        let cause = match error {
            ::vhost::Error::IoctlError(e) | ::vhost::Error::IOError(e) => e,
            other => io::Error::other(other),
        };
        Error::Setup { step, cause }
    }
}

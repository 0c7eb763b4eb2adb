// SPDX-License-Identifier: GPL-2.0

//! The module's open device and its rings, as the `vhost` crate wants them.

use crate::{
    backend::{Error, QueueConfig},
    memory::Memory,
    sys::vhost_blk,
};
use ::vhost::{
    vhost_kern::VhostKernBackend, VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};
use vblk_core::{
    addr::GuestAddr,
    dirty_log,
    features::Features,
    queue::{QueueSize, MAX_QUEUE_SIZE},
    ring::Format,
    uapi::VRING_F_LOG,
};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

/// An open `/dev/vhost-blk-rs` with the memory that its addresses refer to, as the `vhost` crate
/// wants it.
pub(super) struct Device<'a> {
    pub(super) file: &'a File,
    pub(super) memory: Memory,
    /// Of the rings.
    pub(super) format: Format,
}

impl<'a> Device<'a> {
    /// For commands without addresses.
    pub(super) fn without_memory(file: &'a File) -> Self {
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

pub(super) fn get_features(file: &File) -> Result<Features, Error> {
    let device = Device::without_memory(file);
    let features = device.get_features().map_err(step("VHOST_GET_FEATURES"))?;
    Ok(Features(features))
}

/// Returns a ring as the `vhost` crate wants it, which is not logged.
pub(super) fn ring_of(queue: &QueueConfig) -> VringConfigData {
    VringConfigData {
        queue_max_size: MAX_QUEUE_SIZE,
        queue_size: queue.size,
        flags: 0,
        desc_table_addr: queue.desc.raw_value(),
        used_ring_addr: queue.used.raw_value(),
        avail_ring_addr: queue.avail.raw_value(),
        log_addr: None,
    }
}

/// Returns the same ring, logged or not.
pub(super) fn logged(ring: &VringConfigData, is_logged: bool) -> VringConfigData {
    VringConfigData {
        flags: if is_logged { 1 << VRING_F_LOG } else { 0 },
        log_addr: is_logged.then_some(ring.used_ring_addr),
        ..*ring
    }
}

/// Refuses a log that has no bit for some page of memory: the module would write behind it.
pub(super) fn check_log(log: &MmapRegion, memory: &Memory) -> Result<(), Error> {
    let needed = dirty_log::bytes_for(GuestAddr(memory.last_addr().raw_value()));
    let bytes = log.size();
    match u64::try_from(bytes) {
        Ok(there) if there >= needed => Ok(()),
        _ => Err(Error::ShortLog { bytes, needed }),
    }
}

pub(super) fn set_log_base(file: &File, log: &MmapRegion) -> Result<(), Error> {
    vhost_blk::set_log_base(file, log.as_ptr() as u64).map_err(host("VHOST_SET_LOG_BASE"))
}

pub(super) fn set_vring(
    device: &Device<'_>,
    queue: &QueueConfig,
    is_logged: bool,
) -> Result<(), Error> {
    let index = usize::from(queue.index);
    device
        .set_vring_num(index, queue.size)
        .map_err(|_| Error::Queue(queue.index))?;
    device
        .set_vring_addr(index, &logged(&ring_of(queue), is_logged))
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

pub(super) fn regions(memory: &Memory) -> Vec<VhostUserMemoryRegionInfo> {
    let region = |region: &vm_memory::GuestRegionMmap| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        ..Default::default()
    };
    memory.iter().map(region).collect()
}

pub(super) fn host(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Setup { step, cause }
}

pub(super) fn step(step: &'static str) -> impl FnOnce(::vhost::Error) -> Error {
    move |error| {
        let cause = match error {
            ::vhost::Error::IoctlError(e) | ::vhost::Error::IOError(e) => e,
            other => io::Error::other(other),
        };
        Error::Setup { step, cause }
    }
}

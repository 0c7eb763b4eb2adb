// SPDX-License-Identifier: GPL-2.0

//! The ioctls of `/dev/vhost-blk-rs` that `<linux/vhost.h>` does not have, and one whose argument
//! the `vhost` crate cuts to 16 bits. The other standard ones come from there.

use super::check;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};
use vblk_core::{
    config::{Queues, CONFIG_BYTES},
    features::Features,
    request::ID_BYTES,
    uapi::{
        ConfigHeader, Info, Stats, VdpaAdd, VdpaInfo, VdpaName, VdpaStats, VringFile, VringState,
        VringWorker, WorkerState, CONFIG_ROOM, FD_UNBIND, VDPA_NAME_BYTES,
        VHOST_ATTACH_VRING_WORKER, VHOST_BLK_GET_CONFIG, VHOST_BLK_GET_INFO, VHOST_BLK_GET_STATS,
        VHOST_BLK_SET_BACKEND, VHOST_BLK_SET_CONFIG_CALL, VHOST_BLK_SET_MEMORY_PINNED,
        VHOST_BLK_SET_SERIAL, VHOST_BLK_SET_WRITEBACK, VHOST_BLK_VDPA_ADD, VHOST_BLK_VDPA_DEL,
        VHOST_BLK_VDPA_GET, VHOST_BLK_VDPA_GET_STATS, VHOST_NEW_WORKER, VHOST_SET_LOG_BASE,
        VHOST_SET_VRING_BASE, VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
    },
};
use vmm_sys_util::{
    eventfd::EventFd,
    ioctl::{ioctl_with_mut_ref, ioctl_with_ref},
};

/// Attaches `disk`, or detaches the disk when there is none given.
pub fn set_backend(device: &File, disk: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let argument = VringFile {
        index: 0,
        fd: disk.map_or(FD_UNBIND, |disk| disk.as_raw_fd()),
    }
    .to_bytes();
    // SAFETY: The kernel reads a `struct vhost_vring_file` from the argument, and its bytes are
    // there. It takes a reference of its own to the disk.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_SET_BACKEND.into(), &argument) })
}

/// The counters since VHOST_SET_OWNER.
pub fn get_stats(device: &File) -> io::Result<Stats> {
    let mut answer = [0; Stats::BYTES];
    // SAFETY: The kernel writes a `struct vhost_blk_stats` to the argument, which has its size.
    check(unsafe { ioctl_with_mut_ref(&device.as_fd(), VHOST_BLK_GET_STATS.into(), &mut answer) })?;
    Ok(Stats::from_bytes(&answer))
}

/// Version and limits of the module.
pub fn get_info(device: &File) -> io::Result<Info> {
    let mut answer = [0; Info::BYTES];
    // SAFETY: The kernel writes a `struct vhost_blk_info` to the argument, which has its size.
    check(unsafe { ioctl_with_mut_ref(&device.as_fd(), VHOST_BLK_GET_INFO.into(), &mut answer) })?;
    Ok(Info::from_bytes(&answer))
}

/// Sets what GET_ID answers.
pub fn set_serial(device: &File, serial: &[u8; ID_BYTES]) -> io::Result<()> {
    // SAFETY: The kernel reads as many bytes from the argument as it has.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_SET_SERIAL.into(), serial) })
}

/// Chooses what is signalled when the configuration space has changed.
pub fn set_config_call(device: &File, call: &EventFd) -> io::Result<()> {
    let argument = call.as_raw_fd().to_ne_bytes();
    // SAFETY: The kernel reads an `int` from the argument. It takes a reference of its own to the
    // eventfd.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_SET_CONFIG_CALL.into(), &argument) })
}

/// Sets where to begin in a ring, in as many bits as packed rings need.
pub fn set_vring_base(device: &File, index: u32, base: u32) -> io::Result<()> {
    let argument = VringState { index, num: base }.to_bytes();
    // SAFETY: The kernel reads a `struct vhost_vring_state` from the argument, and its bytes are
    // there.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_SET_VRING_BASE.into(), &argument) })
}

/// Sets where the log of what is written to guest memory is in this process.
pub fn set_log_base(device: &File, base: u64) -> io::Result<()> {
    let argument = base.to_ne_bytes();
    // SAFETY: The kernel reads 64 bits from the argument. What it pins at that address it checks
    // itself.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_SET_LOG_BASE.into(), &argument) })
}

/// Sets for how many microseconds an empty ring may be looked at.
pub fn set_vring_busyloop_timeout(device: &File, index: u32, us: u32) -> io::Result<()> {
    let argument = VringState { index, num: us }.to_bytes();
    // SAFETY: The kernel reads a `struct vhost_vring_state` from the argument, and its bytes are
    // there.
    check(unsafe {
        ioctl_with_ref(
            &device.as_fd(),
            VHOST_SET_VRING_BUSYLOOP_TIMEOUT.into(),
            &argument,
        )
    })
}

/// Returns the features and the configuration space for `disk` with these queues.
pub fn get_config(
    device: &File,
    disk: BorrowedFd<'_>,
    queues: Queues,
) -> io::Result<(Features, [u8; CONFIG_BYTES])> {
    let header = ConfigHeader {
        fd: disk.as_raw_fd(),
        queues: queues.count.into(),
        queue_size: queues.size.into(),
        ..ConfigHeader::default()
    };
    let mut argument = [0; ConfigHeader::BYTES + CONFIG_ROOM];
    argument[..ConfigHeader::BYTES].copy_from_slice(&header.to_bytes());
    // SAFETY: The kernel reads and writes a `struct vhost_blk_config`, which has the argument's
    // size.
    check(unsafe {
        ioctl_with_mut_ref(&device.as_fd(), VHOST_BLK_GET_CONFIG.into(), &mut argument)
    })?;
    let (header, config) = argument
        .split_first_chunk()
        .ok_or(io::ErrorKind::InvalidData)?;
    let features = Features(ConfigHeader::from_bytes(header).features);
    let config = config.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    Ok((features, *config))
}

/// Switches between writing back and writing through.
pub fn set_writeback(device: &File, on: bool) -> io::Result<()> {
    let argument = u32::from(on).to_ne_bytes();
    // SAFETY: The kernel reads 32 bits from the argument.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_SET_WRITEBACK.into(), &argument) })
}

/// Lets the module pin all of guest memory when the memory table is set.
pub fn set_memory_pinned(device: &File) -> io::Result<()> {
    let argument = 1u32.to_ne_bytes();
    // SAFETY: The kernel reads 32 bits from the argument.
    check(unsafe {
        ioctl_with_ref(
            &device.as_fd(),
            VHOST_BLK_SET_MEMORY_PINNED.into(),
            &argument,
        )
    })
}

/// Creates a worker thread, and returns its number.
pub fn new_worker(device: &File) -> io::Result<u32> {
    let mut answer = [0; WorkerState::BYTES];
    // SAFETY: The kernel writes a `struct vhost_worker_state` to the argument, which has its size.
    check(unsafe { ioctl_with_mut_ref(&device.as_fd(), VHOST_NEW_WORKER.into(), &mut answer) })?;
    Ok(WorkerState::from_bytes(&answer).worker_id)
}

/// Lets the worker thread with this number serve queue `index`.
pub fn attach_vring_worker(device: &File, index: u32, worker_id: u32) -> io::Result<()> {
    let argument = VringWorker { index, worker_id }.to_bytes();
    // SAFETY: The kernel reads a `struct vhost_vring_worker` from the argument, and its bytes are
    // there.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_ATTACH_VRING_WORKER.into(), &argument) })
}

/// Makes a vDPA device with this disk.
pub fn vdpa_add(device: &File, disk: BorrowedFd<'_>, argument: VdpaAdd) -> io::Result<()> {
    let argument = VdpaAdd {
        fd: disk.as_raw_fd(),
        ..argument
    }
    .to_bytes();
    // SAFETY: The kernel reads a `struct vhost_blk_vdpa_add` from the argument, and its bytes are
    // there. It takes a reference of its own to the disk.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_VDPA_ADD.into(), &argument) })
}

/// Deletes a vDPA device.
pub fn vdpa_del(device: &File, name: &[u8; VDPA_NAME_BYTES]) -> io::Result<()> {
    let argument = VdpaName { name: *name }.to_bytes();
    // SAFETY: The kernel reads a `struct vhost_blk_vdpa_name` from the argument, and its bytes are
    // there.
    check(unsafe { ioctl_with_ref(&device.as_fd(), VHOST_BLK_VDPA_DEL.into(), &argument) })
}

/// Returns what a vDPA device is, by its place.
pub fn vdpa_get(device: &File, index: u32) -> io::Result<VdpaInfo> {
    let mut argument = VdpaInfo {
        index,
        ..VdpaInfo::default()
    }
    .to_bytes();
    // SAFETY: The kernel reads and writes a `struct vhost_blk_vdpa_info`, which has the argument's
    // size.
    check(unsafe {
        ioctl_with_mut_ref(&device.as_fd(), VHOST_BLK_VDPA_GET.into(), &mut argument)
    })?;
    Ok(VdpaInfo::from_bytes(&argument))
}

/// Returns the counters of a queue of a vDPA device.
pub fn vdpa_stats(device: &File, name: &[u8; VDPA_NAME_BYTES], queue: u32) -> io::Result<Stats> {
    let mut argument = VdpaStats {
        name: *name,
        queue,
        ..VdpaStats::default()
    }
    .to_bytes();
    // SAFETY: The kernel reads and writes a `struct vhost_blk_vdpa_stats`, which has the argument's
    // size.
    check(unsafe {
        ioctl_with_mut_ref(
            &device.as_fd(),
            VHOST_BLK_VDPA_GET_STATS.into(),
            &mut argument,
        )
    })?;
    Ok(VdpaStats::from_bytes(&argument).stats)
}

// SPDX-License-Identifier: GPL-2.0

//! The commands of `/dev/vhost-blk-rs` about vDPA devices.

use super::vdpa_blk::{
    Params,
    VdpaBlk, //
};
use crate::{
    queue::ready::MAX_QUEUES,
    sys::{
        block_file::BlockFile,
        char_device::OpenedFile,
        task::is_admin,
        vdpa::{
            BusDriver,
            VdpaDevice, //
        },
    },
};
use kernel::{
    prelude::*,
    str::CString, //
};
use vblk_core::{
    config::Queues,
    queue::QueueSize,
    uapi::{
        VdpaAdd,
        VdpaInfo,
        VdpaName,
        VdpaStats,
        VDPA_HOST,
        VDPA_NAME_BYTES,
        VDPA_PACKED, //
    },
};

/// Most queues of a device for a VMM: vhost_vdpa allocates those of a device in one piece, and can't
/// have many more.
const MAX_QUEUES_OF_A_VMM: usize = 128;

/// Returns a device to make, as an argument describes it.
///
/// # Errors
///
/// EINVAL when something does not make sense; those of the disk.
pub(crate) fn decode_add(asked: &VdpaAdd) -> Result<(CString, Params)> {
    let name = name(&asked.name)?;
    let count = u16::try_from(asked.queues).map_err(|_| EINVAL)?;
    let size = QueueSize::new(asked.queue_size).ok_or(EINVAL)?;
    let is_plain = asked.flags & !(VDPA_PACKED | VDPA_HOST) == 0 && asked.reserved == [0; 6];
    let most = if asked.flags & VDPA_HOST != 0 {
        MAX_QUEUES
    } else {
        MAX_QUEUES_OF_A_VMM
    };
    if count == 0 || usize::from(count) > most || !is_plain {
        return Err(EINVAL);
    }
    let queues = Queues {
        count,
        size: size.get(),
    };
    let params = Params {
        disk: BlockFile::from_fd(asked.fd)?,
        queues,
        flags: asked.flags,
        serial: asked.serial,
        poll_us: asked.poll_us,
    };
    Ok((name, params))
}

/// Makes a device, which keeps `file` open.
///
/// # Errors
///
/// EEXIST when the name is taken; ENOMEM.
pub(crate) fn add(name: &CStr, params: Params, file: OpenedFile<'_>) -> Result {
    let driver = if params.flags & VDPA_HOST != 0 {
        BusDriver::VirtioVdpa
    } else {
        BusDriver::VhostVdpa
    };
    let queues = u32::from(params.queues.count);
    VdpaDevice::register(name, driver, queues, VdpaBlk::new(params), file.hold())
}

/// Deletes a device.
///
/// # Errors
///
/// EINVAL when this is no name; ENODEV when there is no such device.
pub(crate) fn delete(asked: &VdpaName) -> Result {
    let name = name(&asked.name)?;
    VdpaDevice::<VdpaBlk>::find(&name)
        .ok_or(ENODEV)?
        .unregister()
}

/// Tells about a device.
///
/// # Errors
///
/// EINVAL when the argument is not as it must be; ENOENT when there are not so many; ENOMEM; EINTR when
/// the current task is being killed.
pub(crate) fn info(asked: &VdpaInfo) -> Result<VdpaInfo> {
    if asked.reserved != [0; 2] {
        return Err(EINVAL);
    }
    let device = VdpaDevice::<VdpaBlk>::nth(asked.index).ok_or(ENOENT)?;
    let mut info = device.ops().info()?;
    info.index = asked.index;
    for (to, from) in info.name.iter_mut().zip(device.name()?.to_bytes()) {
        *to = *from;
    }
    Ok(info)
}

/// Tells what was counted on a queue of a device.
///
/// # Errors
///
/// EINVAL when the argument is not as it must be; ENODEV when there is no such device; those of
/// [`VdpaBlk::stats`].
pub(crate) fn stats(asked: &VdpaStats) -> Result<VdpaStats> {
    let name = name(&asked.name)?;
    if asked.reserved != 0 {
        return Err(EINVAL);
    }
    let device = VdpaDevice::<VdpaBlk>::find(&name).ok_or(ENODEV)?;
    let stats = device.ops().stats(asked.queue as usize)?;
    Ok(VdpaStats { stats, ..*asked })
}

/// Returns an error unless the current task may make and delete devices.
///
/// # Errors
///
/// EPERM.
pub(crate) fn check_admin() -> Result {
    if is_admin() {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// Returns a name that is fit for the bus.
fn name(bytes: &[u8; VDPA_NAME_BYTES]) -> Result<CString> {
    let name = CStr::from_bytes_until_nul(bytes).map_err(|_| EINVAL)?;
    let is_file_name = !matches!(name.to_bytes(), b"" | b"." | b"..")
        && name.to_bytes().iter().all(|byte| byte.is_ascii_graphic())
        && !name.to_bytes().contains(&b'/');
    if !is_file_name {
        return Err(EINVAL);
    }
    Ok(CString::try_from(name)?)
}

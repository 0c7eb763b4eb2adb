// SPDX-License-Identifier: GPL-2.0

//! vDPA devices that the module makes, and their nodes in /dev.
//!
//! The module is asked by ioctls of its own, since vDPA's netlink can't name a disk. Which node a
//! device has is in sysfs.

use crate::{
    backend::{self, vhost},
    disk::{Disk, DiskKind},
    errno,
    sys::vhost_blk,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use vblk_core::{
    config::Queues,
    uapi::{Stats, VdpaAdd, VdpaInfo, VDPA_HOST, VDPA_NAME_BYTES, VDPA_PACKED},
};

/// How long a driver may take to make a node.
const PATIENCE: Duration = Duration::from_secs(5);

/// An error about a vDPA device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module is not there, or refused something else.
    #[error(transparent)]
    Module(#[from] backend::Error),
    /// The host said so.
    #[error("{}", errno::text(.0))]
    Host(#[from] io::Error),
    /// Only an administrator may make and delete devices.
    #[error("making and deleting vDPA devices takes CAP_SYS_ADMIN")]
    NotPermitted,
    /// The module has no vDPA devices.
    #[error("the module was built for a kernel without vDPA (CONFIG_VDPA)")]
    NoVdpa,
    /// The name is not fit for a device.
    #[error("{0:?}: a name has 1 to 63 visible ASCII characters, and no '/'")]
    Name(String),
    /// There is a device with the name.
    #[error("{0}: there is a vDPA device with this name")]
    Exists(String),
    /// There is no such device of the module.
    #[error("{0}: the module has no vDPA device with this name")]
    Unknown(String),
    /// The disk is a file.
    #[error("a vDPA device needs a block device (for a file: losetup --direct-io=on)")]
    NotABlockDevice,
    /// No driver made a node.
    #[error("no driver of the vDPA bus took the device: load {0} (modprobe {0})")]
    NoDriver(&'static str),
    /// A VMM or the host uses it.
    #[error("{}: in use", .0.display())]
    InUse(PathBuf),
}

/// Who a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A VMM, which opens /dev/vhost-vdpa-N.
    Guest,
    /// The host itself, which gets /dev/vdX.
    Host,
}

impl User {
    /// Returns the kernel's module that offers a device to it.
    fn driver(self) -> &'static str {
        match self {
            Self::Guest => "vhost_vdpa",
            Self::Host => "virtio_vdpa",
        }
    }
}

/// A device, as the module tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name on the bus.
    pub name: String,
    /// Who it is for.
    pub user: User,
    /// Its disk, if that has a node.
    pub disk: Option<PathBuf>,
    /// Queues, and entries of each.
    pub queues: Queues,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether a driver has begun to use it.
    pub in_use: bool,
}

/// Makes a device, and returns its node.
///
/// # Errors
///
/// See [`Error`]. There is no device then.
pub fn add(
    name: &str,
    disk: &Disk,
    user: User,
    queues: Queues,
    packed: bool,
) -> Result<PathBuf, Error> {
    if disk.kind() != DiskKind::Block {
        return Err(Error::NotABlockDevice);
    }
    let mut flags = 0;
    if packed {
        flags |= VDPA_PACKED;
    }
    if user == User::Host {
        flags |= VDPA_HOST;
    }
    let argument = VdpaAdd {
        flags,
        queues: queues.count.into(),
        queue_size: queues.size.into(),
        serial: *disk.id(),
        name: padded(name)?,
        ..VdpaAdd::default()
    };
    let module = vhost::open_device()?;
    vhost_blk::vdpa_add(&module, disk.file().as_fd(), argument).map_err(|e| refusal(e, name))?;
    let end = Instant::now() + PATIENCE;
    loop {
        // The node may come a moment after the device.
        let node = node(Path::new("/sys"), name).filter(|node| node.exists());
        if let Some(node) = node {
            return Ok(node);
        }
        if Instant::now() >= end {
            let _ = vhost_blk::vdpa_del(&module, &padded(name)?);
            return Err(Error::NoDriver(user.driver()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Deletes a device, unless it is in use.
///
/// # Errors
///
/// See [`Error`].
pub fn delete(name: &str) -> Result<(), Error> {
    let module = vhost::open_device()?;
    let padded = padded(name)?;
    if !devices_of(&module)?
        .iter()
        .any(|device| device.name == name)
    {
        return Err(Error::Unknown(name.to_owned()));
    }
    // The kernel would wait for its user, whatever it takes.
    if let Some(node) = node(Path::new("/sys"), name) {
        check_unused(&node)?;
    }
    vhost_blk::vdpa_del(&module, &padded).map_err(|e| refusal(e, name))
}

/// Returns the devices of the module, in the order in which they were made.
///
/// # Errors
///
/// See [`Error`].
pub fn devices() -> Result<Vec<Device>, Error> {
    devices_of(&vhost::open_device()?)
}

/// Returns the counters of a queue.
///
/// # Errors
///
/// See [`Error`].
pub fn stats(name: &str, queue: u16) -> Result<Stats, Error> {
    let module = vhost::open_device()?;
    vhost_blk::vdpa_stats(&module, &padded(name)?, queue.into()).map_err(|e| refusal(e, name))
}

/// Returns the node of a device below /dev, if a driver has made one: `sys` is where sysfs is.
#[must_use]
pub fn node(sys: &Path, name: &str) -> Option<PathBuf> {
    let device = sys.join("bus/vdpa/devices").join(name);
    let in_dev = |file: &str| Path::new("/dev").join(file);
    entries(&device).into_iter().find_map(|entry| {
        if entry.starts_with("vhost-vdpa-") {
            return Some(in_dev(&entry));
        }
        if entry.starts_with("virtio") {
            let disks = entries(&device.join(entry).join("block"));
            return disks.first().map(|disk| in_dev(disk));
        }
        None
    })
}

/// Returns the most pieces of memory that vhost-vdpa maps for a VMM, if it is there.
pub fn max_mappings() -> Option<u64> {
    let path = "/sys/module/vhost_vdpa/parameters/max_iotlb_entries";
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn devices_of(module: &File) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for index in 0.. {
        let info = match vhost_blk::vdpa_get(module, index) {
            Ok(info) => info,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) => return Err(refusal(e, "")),
        };
        devices.push(device(&info));
    }
    Ok(devices)
}

fn device(info: &VdpaInfo) -> Device {
    let name = info.name.split(|byte| *byte == 0).next();
    let number = format!("/sys/dev/block/{}:{}", info.major, info.minor);
    Device {
        name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        user: match info.flags & VDPA_HOST {
            0 => User::Guest,
            _ => User::Host,
        },
        disk: fs::canonicalize(number)
            .ok()
            .and_then(|path| Some(Path::new("/dev").join(path.file_name()?))),
        queues: Queues {
            count: u16::try_from(info.queues).unwrap_or(u16::MAX),
            size: u16::try_from(info.queue_size).unwrap_or(u16::MAX),
        },
        packed: info.flags & VDPA_PACKED != 0,
        read_only: info.read_only != 0,
        in_use: info.status != 0,
    }
}

/// Returns an error if a VMM has the node open, or the host has the disk in use.
fn check_unused(node: &Path) -> Result<(), Error> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
        .open(node);
    match opened {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(Error::InUse(node.to_owned())),
        // Whatever else there is about it, it is no use by others.
        _ => Ok(()),
    }
}

/// Returns the names in a directory, in order.
fn entries(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Returns a name as the module takes it.
fn padded(name: &str) -> Result<[u8; VDPA_NAME_BYTES], Error> {
    let is_visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    let is_file_name = is_visible && !name.contains('/') && !matches!(name, "" | "." | "..");
    let mut padded = [0; VDPA_NAME_BYTES];
    match padded.get_mut(..name.len()) {
        Some(room) if is_file_name && name.len() < VDPA_NAME_BYTES => {
            room.copy_from_slice(name.as_bytes());
            Ok(padded)
        }
        _ => Err(Error::Name(name.to_owned())),
    }
}

fn refusal(error: io::Error, name: &str) -> Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => Error::NotPermitted,
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => Error::NoVdpa,
        Some(libc::EEXIST) => Error::Exists(name.to_owned()),
        Some(libc::ENODEV) => Error::Unknown(name.to_owned()),
        _ => Error::Host(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_the_driver_that_made_them() {
        let sys = tempfile::tempdir().unwrap();
        let devices = sys.path().join("bus/vdpa/devices");
        fs::create_dir_all(devices.join("a/vhost-vdpa-3")).unwrap();
        fs::create_dir_all(devices.join("b/virtio7/block/vdc")).unwrap();
        fs::create_dir_all(devices.join("c/power")).unwrap();
        fs::create_dir_all(devices.join("d/virtio8")).unwrap();
        let of = |name| node(sys.path(), name);
        assert_eq!(of("a"), Some("/dev/vhost-vdpa-3".into()));
        assert_eq!(of("b"), Some("/dev/vdc".into()));
        for without in ["c", "d", "e"] {
            assert_eq!(of(without), None);
        }
    }

    #[test]
    fn names_are_names_of_files() {
        assert_eq!(padded("vm-1.disk").unwrap()[..10], *b"vm-1.disk\0");
        assert!(padded(&"x".repeat(63)).is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(matches!(padded(bad), Err(Error::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_device_is_told_as_the_module_tells_it() {
        let mut info = VdpaInfo {
            flags: VDPA_PACKED | VDPA_HOST,
            queues: 2,
            queue_size: 128,
            status: 15,
            read_only: 1,
            ..VdpaInfo::default()
        };
        info.name[..3].copy_from_slice(b"vm1");
        let told = device(&info);
        assert_eq!(told.name, "vm1");
        assert_eq!(told.user, User::Host);
        assert_eq!((told.queues.count, told.queues.size), (2, 128));
        assert!(told.packed && told.read_only && told.in_use);
        info.flags = 0;
        assert_eq!(device(&info).user, User::Guest);
        assert!(!device(&info).packed);
    }
}

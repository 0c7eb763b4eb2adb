// SPDX-License-Identifier: GPL-2.0

//! vDPA devices that the module makes, and their nodes in /dev.
//!
//! The module is asked by ioctls of its own, since vDPA's netlink can't name a disk. Which node a
//! device has is in sysfs.

use crate::{
    backend::{self, vhost, Tuning},
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

/// Where sysfs is.
const SYS: &str = "/sys";
/// How long a driver may take to make a node.
const PATIENCE: Duration = Duration::from_secs(5);

/// An error about a vDPA device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no device node of the module.
    #[error("no /dev/vhost-blk-rs: load the module vhost_blk_rs")]
    NoModule,
    /// The device node of the module can't be opened.
    #[error(transparent)]
    Module(backend::Error),
    /// The module refused a command in another way.
    #[error("{command}: {}", errno::text(.cause))]
    Refused {
        /// Which one.
        command: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// Only an administrator may make and delete devices.
    #[error("making and deleting vDPA devices takes CAP_SYS_ADMIN: run this as root")]
    NotPermitted,
    /// The module has no vDPA devices.
    #[error("the module was built for a kernel without vDPA (CONFIG_VDPA)")]
    NoVdpa,
    /// The module is older than its vDPA devices.
    #[error("the loaded module is too old for vDPA devices: load a newer vhost_blk_rs")]
    OldModule,
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
    /// The disk is zoned.
    #[error("a zoned disk, which the module does not serve")]
    Zoned,
    /// No driver offered the device to its user.
    #[error("no driver took the vDPA device: load {0} (modprobe -a {0}); if it is loaded, dmesg may tell why")]
    NoDriver(&'static str),
    /// A driver offered the device, and its node is not in /dev.
    #[error("{}: the kernel has this node, and /dev does not: run this where /dev is the host's", .0.display())]
    NoNode(PathBuf),
    /// A VMM or the host uses it.
    #[error("{}: in use by {user}", node.display())]
    InUse {
        /// The node that is in use.
        node: PathBuf,
        /// Who uses it.
        user: &'static str,
    },
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
    /// Returns the kernel's modules that offer a device to it.
    fn drivers(self) -> &'static str {
        match self {
            Self::Guest => "vhost_vdpa",
            Self::Host => "virtio_vdpa virtio_blk",
        }
    }

    /// Returns what keeps its node open.
    fn text(self) -> &'static str {
        match self {
            Self::Guest => "a VMM",
            Self::Host => "the host (mounted, or part of a volume)",
        }
    }
}

/// The name of a device on the vDPA bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Returns `text` as a name.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] unless it is fit for a directory of sysfs.
    pub fn new(text: &str) -> Result<Self, Error> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_file_name = is_visible && !text.contains('/') && !matches!(text, "" | "." | "..");
        if is_file_name && text.len() < VDPA_NAME_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Name(text.to_owned()))
        }
    }

    /// Returns the name as the module takes it, padded with zeroes.
    fn padded(&self) -> [u8; VDPA_NAME_BYTES] {
        let mut padded = [0; VDPA_NAME_BYTES];
        for (to, from) in padded.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        padded
    }
}

/// A device, as the module tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name on the bus.
    pub name: String,
    /// Who it is for.
    pub user: User,
    /// Its node, if a driver has made one.
    pub node: Option<PathBuf>,
    /// Its disk, if that has a node.
    pub disk: Option<PathBuf>,
    /// Queues, and entries of each.
    pub queues: Queues,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether a driver has begun to use it. A VMM may have it open before.
    pub in_use: bool,
    /// Microseconds for which a thread of the module may look at an empty ring.
    pub poll_us: u32,
}

/// How a device is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who it is for.
    pub user: User,
    /// Queues, and most entries of each.
    pub queues: Queues,
    /// Offer packed rings.
    pub packed: bool,
    /// Microseconds for which a thread of the module may look at an empty ring; 0: not at all.
    pub poll_us: u32,
}

/// Makes a device, and returns its node.
///
/// # Errors
///
/// See [`Error`]. There is no device then.
pub fn add(name: &Name, disk: &Disk, options: &Options) -> Result<PathBuf, Error> {
    let Options {
        user,
        queues,
        packed,
        poll_us,
    } = *options;
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
        name: name.padded(),
        poll_us,
        ..VdpaAdd::default()
    };
    let module = open_module()?;
    check_version(&module, poll_us)?;
    vhost_blk::vdpa_add(&module, disk.file().as_fd(), argument).map_err(|e| {
        match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) if has_vdpa(&module) => Error::Zoned,
            _ => refusal_of("VHOST_BLK_VDPA_ADD", name, e),
        }
    })?;
    wait_for_node(name, user).inspect_err(|_| {
        let _ = vhost_blk::vdpa_del(&module, &name.padded());
    })
}

/// Refuses to poll where the module is too old for it.
fn check_version(module: &File, poll_us: u32) -> Result<(), Error> {
    let tuning = Tuning {
        poll_us,
        ..Tuning::default()
    };
    let info = vhost_blk::get_info(module).map_err(|e| Error::Module(backend::Error::Module(e)))?;
    vhost::check_version(info.version, tuning).map_err(Error::Module)
}

/// Waits for the node of a new device, which may come a moment later than the device.
fn wait_for_node(name: &Name, user: User) -> Result<PathBuf, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        let node = node(Path::new(SYS), &name.0);
        match node {
            Some(node) if node.exists() => return Ok(node),
            Some(node) if Instant::now() >= end => return Err(Error::NoNode(node)),
            None if Instant::now() >= end => return Err(Error::NoDriver(user.drivers())),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Deletes a device, unless it is in use.
///
/// # Errors
///
/// See [`Error`].
pub fn delete(name: &Name) -> Result<(), Error> {
    let module = open_module()?;
    let device = find(&module, name)?;
    // The kernel would wait for its user, whatever it takes.
    if let Some(node) = device.node {
        check_unused(node, device.user)?;
    }
    vhost_blk::vdpa_del(&module, &name.padded())
        .map_err(|e| refusal_of("VHOST_BLK_VDPA_DEL", name, e))
}

/// Returns the devices of the module, in the order in which they were made.
///
/// # Errors
///
/// See [`Error`].
pub fn devices() -> Result<Vec<Device>, Error> {
    devices_of(&open_module()?)
}

/// Returns the counters of each queue of a device, in their order.
///
/// # Errors
///
/// See [`Error`].
pub fn stats(name: &Name) -> Result<Vec<Stats>, Error> {
    let module = open_module()?;
    let device = find(&module, name)?;
    (0..device.queues.count.into())
        .map(|queue| {
            vhost_blk::vdpa_stats(&module, &name.padded(), queue)
                .map_err(|e| refusal_of("VHOST_BLK_VDPA_GET_STATS", name, e))
        })
        .collect()
}

/// Returns the node of a device below /dev, if a driver has made one: `sys` is where sysfs is.
fn node(sys: &Path, name: &str) -> Option<PathBuf> {
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

/// Returns the disk with a device number, below /dev: `sys` is where sysfs is.
fn disk(sys: &Path, major: u32, minor: u32) -> Option<PathBuf> {
    let link = sys.join(format!("dev/block/{major}:{minor}"));
    let directory = fs::canonicalize(link).ok()?;
    // A '/' of the name, as in cciss/c0d0, is a '!' in sysfs.
    let name = directory.file_name()?.to_str()?.replace('!', "/");
    Some(Path::new("/dev").join(name))
}

/// Opens the module's device.
fn open_module() -> Result<File, Error> {
    vhost::open_device().map_err(|e| match e {
        backend::Error::NoModule => Error::NoModule,
        e => Error::Module(e),
    })
}

fn has_vdpa(module: &File) -> bool {
    vhost_blk::get_info(module).is_ok_and(|info| info.has_vdpa != 0)
}

fn find(module: &File, name: &Name) -> Result<Device, Error> {
    let device = devices_of(module)?
        .into_iter()
        .find(|device| device.name == name.0);
    device.ok_or_else(|| Error::Unknown(name.0.clone()))
}

fn devices_of(module: &File) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for index in 0.. {
        let info = match vhost_blk::vdpa_get(module, index) {
            Ok(info) => info,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) => return Err(refusal("VHOST_BLK_VDPA_GET", e)),
        };
        devices.push(device(Path::new(SYS), &info));
    }
    Ok(devices)
}

fn device(sys: &Path, info: &VdpaInfo) -> Device {
    let name = info.name.split(|byte| *byte == 0).next();
    let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
    Device {
        user: match info.flags & VDPA_HOST {
            0 => User::Guest,
            _ => User::Host,
        },
        node: node(sys, &name),
        name,
        disk: disk(sys, info.major, info.minor),
        queues: Queues {
            count: u16::try_from(info.queues).unwrap_or(u16::MAX),
            size: u16::try_from(info.queue_size).unwrap_or(u16::MAX),
        },
        packed: info.flags & VDPA_PACKED != 0,
        read_only: info.read_only != 0,
        in_use: info.status != 0,
        poll_us: info.poll_us,
    }
}

/// Returns an error if a VMM has the node open, or the host has the disk in use. The node is closed
/// again: the kernel would wait for that before it deletes the device.
fn check_unused(node: PathBuf, user: User) -> Result<(), Error> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
        .open(&node);
    match opened {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(Error::InUse {
            node,
            user: user.text(),
        }),
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

/// Returns what the module's refusal of a command about a device means.
fn refusal_of(command: &'static str, name: &Name, cause: io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::EEXIST) => Error::Exists(name.0.clone()),
        Some(libc::ENODEV) => Error::Unknown(name.0.clone()),
        _ => refusal(command, cause),
    }
}

/// Returns what the module's refusal of any command about vDPA means.
fn refusal(command: &'static str, cause: io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::EPERM) => Error::NotPermitted,
        Some(libc::EOPNOTSUPP) => Error::NoVdpa,
        Some(libc::ENOTTY) => Error::OldModule,
        _ => Error::Refused { command, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A sysfs with these directories.
    fn sysfs(directories: &[&str]) -> TempDir {
        let sys = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(sys.path().join(directory)).unwrap();
        }
        sys
    }

    #[test]
    fn nodes_are_found_by_the_driver_that_made_them() {
        let sys = sysfs(&[
            "bus/vdpa/devices/a/vhost-vdpa-3",
            "bus/vdpa/devices/a/power",
            "bus/vdpa/devices/b/virtio7/block/vdc",
            "bus/vdpa/devices/c/power",
            "bus/vdpa/devices/d/virtio8",
        ]);
        let of = |name| node(sys.path(), name);
        assert_eq!(of("a"), Some("/dev/vhost-vdpa-3".into()));
        assert_eq!(of("b"), Some("/dev/vdc".into()));
        for without in ["c", "d", "e"] {
            assert_eq!(of(without), None);
        }
    }

    #[test]
    fn a_disk_is_found_by_its_number() {
        let sys = sysfs(&["block/loop0", "block/cciss!c0d0", "dev/block"]);
        for (number, name) in [("7:0", "loop0"), ("104:0", "cciss!c0d0"), ("8:0", "gone")] {
            let link = sys.path().join("dev/block").join(number);
            symlink(format!("../../block/{name}"), link).unwrap();
        }
        let of = |major, minor| disk(sys.path(), major, minor);
        assert_eq!(of(7, 0), Some("/dev/loop0".into()));
        assert_eq!(of(104, 0), Some("/dev/cciss/c0d0".into()));
        assert_eq!(of(8, 0), None);
        assert_eq!(of(7, 1), None);
    }

    #[test]
    fn names_are_names_of_files() {
        let name = Name::new("vm-1.disk").unwrap();
        assert_eq!(name.padded()[..10], *b"vm-1.disk\0");
        let longest = Name::new(&"x".repeat(63)).unwrap();
        assert_eq!(longest.padded()[63], 0);
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(matches!(Name::new(bad), Err(Error::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_device_is_told_as_the_module_tells_it() {
        let sys = sysfs(&["bus/vdpa/devices/vm1/virtio0/block/vda"]);
        let mut info = VdpaInfo {
            flags: VDPA_PACKED | VDPA_HOST,
            queues: 2,
            queue_size: 128,
            status: 15,
            read_only: 1,
            ..VdpaInfo::default()
        };
        info.name[..3].copy_from_slice(b"vm1");
        let told = device(sys.path(), &info);
        assert_eq!(told.name, "vm1");
        assert_eq!(told.user, User::Host);
        assert_eq!(told.node, Some("/dev/vda".into()));
        assert_eq!(told.disk, None);
        assert_eq!((told.queues.count, told.queues.size), (2, 128));
        assert!(told.packed && told.read_only && told.in_use);
        info.flags = 0;
        info.status = 0;
        info.read_only = 0;
        let told = device(sys.path(), &info);
        assert_eq!(told.user, User::Guest);
        assert!(!told.packed && !told.read_only && !told.in_use);
    }

    #[test]
    fn a_node_that_is_not_open_is_unused() {
        let node = tempfile::NamedTempFile::new().unwrap();
        assert!(check_unused(node.path().to_owned(), User::Guest).is_ok());
        assert!(check_unused("/dev/none".into(), User::Host).is_ok());
    }

    #[test]
    fn refusals_name_cause_and_remedy() {
        let name = Name::new("vm1").unwrap();
        let text = |errno| {
            let cause = io::Error::from_raw_os_error(errno);
            refusal_of("VHOST_BLK_VDPA_ADD", &name, cause).to_string()
        };
        assert_eq!(
            text(libc::EPERM),
            "making and deleting vDPA devices takes CAP_SYS_ADMIN: run this as root"
        );
        assert_eq!(
            text(libc::EOPNOTSUPP),
            "the module was built for a kernel without vDPA (CONFIG_VDPA)"
        );
        assert_eq!(
            text(libc::ENOTTY),
            "the loaded module is too old for vDPA devices: load a newer vhost_blk_rs"
        );
        assert_eq!(
            text(libc::EEXIST),
            "vm1: there is a vDPA device with this name"
        );
        assert_eq!(
            text(libc::ENODEV),
            "vm1: the module has no vDPA device with this name"
        );
        assert_eq!(
            text(libc::ENOMEM),
            "VHOST_BLK_VDPA_ADD: Cannot allocate memory"
        );
    }

    #[test]
    fn missing_drivers_are_named_for_each_user() {
        let text = |user: User| Error::NoDriver(user.drivers()).to_string();
        assert_eq!(
            text(User::Guest),
            "no driver took the vDPA device: load vhost_vdpa (modprobe -a vhost_vdpa); if it is loaded, \
             dmesg may tell why"
        );
        assert_eq!(
            text(User::Host),
            "no driver took the vDPA device: load virtio_vdpa virtio_blk (modprobe -a virtio_vdpa \
             virtio_blk); if it is loaded, dmesg may tell why"
        );
    }
}

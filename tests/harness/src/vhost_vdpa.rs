// SPDX-License-Identifier: GPL-2.0

//! vDPA devices, and `/dev/vhost-vdpa-N` with its ioctls, one method each.

use crate::{
    disk::Disk,
    sys::{ioctl, Errno},
};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use vblk_core::uapi::{
    self, MemoryRegion, Stats, VdpaAdd, VdpaInfo, VdpaName, VdpaStats, VringAddr, VringFile,
    VringState, VDPA_NAME_BYTES,
};

// Of <linux/vhost.h>.
const GET_STATUS: u32 = 0x8001_AF71;
const SET_STATUS: u32 = 0x4001_AF72;
const GET_CONFIG: u32 = 0x8008_AF73;
const SET_CONFIG: u32 = 0x4008_AF74;
const SET_VRING_ENABLE: u32 = 0x4008_AF75;
const SET_CONFIG_CALL: u32 = 0x4004_AF77;
const SUSPEND: u32 = 0xAF7D;
const RESUME: u32 = 0xAF7E;

/// `VHOST_BACKEND_F_IOTLB_MSG_V2`, `_SUSPEND`, `_RESUME`, `_ENABLE_AFTER_DRIVER_OK`, by number.
const BACKEND_FEATURES: u64 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6;

/// How long a driver may take to make a node.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bits of the device status (virtio 1.2, 2.1).
pub mod status {
    /// ACKNOWLEDGE and DRIVER.
    pub const DRIVER: u8 = 1 | 2;
    /// DRIVER_OK.
    pub const DRIVER_OK: u8 = 4;
    /// FEATURES_OK.
    pub const FEATURES_OK: u8 = 8;
    /// DEVICE_NEEDS_RESET.
    pub const NEEDS_RESET: u8 = 64;
}

/// The way in which the device may access a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read = 1,
    /// Read and write.
    ReadWrite = 3,
}

/// A vDPA device of the module. It is deleted with this value.
///
/// It is no user of the module: each command opens that anew.
pub struct VdpaDevice {
    name: String,
}

impl VdpaDevice {
    /// Makes a device with this disk, as `add` says, under a name that no other has.
    pub fn new(disk: &File, add: VdpaAdd) -> Result<Self, Errno> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vblk-test-{}", COUNT.fetch_add(1, Relaxed));
        make(&module()?, &name, disk, add)?;
        Ok(Self { name })
    }

    /// Tries to make another device under the same name.
    pub fn make_again(&self, module: &File, disk: &File, add: VdpaAdd) -> Result<(), Errno> {
        make(module, &self.name, disk, add)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a directory below the device's in sysfs whose name begins so, and returns its
    /// path.
    pub fn directory(&self, prefix: &str) -> Result<PathBuf, Errno> {
        until_there(|| self.directory_now(prefix))
    }

    /// Does the same without waiting.
    fn directory_now(&self, prefix: &str) -> Result<Option<PathBuf>, Errno> {
        let device = Path::new("/sys/bus/vdpa/devices").join(&self.name);
        let mut entries = fs::read_dir(&device)?.flatten().map(|entry| entry.path());
        Ok(entries.find(|path| {
            path.file_name()
                .is_some_and(|it| it.to_string_lossy().starts_with(prefix))
        }))
    }

    /// Returns whether the host has a virtio device of it, with a driver or without.
    pub fn is_of_virtio(&self) -> Result<bool, Errno> {
        Ok(self.directory_now("virtio")?.is_some())
    }

    /// Has the host's own driver try once more, which could not have it.
    pub fn bind_again(&self) -> Result<(), Errno> {
        let virtio = self.directory("virtio")?;
        let name = virtio.file_name().unwrap_or_default();
        Ok(fs::write(
            "/sys/bus/virtio/drivers/virtio_blk/bind",
            name.as_encoded_bytes(),
        )?)
    }

    /// Returns the disk that the host's own driver has made of it, if it has, and its name.
    pub fn host_disk(&self) -> Result<Option<(Disk, String)>, Errno> {
        let Some(virtio) = self.directory_now("virtio")? else {
            return Ok(None);
        };
        let mut disks = fs::read_dir(virtio.join("block")).into_iter().flatten();
        let Some(Ok(entry)) = disks.next() else {
            return Ok(None);
        };
        let node = Path::new("/dev").join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok(node.exists().then(|| (Disk::at(node), name)))
    }

    /// Returns its /dev/vhost-vdpa-N.
    pub fn node(&self) -> Result<PathBuf, Errno> {
        let directory = self.directory("vhost-vdpa-")?;
        Ok(Path::new("/dev").join(directory.file_name().unwrap_or_default()))
    }

    /// Opens its /dev/vhost-vdpa-N, and becomes its owner.
    pub fn open(&self) -> Result<VhostVdpa, Errno> {
        let node = VhostVdpa::open(&self.node()?)?;
        node.set_owner()?;
        Ok(node)
    }

    /// VHOST_BLK_VDPA_GET_STATS.
    pub fn stats(&self, queue: u32) -> Result<Stats, Errno> {
        stats(&self.name, queue)
    }

    /// VHOST_BLK_VDPA_DEL. The value's end does the same.
    pub fn delete(&self) -> Result<(), Errno> {
        delete(&module()?, &self.name)
    }
}

impl Drop for VdpaDevice {
    fn drop(&mut self) {
        // A test may have deleted it.
        let _ = self.delete();
    }
}

/// Opens the module's device.
pub fn module() -> Result<File, Errno> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/vhost-blk-rs")?)
}

fn make(module: &File, name: &str, disk: &File, add: VdpaAdd) -> Result<(), Errno> {
    let add = VdpaAdd {
        fd: disk.as_raw_fd(),
        name: padded(name),
        ..add
    };
    ioctl::with_bytes(module, uapi::VHOST_BLK_VDPA_ADD, &mut add.to_bytes()).map(drop)
}

/// VHOST_BLK_VDPA_GET_STATS of the device of that name.
pub fn stats(name: &str, queue: u32) -> Result<Stats, Errno> {
    let mut bytes = VdpaStats {
        name: padded(name),
        queue,
        ..VdpaStats::default()
    }
    .to_bytes();
    ioctl::with_bytes(module()?, uapi::VHOST_BLK_VDPA_GET_STATS, &mut bytes)?;
    Ok(VdpaStats::from_bytes(&bytes).stats)
}

/// VHOST_BLK_VDPA_GET of the first device.
pub fn info() -> Result<VdpaInfo, Errno> {
    let mut bytes = VdpaInfo::default().to_bytes();
    ioctl::with_bytes(module()?, uapi::VHOST_BLK_VDPA_GET, &mut bytes)?;
    Ok(VdpaInfo::from_bytes(&bytes))
}

/// VHOST_BLK_VDPA_DEL.
pub fn delete(module: &File, name: &str) -> Result<(), Errno> {
    let mut argument = VdpaName { name: padded(name) }.to_bytes();
    ioctl::with_bytes(module, uapi::VHOST_BLK_VDPA_DEL, &mut argument).map(drop)
}

/// Returns a name as an argument has it.
fn padded(name: &str) -> [u8; VDPA_NAME_BYTES] {
    let mut padded = [0; VDPA_NAME_BYTES];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// An open `/dev/vhost-vdpa-N`. No sequence is implied.
pub struct VhostVdpa {
    file: File,
}

impl VhostVdpa {
    /// Opens a node.
    pub fn open(node: &Path) -> Result<Self, Errno> {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        Ok(Self { file })
    }

    /// Any command with any argument of sufficient length.
    pub fn call(&self, command: u32, argument: &mut [u8]) -> Result<i32, Errno> {
        ioctl::with_bytes(&self.file, command, argument)
    }

    fn set(&self, command: u32, argument: &[u8]) -> Result<(), Errno> {
        self.call(command, &mut argument.to_vec()).map(drop)
    }

    /// VHOST_SET_OWNER, and the back-end features that the harness uses.
    pub fn set_owner(&self) -> Result<(), Errno> {
        ioctl::plain(&self.file, ioctl::Plain::SetOwner, 0)?;
        let features = BACKEND_FEATURES.to_ne_bytes();
        self.set(uapi::VHOST_SET_BACKEND_FEATURES, &features)
    }

    /// VHOST_VDPA_GET_STATUS.
    pub fn status(&self) -> Result<u8, Errno> {
        let mut status = [0xA5];
        self.call(GET_STATUS, &mut status)?;
        Ok(status[0])
    }

    /// VHOST_VDPA_SET_STATUS.
    pub fn set_status(&self, status: u8) -> Result<(), Errno> {
        self.set(SET_STATUS, &[status])
    }

    /// VHOST_GET_FEATURES.
    pub fn features(&self) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.call(uapi::VHOST_GET_FEATURES, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// VHOST_SET_FEATURES.
    pub fn set_features(&self, features: u64) -> Result<(), Errno> {
        self.set(uapi::VHOST_SET_FEATURES, &features.to_ne_bytes())
    }

    /// VHOST_VDPA_GET_CONFIG.
    pub fn config(&self, offset: u32, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = config_header(offset, len);
        bytes.resize(8 + len, 0xA5);
        self.call(GET_CONFIG, &mut bytes)?;
        Ok(bytes.split_off(8))
    }

    /// VHOST_VDPA_SET_CONFIG.
    pub fn set_config(&self, offset: u32, from: &[u8]) -> Result<(), Errno> {
        let mut bytes = config_header(offset, from.len());
        bytes.extend(from);
        self.set(SET_CONFIG, &bytes)
    }

    /// VHOST_VDPA_SET_VRING_ENABLE.
    pub fn enable(&self, index: u32, on: bool) -> Result<(), Errno> {
        let state = VringState {
            index,
            num: on.into(),
        };
        self.set(SET_VRING_ENABLE, &state.to_bytes())
    }

    /// VHOST_SET_VRING_NUM.
    pub fn set_num(&self, index: u32, num: u32) -> Result<(), Errno> {
        let state = VringState { index, num };
        self.set(uapi::VHOST_SET_VRING_NUM, &state.to_bytes())
    }

    /// VHOST_SET_VRING_BASE.
    pub fn set_base(&self, index: u32, num: u32) -> Result<(), Errno> {
        let state = VringState { index, num };
        self.set(uapi::VHOST_SET_VRING_BASE, &state.to_bytes())
    }

    /// VHOST_GET_VRING_BASE.
    pub fn base(&self, index: u32) -> Result<u32, Errno> {
        let mut bytes = VringState { index, num: 0 }.to_bytes();
        self.call(uapi::VHOST_GET_VRING_BASE, &mut bytes)?;
        Ok(VringState::from_bytes(&bytes).num)
    }

    /// VHOST_SET_VRING_ADDR, with IO virtual addresses.
    pub fn set_addr(&self, addr: &VringAddr) -> Result<(), Errno> {
        self.set(uapi::VHOST_SET_VRING_ADDR, &addr.to_bytes())
    }

    /// VHOST_SET_VRING_KICK or VHOST_SET_VRING_CALL.
    pub fn set_file(&self, command: u32, index: u32, fd: i32) -> Result<(), Errno> {
        self.set(command, &VringFile { index, fd }.to_bytes())
    }

    /// VHOST_VDPA_SET_CONFIG_CALL.
    pub fn set_config_call(&self, fd: i32) -> Result<(), Errno> {
        self.set(SET_CONFIG_CALL, &fd.to_ne_bytes())
    }

    /// VHOST_VDPA_SUSPEND.
    pub fn suspend(&self) -> Result<(), Errno> {
        self.set(SUSPEND, &[])
    }

    /// VHOST_VDPA_RESUME.
    pub fn resume(&self) -> Result<(), Errno> {
        self.set(RESUME, &[])
    }

    /// Maps a range of memory of the harness (VHOST_IOTLB_UPDATE).
    pub fn map(&self, region: &MemoryRegion, access: Access) -> Result<(), Errno> {
        self.message(region, access as u8, 2)
    }

    /// Unmaps a range (VHOST_IOTLB_INVALIDATE).
    pub fn unmap(&self, region: &MemoryRegion) -> Result<(), Errno> {
        self.message(region, 0, 3)
    }

    /// Writes a `struct vhost_msg_v2`.
    fn message(&self, region: &MemoryRegion, access: u8, kind: u8) -> Result<(), Errno> {
        const MSG_V2: u32 = 2;
        let mut message = MSG_V2.to_ne_bytes().to_vec();
        // The address space.
        message.extend(0u32.to_ne_bytes());
        message.extend(region.guest_phys_addr.to_ne_bytes());
        message.extend(region.memory_size.to_ne_bytes());
        message.extend(region.userspace_addr.to_ne_bytes());
        message.extend([access, kind]);
        message.resize(72, 0);
        (&self.file).write_all(&message)?;
        Ok(())
    }
}

/// Looks for something until it is there, for some time.
pub fn until_there<T>(find: impl Fn() -> Result<Option<T>, Errno>) -> Result<T, Errno> {
    let end = Instant::now() + PATIENCE;
    loop {
        match find()? {
            Some(found) => return Ok(found),
            None if Instant::now() >= end => return Err(Errno(libc::ENOENT)),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn config_header(offset: u32, len: usize) -> Vec<u8> {
    let mut bytes = offset.to_ne_bytes().to_vec();
    bytes.extend((len as u32).to_ne_bytes());
    bytes
}

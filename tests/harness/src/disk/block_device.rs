// SPDX-License-Identifier: GPL-2.0

//! A block device of any kind: made, opened, looked at, removed.

use super::{
    dm::{self, Delays, Target},
    held::{still_held, HELD},
    image, loopdev,
    node::{open, wait_for, Mode, RAM, SECOND_RAM},
    null::{self, NullBlk},
    partition,
    test_disk::{self, TestDisk},
};
use crate::sys::Errno;
use std::{
    fs::File,
    io::{Seek, SeekFrom},
    os::{linux::fs::MetadataExt, unix::fs::FileExt},
    path::{Path, PathBuf},
};

/// The means by which a disk was made, which go away with it.
pub(super) enum Origin {
    Permanent,
    Null(null::Instance),
    Loop(loopdev::Instance),
    Image(image::Instance),
    Mapped(dm::Instance),
    Partition(partition::Instance),
    Test(test_disk::Instance),
}

/// A block device.
pub struct Disk {
    pub(super) path: PathBuf,
    pub(super) origin: Origin,
}

impl Disk {
    /// The ramdisk (brd): bio-based, completes within the submission.
    pub fn ram() -> Self {
        Self {
            path: RAM.into(),
            origin: Origin::Permanent,
        }
    }

    /// Another ramdisk.
    pub fn second_ram() -> Self {
        Self {
            path: SECOND_RAM.into(),
            origin: Origin::Permanent,
        }
    }

    /// A disk that something else made.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            origin: Origin::Permanent,
        }
    }

    /// A null_blk disk that keeps what is written: request-based, with a choice of completion.
    pub fn null(options: &NullBlk) -> Result<Self, Errno> {
        let instance = null::Instance::new(options)?;
        let path = instance.node();
        wait_for(&path)?;
        let origin = Origin::Null(instance);
        Ok(Self { path, origin })
    }

    /// A loop device over a file in memory: completes in a worker thread, and can really flush.
    pub fn looped(bytes: u64) -> Result<Self, Errno> {
        let instance = loopdev::Instance::new(bytes)?;
        let path = instance.node();
        let origin = Origin::Loop(instance);
        Ok(Self { path, origin })
    }

    /// A disk image on ext4 on another ramdisk, behind a loop device with direct I/O.
    pub fn image(bytes: u64) -> Result<Self, Errno> {
        let instance = image::Instance::new(SECOND_RAM, bytes)?;
        let path = instance.node();
        let origin = Origin::Image(instance);
        Ok(Self { path, origin })
    }

    /// dm-delay over the ramdisk: each request is submitted some milliseconds later by another
    /// thread, or without delay in place, and completes there.
    pub fn delayed(bytes: u64, delays: Delays) -> Result<Self, Errno> {
        Self::mapped(&[Target::delay(Path::new(RAM), bytes / 512, delays)])
    }

    /// A mapped device of these targets, one behind the other.
    pub fn mapped(targets: &[Target]) -> Result<Self, Errno> {
        let instance = dm::Instance::new(targets)?;
        let path = instance.node();
        wait_for(&path)?;
        let origin = Origin::Mapped(instance);
        Ok(Self { path, origin })
    }

    /// dm-linear over a part of another disk.
    pub fn part(below: &Disk, sector: u64, bytes: u64) -> Result<Self, Errno> {
        Self::mapped(&[Target::linear(&below.path, sector, bytes / 512)])
    }

    /// A partition of another disk, which it must not outlive.
    pub fn partition(&self, sector: u64, bytes: u64) -> Result<Self, Errno> {
        let instance = partition::Instance::new(&self.path, sector * 512, bytes)?;
        let path = instance.node();
        wait_for(&path)?;
        let origin = Origin::Partition(instance);
        Ok(Self { path, origin })
    }

    /// Our own, which counts what reaches it, and can erase. One at a time.
    pub fn counting(options: &TestDisk) -> Result<Self, Errno> {
        let instance = test_disk::Instance::new(options)?;
        let path = instance.node();
        wait_for(&path)?;
        let origin = Origin::Test(instance);
        Ok(Self { path, origin })
    }

    /// Gives it another size while it is in use.
    ///
    /// # Panics
    ///
    /// If the disk is neither mapped nor a loop device over a file in memory.
    pub fn resize(&self, bytes: u64) -> Result<(), Errno> {
        match &self.origin {
            Origin::Loop(instance) => instance.resize(bytes),
            Origin::Mapped(instance) => instance.resize(bytes / 512),
            _ => panic!("{} has one size", self.path.display()),
        }
    }

    /// The device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for a device to serve: exclusively, so that a user that keeps the file open longer
    /// than it should is found out.
    pub fn open(&self, mode: Mode) -> Result<File, Errno> {
        open(&self.path, mode, libc::O_EXCL)
    }

    /// Opens it beside another user, past the page cache.
    pub fn open_direct(&self) -> Result<File, Errno> {
        open(&self.path, Mode::ReadWrite, libc::O_DIRECT)
    }

    /// Returns its size in bytes.
    pub fn bytes(&self) -> Result<u64, Errno> {
        let mut file = open(&self.path, Mode::ReadOnly, 0)?;
        Ok(file.seek(SeekFrom::End(0))?)
    }

    /// Bytes of a logical block.
    pub fn block_size(&self) -> Result<u64, Errno> {
        let name = self.path.file_name().unwrap_or_default();
        let path = Path::new("/sys/class/block")
            .join(name)
            .join("queue/logical_block_size");
        std::fs::read_to_string(path)?
            .trim()
            .parse()
            .map_err(|_| Errno::EINVAL)
    }

    /// Returns the unit in which data buffers for it may be placed and cut.
    ///
    /// null_blk of Linux 7.2 claims that it takes any alignment, but its memory-backed store marks
    /// only the first sector of each vector of a request as written, and goes on by whole sectors:
    /// buffers that are cut within a block lose data there, those of any O_DIRECT user too.
    pub fn safe_alignment(&self) -> Result<u64, Errno> {
        match self.origin {
            Origin::Null(_) => self.block_size(),
            _ => Ok(1),
        }
    }

    /// A limit of its queue, as sysfs tells it.
    pub fn queue_limit(&self, name: &str) -> Result<u64, Errno> {
        let text = self.sysfs(&format!("queue/{name}"))?;
        Ok(text.trim().parse().expect("a number"))
    }

    /// Returns how many reads and writes were merged with neighbours: the 2nd and the 6th number of
    /// its statistics.
    pub fn merged(&self) -> Result<u64, Errno> {
        let stat = self.sysfs("stat")?;
        let numbers: Vec<u64> = stat
            .split_whitespace()
            .map(|number| number.parse().expect("a number"))
            .collect();
        Ok(numbers[1] + numbers[5])
    }

    /// The text of one of its files in sysfs.
    pub fn sysfs(&self, name: &str) -> Result<String, Errno> {
        Ok(std::fs::read_to_string(self.sysfs_path(name)?)?)
    }

    pub(super) fn sysfs_path(&self, name: &str) -> Result<PathBuf, Errno> {
        let (major, minor) = self.major_minor()?;
        Ok(format!("/sys/dev/block/{major}:{minor}/{name}").into())
    }

    /// Returns its device number.
    pub(super) fn major_minor(&self) -> Result<(u32, u32), Errno> {
        let dev = std::fs::metadata(&self.path)?.st_rdev();
        Ok((libc::major(dev), libc::minor(dev)))
    }

    /// Reads from `offset` on, past the page cache. Both in whole blocks.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        const ALIGN: usize = 4096;
        let file = self.open_direct()?;
        let mut buffer = vec![0; len + ALIGN];
        let start = buffer.as_ptr().align_offset(ALIGN);
        file.read_exact_at(&mut buffer[start..start + len], offset)?;
        buffer.truncate(start + len);
        Ok(buffer.split_off(start))
    }

    /// Writes past the page cache. Both in whole blocks.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        const ALIGN: usize = 4096;
        let file = self.open_direct()?;
        let mut buffer = vec![0; bytes.len() + ALIGN];
        let start = buffer.as_ptr().align_offset(ALIGN);
        let aligned = &mut buffer[start..start + bytes.len()];
        aligned.copy_from_slice(bytes);
        file.write_all_at(aligned, offset)?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if matches!(self.origin, Origin::Permanent) {
            // It outlives the value: the oracle looks at it.
            return;
        }
        if let (Some(held), Ok(mut list)) = (still_held(&self.path), HELD.lock()) {
            list.push(held);
        }
        match &mut self.origin {
            Origin::Permanent => {}
            Origin::Null(instance) => instance.remove(),
            Origin::Loop(instance) => instance.remove(),
            Origin::Image(instance) => instance.remove(),
            Origin::Mapped(instance) => instance.remove(),
            Origin::Partition(instance) => instance.remove(),
            Origin::Test(instance) => instance.remove(),
        }
    }
}

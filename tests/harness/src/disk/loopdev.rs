// SPDX-License-Identifier: GPL-2.0

//! A loop device over a file in memory.

use super::node::{open, wait_for, Mode};
use crate::sys::{
    ioctl::{self, Plain},
    system, Errno,
};
use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// A loop device that was bound.
pub struct Instance {
    number: i32,
    backing: File,
}

impl Instance {
    /// Takes a free one and binds it to a new file of that size.
    pub fn new(bytes: u64) -> Result<Self, Errno> {
        let control = File::open("/dev/loop-control")?;
        let number = ioctl::plain(control, Plain::LoopGetFree, 0)?;
        let backing = system::memory_file(c"disk", bytes)?;
        let instance = Self { number, backing };
        wait_for(&instance.node())?;
        let device = open(&instance.node(), Mode::ReadWrite, 0)?;
        ioctl::plain(device, Plain::LoopSetFd, instance.backing.as_raw_fd())?;
        Ok(instance)
    }

    /// Gives the file, and the device with it, another size.
    pub fn resize(&self, bytes: u64) -> Result<(), Errno> {
        self.backing.set_len(bytes)?;
        let device = open(&self.node(), Mode::ReadOnly, 0)?;
        ioctl::plain(device, Plain::LoopSetCapacity, 0).map(drop)
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(format!("loop{}", self.number))
    }

    /// Unbinds it, which also gives up the file.
    pub fn remove(&mut self) {
        if let Ok(device) = open(&self.node(), Mode::ReadWrite, 0) {
            // A failure here shows as a disk that is still held.
            let _ = ioctl::plain(device, Plain::LoopClearFd, 0);
        }
    }
}

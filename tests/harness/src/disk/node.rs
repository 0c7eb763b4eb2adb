// SPDX-License-Identifier: GPL-2.0

//! Device nodes.

use crate::{context::PATIENCE, sys::Errno};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

/// The ramdisk that is always there.
pub const RAM: &str = "/dev/ram0";
/// Another one.
pub const SECOND_RAM: &str = "/dev/ram1";

/// Mode in which a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading only.
    ReadOnly,
    /// Writing only.
    WriteOnly,
    /// Both.
    ReadWrite,
}

/// Opens a device node.
pub fn open(path: &Path, mode: Mode, flags: i32) -> Result<File, Errno> {
    let file = OpenOptions::new()
        .read(mode != Mode::WriteOnly)
        .write(mode != Mode::ReadOnly)
        .custom_flags(flags)
        .open(path)?;
    Ok(file)
}

/// devtmpfs makes nodes in a thread of its own.
pub(super) fn wait_for(path: &Path) -> Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(Errno::ENODEV);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

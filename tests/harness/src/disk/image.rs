// SPDX-License-Identifier: GPL-2.0

//! A disk image: a file on ext4, behind a loop device with direct I/O. By the programs that an
//! administrator uses, as docs/uapi.md says.

use super::filesystem::{self, Mounted};
use crate::{program::run, sys::Errno};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// A loop device that was bound.
pub struct Instance {
    node: PathBuf,
    below: Option<Mounted>,
}

impl Instance {
    /// Makes a filesystem on `below`, and an image of that size in it.
    pub fn new(below: &str, bytes: u64) -> Result<Self, Errno> {
        let below = Path::new(below);
        filesystem::make(below)?;
        let mounted = Mounted::new(below)?;
        let image = mounted.path().join("image");
        File::create(&image)?.set_len(bytes)?;
        let options = ["--find", "--show", "--direct-io=on"];
        let image = image.to_string_lossy();
        let node = run("/usr/sbin/losetup", &[&options[..], &[&*image]].concat())?;
        Ok(Self {
            node: node.into(),
            below: Some(mounted),
        })
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        self.node.clone()
    }

    /// Unbinds it, and unmounts the filesystem.
    pub fn remove(&mut self) {
        // A failure here shows as a disk that is still held.
        let _ = run("/usr/sbin/losetup", &["-d", &self.node.to_string_lossy()]);
        self.below = None;
    }
}

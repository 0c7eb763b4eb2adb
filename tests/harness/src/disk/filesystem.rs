// SPDX-License-Identifier: GPL-2.0

//! An ext4 filesystem on a disk.

use crate::{program::run, sys::Errno};
use std::{fs, path::Path};

const MOUNTED_AT: &str = "/tmp/vblk-filesystem";
const UUID: &str = "76626c6b-0000-4000-8000-000000000000";

/// Makes an empty one.
pub fn make(disk: &Path) -> Result<(), Errno> {
    // Making up numbers of its own takes it seconds on a machine that has just booted.
    let seed = format!("hash_seed={UUID}");
    let options = ["-q", "-F", "-U", UUID, "-E", &seed];
    let disk = &*disk.to_string_lossy();
    run("/usr/sbin/mkfs.ext4", &[&options[..], &[disk]].concat())?;
    Ok(())
}

/// Checks all of one that is not mounted, without a change.
pub fn check(disk: &Path) -> Result<(), Errno> {
    run("/usr/sbin/e2fsck", &["-f", "-n", &disk.to_string_lossy()])?;
    Ok(())
}

/// A filesystem that is mounted, until it is dropped. One at a time.
pub struct Mounted(());

impl Mounted {
    /// Mounts the filesystem on `disk`.
    pub fn new(disk: &Path) -> Result<Self, Errno> {
        fs::create_dir_all(MOUNTED_AT)?;
        run("/usr/bin/mount", &[&disk.to_string_lossy(), MOUNTED_AT])?;
        Ok(Self(()))
    }

    /// Its root directory.
    pub fn path(&self) -> &'static Path {
        Path::new(MOUNTED_AT)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A failure here shows as a disk that is still held.
        let _ = run("/usr/bin/umount", &[MOUNTED_AT]);
    }
}

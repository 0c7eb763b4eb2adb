// SPDX-License-Identifier: GPL-2.0

//! A disk image: a file on ext4, behind a loop device with direct I/O. By the programs that an
//! administrator uses, as docs/uapi.md says.

use crate::sys::Errno;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

const MOUNTED_AT: &str = "/tmp/vblk-image";
const UUID: &str = "76626c6b-0000-4000-8000-000000000000";

/// A loop device that was bound.
pub struct Instance {
    node: PathBuf,
}

impl Instance {
    /// Makes a filesystem on `below`, and an image of that size in it.
    pub fn new(below: &str, bytes: u64) -> Result<Self, Errno> {
        // Making up numbers of its own takes it seconds on a machine that has just booted.
        let seed = format!("hash_seed={UUID}");
        let options = ["-q", "-F", "-U", UUID, "-E", &seed];
        run("/usr/sbin/mkfs.ext4", &[&options[..], &[below]].concat())?;
        fs::create_dir_all(MOUNTED_AT)?;
        run("/usr/bin/mount", &[below, MOUNTED_AT])?;
        let image = Path::new(MOUNTED_AT).join("image");
        let node = File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(Errno::from)
            .and_then(|()| {
                let options = ["--find", "--show", "--direct-io=on"];
                let image = image.to_string_lossy();
                run("/usr/sbin/losetup", &[&options[..], &[&*image]].concat())
            });
        match node {
            Ok(node) => Ok(Self { node: node.into() }),
            Err(error) => {
                unmount();
                Err(error)
            }
        }
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        self.node.clone()
    }

    /// Unbinds it, and unmounts the filesystem.
    pub fn remove(&mut self) {
        // A failure here shows as a disk that is still held.
        let _ = run("/usr/sbin/losetup", &["-d", &self.node.to_string_lossy()]);
        unmount();
    }
}

fn unmount() {
    let _ = run("/usr/bin/umount", &[MOUNTED_AT]);
}

/// Returns the output of a program, without the end of the line.
fn run(program: &str, arguments: &[&str]) -> Result<String, Errno> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        eprint!("{program}: {}", String::from_utf8_lossy(&output.stderr));
        return Err(Errno::EIO);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim_end().to_string())
}

// SPDX-License-Identifier: GPL-2.0

//! The first partition of a disk.

use super::node::{open, Mode};
use crate::sys::{partition, Errno};
use std::path::{Path, PathBuf};

const NUMBER: i32 = 1;

/// A partition that was made.
pub struct Instance {
    whole: PathBuf,
}

impl Instance {
    /// Makes it of these bytes of the disk `whole`.
    pub fn new(whole: &Path, start: u64, bytes: u64) -> Result<Self, Errno> {
        partition::add(open(whole, Mode::ReadWrite, 0)?, NUMBER, start, bytes)?;
        Ok(Self {
            whole: whole.to_owned(),
        })
    }

    /// The device node, of a disk whose name does not end in a digit.
    pub fn node(&self) -> PathBuf {
        format!("{}{NUMBER}", self.whole.display()).into()
    }

    /// Removes it.
    pub fn remove(&mut self) {
        if let Ok(whole) = open(&self.whole, Mode::ReadWrite, 0) {
            // A failure here shows in the disk, which stays in use.
            let _ = partition::delete(whole, NUMBER);
        }
    }
}

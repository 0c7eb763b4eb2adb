// SPDX-License-Identifier: GPL-2.0

//! A disk as its thread has it, while it serves.

use super::shared::SharedState;
use crate::disk::DiskKind;
use std::{
    fs::File,
    sync::{atomic::Ordering, Arc},
};
use vblk_core::{disk::Disk, request::ID_BYTES};

/// The part of a disk that its thread needs.
pub struct Target {
    pub file: File,
    pub kind: DiskKind,
    pub rules: Disk,
    pub memory_align: u32,
    pub id: [u8; ID_BYTES],
    pub shared: Arc<SharedState>,
}

impl Target {
    /// Returns the properties that a request is checked against now.
    pub fn rules(&self) -> Disk {
        Disk {
            sectors: self.shared.sectors.load(Ordering::Relaxed),
            ..self.rules
        }
    }

    /// Returns whether writes must be durable when they are answered.
    pub fn write_through(&self) -> bool {
        self.shared.write_through.load(Ordering::Relaxed)
    }
}

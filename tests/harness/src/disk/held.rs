// SPDX-License-Identifier: GPL-2.0

//! Disks and modules that are in use although their test is over.

use super::node::{open, Mode, RAM, SECOND_RAM};
use crate::{context::PATIENCE, sys::Errno};
use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Disks that were still held when their test ended, until the oracle asks.
pub(super) static HELD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Disks that someone holds although their test is over. Waits for a while; each is told once.
pub fn held() -> Vec<String> {
    let mut held = HELD
        .lock()
        .map(|mut list| std::mem::take(&mut *list))
        .unwrap_or_default();
    held.extend(
        [RAM, SECOND_RAM]
            .map(Path::new)
            .into_iter()
            .filter_map(still_held),
    );
    held
}

/// Tries for a while to be the only user of a disk.
pub fn still_held(path: &Path) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open(path, Mode::ReadOnly, libc::O_EXCL) {
            Ok(_) => return None,
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Some(format!("{}: {error}", path.display())),
        }
    }
}

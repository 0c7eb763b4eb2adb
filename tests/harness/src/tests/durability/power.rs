// SPDX-License-Identifier: GPL-2.0

//! Disks whose power can be cut.

use crate::{
    disk::{Disk, NullBlk},
    sys::Errno,
    vm::Vm,
};
use std::time::Duration;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A disk with a cache, see [`NullBlk::cached`].
pub fn cached(fua: bool, delay: Option<Duration>) -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        fua,
        delay,
        ..NullBlk::cached()
    })
}

/// Cuts the power under a device and gives it back without one.
pub fn cut_and_restore(disk: &Disk, vm: Vm) -> Result<(), Errno> {
    disk.cut_power()?;
    drop(vm);
    disk.restore_power()
}

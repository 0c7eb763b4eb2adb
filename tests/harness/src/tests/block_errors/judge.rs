// SPDX-License-Identifier: GPL-2.0

//! Reads and writes that are compared with what the disk holds.

use crate::{
    disk::NullBlk,
    fixtures::place::{Place, DATA},
    prelude::*,
};
use std::ops::Range;

pub const BAD: Range<u64> = 100..104;
pub const SECTOR: usize = 512;

/// Reads and judges: what is claimed to be read must be what `disk` holds.
#[track_caller]
pub fn read(vm: &mut Vm, sectors: &Range<u64>, on_disk: &[u8], fails: bool) {
    let len = (sectors.end - sectors.start) as usize * SECTOR;
    vm.memory.fill(DATA, len + SECTOR, 0x77);
    let request = Place::of(vm).read(sectors.start, len as u32);
    let answer = vm.queue().request(&request);
    if fails {
        assert_eq!(answer, Answer::new(IOERR, 0), "read of {sectors:?}");
    } else {
        let good = Answer::new(OK, len as u32 + 1);
        assert_eq!(answer, good, "read of {sectors:?}");
        let start = sectors.start as usize * SECTOR;
        let read = vm.memory.read_vec(DATA, len);
        assert!(read == on_disk[start..start + len], "read of {sectors:?}");
    }
    let behind = vm.memory.read_vec(GuestAddr(DATA.0 + len as u64), SECTOR);
    assert!(behind.iter().all(|byte| *byte == 0x77), "{sectors:?}");
}

/// Writes and judges; `on_disk` learns what is there then.
#[track_caller]
pub fn write(vm: &mut Vm, sectors: &Range<u64>, on_disk: &mut [u8], bytes: &[u8], fails: bool) {
    let len = (sectors.end - sectors.start) as usize * SECTOR;
    vm.memory.write(DATA, &bytes[..len]);
    let request = Place::of(vm).write(sectors.start, len as u32);
    let answer = vm.queue().request(&request);
    let expected = if fails { IOERR } else { OK };
    assert_eq!(answer, Answer::new(expected, 1), "write of {sectors:?}");
    if !fails {
        let start = sectors.start as usize * SECTOR;
        on_disk[start..start + len].copy_from_slice(&bytes[..len]);
    }
}

/// A disk with random bytes on its first MiBs, and those bytes.
pub fn filled(context: &Context, options: &NullBlk, len: usize) -> Result<(Disk, Vec<u8>), Errno> {
    let disk = Disk::null(options)?;
    let bytes = context.rng().bytes(len);
    disk.write(0, &bytes)?;
    Ok((disk, bytes))
}

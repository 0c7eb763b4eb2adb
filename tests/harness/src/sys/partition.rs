// SPDX-License-Identifier: GPL-2.0

//! Partitions of a disk, made and removed without writing a table: `<linux/blkpg.h>`.

use super::{check, Errno};
use std::os::fd::{AsFd, AsRawFd};

const BLKPG: libc::c_ulong = 0x1269;
const ADD: i32 = 1;
const DELETE: i32 = 2;

/// `struct blkpg_partition`, in bytes.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: i32,
    /// Nothing reads them.
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    op: i32,
    flags: i32,
    datalen: i32,
    data: *const Partition,
}

/// Makes this part of a disk the partition of that number.
pub fn add(disk: impl AsFd, number: i32, start: u64, bytes: u64) -> Result<(), Errno> {
    call(disk, ADD, number, start, bytes)
}

/// Removes a partition that is not in use.
pub fn delete(disk: impl AsFd, number: i32) -> Result<(), Errno> {
    call(disk, DELETE, number, 0, 0)
}

fn call(disk: impl AsFd, op: i32, number: i32, start: u64, bytes: u64) -> Result<(), Errno> {
    let partition = Partition {
        start: start as i64,
        length: bytes as i64,
        number,
        names: [0; 128],
    };
    let argument = Argument {
        op,
        flags: 0,
        datalen: size_of::<Partition>() as i32,
        data: &partition,
    };
    // SAFETY: both structures have the layout that the command reads, and live across the call.
    let ret = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG, &argument) };
    check(ret.into()).map(drop)
}

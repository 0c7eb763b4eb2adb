// SPDX-License-Identifier: GPL-2.0

//! `ioctl` in the shapes that the harness needs.

use super::{check, map::Mapping, Errno};
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that a command says it moves: `_IOC_SIZE`.
const fn size_field(command: u32) -> usize {
    (command >> 16 & 0x3fff) as usize
}

/// Calls `command` with a pointer to `argument`, which the kernel may change.
///
/// # Panics
///
/// If `argument` is shorter than the command says.
pub fn with_bytes(fd: impl AsFd, command: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    assert!(argument.len() >= size_field(command), "short argument");
    // SAFETY: every command used with this function (vhost, device mapper, userfaultfd, ranges of
    // block devices) accesses what its size field covers, or by what its own header says, which the
    // callers derive from the length of `argument`, or two words. The slice is writable and lives across the call.
    let ret = unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            command.into(),
            argument.as_mut_ptr(),
        )
    };
    check(ret.into()).map(|value| value as i32)
}

/// Commands that take a number, not a pointer.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Plain {
    /// `VHOST_SET_OWNER`, which takes nothing.
    SetOwner = vblk_core::uapi::VHOST_SET_OWNER,
    /// `VHOST_RESET_OWNER`, which takes nothing.
    ResetOwner = vblk_core::uapi::VHOST_RESET_OWNER,
    /// `LOOP_SET_FD`: an open file.
    LoopSetFd = 0x4C00,
    /// `LOOP_CLR_FD`.
    LoopClearFd = 0x4C01,
    /// `LOOP_SET_CAPACITY`, which takes nothing: the size is that of the file.
    LoopSetCapacity = 0x4C07,
    /// `LOOP_CTL_GET_FREE`.
    LoopGetFree = 0x4C82,
}

/// Calls a command that takes a number.
pub fn plain(fd: impl AsFd, command: Plain, value: i32) -> Result<i32, Errno> {
    // SAFETY: none of these commands treats its argument as a pointer.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), command as libc::c_ulong, value) };
    check(ret.into()).map(|value| value as i32)
}

/// Pointers that lead to no memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPointer {
    /// Address 0.
    Null,
    /// An address of the kernel's half.
    Kernel,
    /// The last byte of the address space.
    Last,
}

impl BadPointer {
    /// All bad pointers.
    pub const ALL: [Self; 3] = [Self::Null, Self::Kernel, Self::Last];

    fn addr(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Kernel => 0xffff_8880_0000_0000,
            Self::Last => usize::MAX,
        }
    }
}

/// Calls any command at all, also an unknown one, with a pointer that leads nowhere.
pub fn with_bad_pointer(fd: impl AsFd, command: u32, bad: BadPointer) -> Result<i32, Errno> {
    // SAFETY: the kernel can't change our memory through such a pointer; it answers EFAULT.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), command.into(), bad.addr()) };
    check(ret.into()).map(|value| value as i32)
}

/// Calls `command` with a pointer into `map`, parts of which may not be accessible.
///
/// # Panics
///
/// If the bytes that the command says it moves reach behind the mapping.
pub fn with_mapping(
    fd: impl AsFd,
    command: u32,
    map: &Mapping,
    offset: usize,
) -> Result<i32, Errno> {
    let end = offset.checked_add(size_field(command));
    assert!(
        end.is_some_and(|end| end <= map.len()),
        "argument behind the mapping"
    );
    let addr = map.addr() + offset as u64;
    // SAFETY: the kernel accesses what the size field covers, which lies in a mapping that allows
    // changes behind our back.
    let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), command.into(), addr) };
    check(ret.into()).map(|value| value as i32)
}

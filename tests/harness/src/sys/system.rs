// SPDX-License-Identifier: GPL-2.0

//! Calls of root that change the machine: modules and mounts; and memory files.

use super::{check, Errno};
use std::{
    ffi::CStr,
    fs::File,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// `finit_module` with these parameters, as `insmod` takes them.
pub fn load_module(file: impl AsFd, parameters: &CStr) -> Result<(), Errno> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an open file, a C string and no flags.
    let ret = unsafe { libc::syscall(libc::SYS_finit_module, fd, parameters.as_ptr(), 0) };
    check(ret).map(drop)
}

/// `delete_module` with O_NONBLOCK: a module in use is refused, not waited for.
pub fn unload_module(name: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string and flags.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    check(ret).map(drop)
}

/// Mounts a kernel filesystem that needs no device.
pub fn mount(kind: &CStr, at: &CStr) -> Result<(), Errno> {
    // SAFETY: C strings, no flags, no data.
    let ret = unsafe {
        libc::mount(
            kind.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    check(ret.into()).map(drop)
}

/// A file that exists in memory only.
pub fn memory_file(name: &CStr, len: u64) -> Result<File, Errno> {
    // SAFETY: a C string and flags.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor was just made and has no other owner.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    file.set_len(len).map_err(Errno::from)?;
    Ok(file)
}

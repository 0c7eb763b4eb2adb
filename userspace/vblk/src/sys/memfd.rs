// SPDX-License-Identifier: GPL-2.0

//! Files that have no name and are in memory.

use super::check;
use std::{ffi::CStr, fs::File, io, os::fd::FromRawFd};

/// Creates a file of so many zeroes. The name is for people who look at the process.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn create(name: &CStr, bytes: u64) -> io::Result<File> {
    // SAFETY: The name is a string that ends with a zero.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    check(file)?;
    // SAFETY: The descriptor was just opened, and only this function has it.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(bytes)?;
    Ok(file)
}

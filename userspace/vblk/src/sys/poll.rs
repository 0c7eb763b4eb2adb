// SPDX-License-Identifier: GPL-2.0

//! Waiting for one of several files. Unlike epoll, poll takes any file.

use std::{
    io,
    os::fd::RawFd, //
};

/// Waits until one of `files` can be read, or is at its end or broken; tells for each whether it
/// is.
///
/// # Errors
///
/// What the kernel says; an interrupted wait is none.
pub fn readable(files: &[RawFd]) -> io::Result<Vec<bool>> {
    let entry = |&fd: &RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries: Vec<_> = files.iter().map(entry).collect();
    // SAFETY: The pointer and the length are those of the vector. A number that is no open file is
    // reported as such.
    let result = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, -1) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

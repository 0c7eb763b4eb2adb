// SPDX-License-Identifier: GPL-2.0

//! Waiting for one of several files. Unlike epoll, poll takes any file.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

/// Waits until one of `files` can be read, or is at its end or broken, but not longer than
/// `limit`. Returns for each whether it is; for none when the time is over or the wait was
/// interrupted.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn readable(files: &[RawFd], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    wait(files, libc::POLLIN, limit)
}

/// Waits until `file` can be written to, or is broken.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn writable(file: BorrowedFd<'_>) -> io::Result<()> {
    wait(&[file.as_raw_fd()], libc::POLLOUT, None).map(drop)
}

fn wait(files: &[RawFd], events: libc::c_short, limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let entry = |&fd: &RawFd| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let mut entries: Vec<_> = files.iter().map(entry).collect();
    // Rounded up: a wait of less than a millisecond is none.
    let milliseconds = limit.map_or(-1, |limit| {
        i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    });
    let count = entries.len() as libc::nfds_t;
    // SAFETY: The pointer and the length are those of the vector. A number that is no open file is
    // reported as such.
    let result = unsafe { libc::poll(entries.as_mut_ptr(), count, milliseconds) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

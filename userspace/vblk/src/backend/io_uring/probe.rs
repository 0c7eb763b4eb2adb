// SPDX-License-Identifier: GPL-2.0

//! Finds out whether this process may have an io_uring, before a guest relies on it.

use super::submitter::MAX_SLOTS;
use crate::{
    backend::Error,
    errno,
    sys::{
        rlimit::{self, Resource},
        uring::{self, Abilities},
    },
};
use std::{
    fs::{self, File},
    io,
};

/// Most eventfds that a ring watches: one for each queue, and one to stop.
const MAX_WATCHED: u32 = 257;
/// Locked memory in KiB that the kernel counts for a ring of the largest size.
const RING_KIB: u64 = 256;
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Builds a ring for `disk` and lets it go.
///
/// # Errors
///
/// [`Error::IoUring`], with the limit that is in the way and the need.
pub fn ring(disk: &File) -> Result<Abilities, Error> {
    uring::probe(disk, MAX_SLOTS as u32 + MAX_WATCHED).map_err(|e| {
        let sysctl = fs::read_to_string(SYSCTL).unwrap_or_default();
        let limit = rlimit::get(Resource::LockedMemory).map_or(u64::MAX, |limit| limit.soft);
        Error::IoUring(explain(&e, sysctl.trim(), limit))
    })
}

/// Names the limit behind `error`, and the way out.
fn explain(error: &io::Error, sysctl: &str, locked_memory: u64) -> String {
    let text = errno::text(error);
    match error.raw_os_error() {
        Some(libc::EPERM) if !matches!(sysctl, "" | "0") => format!(
            "{text}: kernel.io_uring_disabled is {sysctl}; set it to 0, or use backend=vhost"
        ),
        Some(libc::EPERM | libc::EACCES) => {
            format!("{text}: a policy of this system or container forbids it; use backend=vhost")
        }
        Some(libc::ENOSYS) => format!("{text}: this kernel has none; use backend=vhost"),
        Some(libc::ENOMEM) if locked_memory != u64::MAX => format!(
            "{text}: each disk needs up to {RING_KIB} KiB of locked memory, and the limit is {} \
             KiB (RLIMIT_MEMLOCK, ulimit -l)",
            locked_memory >> 10
        ),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_in_the_way_is_named() {
        for (errno, sysctl, locked, expected) in [
            (
                libc::EPERM,
                "2",
                u64::MAX,
                "Operation not permitted: kernel.io_uring_disabled is 2; set it to 0, or use \
                 backend=vhost",
            ),
            (
                libc::EPERM,
                "0",
                u64::MAX,
                "Operation not permitted: a policy of this system or container forbids it; use \
                 backend=vhost",
            ),
            (
                libc::ENOSYS,
                "",
                u64::MAX,
                "Function not implemented: this kernel has none; use backend=vhost",
            ),
            (
                libc::ENOMEM,
                "0",
                65536,
                "Cannot allocate memory: each disk needs up to 256 KiB of locked memory, and the \
                 limit is 64 KiB (RLIMIT_MEMLOCK, ulimit -l)",
            ),
            (libc::ENOMEM, "0", u64::MAX, "Cannot allocate memory"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(explain(&error, sysctl, locked), expected);
        }
    }
}

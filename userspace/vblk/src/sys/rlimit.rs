// SPDX-License-Identifier: GPL-2.0

//! Limits on what this process may use.

use super::check;
use std::io;

/// A resource with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open files.
    Files,
    /// Bytes of memory that are locked or pinned.
    LockedMemory,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::Files => libc::RLIMIT_NOFILE,
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// A limit; [`u64::MAX`] is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force.
    pub soft: u64,
    /// The highest limit that this process may set.
    pub hard: u64,
}

/// Returns the limit on `resource`.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn get(resource: Resource) -> io::Result<Limit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is an `rlimit` that the kernel may write.
    check(unsafe { libc::getrlimit(resource.number(), &mut limit) })?;
    Ok(Limit {
        soft: limit.rlim_cur,
        hard: limit.rlim_max,
    })
}

/// Raises the limit on `resource` as far as it goes without a privilege.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn raise(resource: Resource) -> io::Result<()> {
    let hard = get(resource)?.hard;
    let limit = libc::rlimit {
        rlim_cur: hard,
        rlim_max: hard,
    };
    // SAFETY: `limit` is an `rlimit`, which the kernel reads.
    check(unsafe { libc::setrlimit(resource.number(), &limit) })
}

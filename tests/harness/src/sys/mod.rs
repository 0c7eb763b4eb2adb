// SPDX-License-Identifier: GPL-2.0

//! System calls and shared memory: the only home of `unsafe` in the harness.
//!
//! Each function here is a thin, safe face of one system call. Its callers decide what to call and
//! why.

#![allow(unsafe_code)]

pub mod aio;
pub mod blkio;
pub mod errno;
pub mod ioctl;
pub mod map;
pub mod partition;
pub mod poll;
pub mod process;
pub mod system;
pub mod tsc;
pub mod userfault;

pub use errno::Errno;

/// Turns the usual "-1 and errno" of a system call into a `Result`.
fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret < 0 {
        Err(Errno::last())
    } else {
        Ok(ret)
    }
}

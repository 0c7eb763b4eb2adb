// SPDX-License-Identifier: GPL-2.0

//! The only home of `unsafe` in this crate: system calls that no crate wraps safely.
//!
//! Every function here is safe to call, whatever its arguments. Each file wraps one interface of
//! the kernel and knows nothing of virtio.

pub mod blockdev;
pub mod fault;
pub mod iobuf;
pub mod ioprio;
pub mod kvm;
pub mod memfd;
pub mod poll;
pub mod rlimit;
pub mod signals;
pub mod socket;
pub mod terminal;
pub mod uring;
pub mod vhost_blk;

/// Returns the error that a system call has left behind, if it failed.
fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! The kernel as the rest of the module sees it: the only home of `unsafe`, of
//! `kernel::bindings`, and of C.
//!
//! Each file holds one safe type with its invariants. None of them knows virtio. What is promised
//! to the kernel is proved here and needs no look at the callers, whatever they do.

#![allow(unsafe_code)]

pub(crate) mod bio;
pub(crate) mod block_file;
pub(crate) mod char_device;
pub(crate) mod errno;
pub(crate) mod eventfd;
pub(crate) mod lock;
pub(crate) mod mapped_range;
pub(crate) mod pin;
pub(crate) mod thread;

/// The functions of helpers.h, by bindgen.
#[allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports
)]
mod bindings {
    use kernel::bindings::*;
    include!(env!("VBLK_BINDINGS"));
}

use vblk_core::addr::HostAddr;

/// Whether `[addr, addr + len)` can be user memory at all on this machine, mapped or not.
pub(crate) fn is_user_range(addr: HostAddr, len: u64) -> bool {
    match (usize::try_from(addr.0), usize::try_from(len)) {
        // SAFETY: Any two numbers may be asked about.
        (Ok(addr), Ok(len)) => unsafe { bindings::vblk_access_ok(addr, len) },
        _ => false,
    }
}

/// Writes a byte of the memory of the process that the current thread belongs to or works for, if
/// the page is at hand. In any context of that thread.
pub(crate) fn store_byte_nofault(addr: HostAddr, value: u8) -> bool {
    let Ok(addr) = usize::try_from(addr.0) else {
        return false;
    };
    let to = core::ptr::without_provenance_mut(addr);
    // SAFETY: Any address may be tried: those that are no user memory, or not there, are refused.
    unsafe { kernel::bindings::copy_to_user_nofault(to, (&raw const value).cast(), 1) == 0 }
}

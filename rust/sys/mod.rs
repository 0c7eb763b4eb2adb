// SPDX-License-Identifier: GPL-2.0

//! The kernel as the rest of the module sees it: the only home of `unsafe`, of
//! `kernel::bindings`, and of C.
//!
//! Each file holds one safe type with its invariants. None of them knows virtio. What is promised
//! to the kernel is proved here and needs no look at the callers, whatever they do.

#![allow(unsafe_code)]

pub(crate) mod block_file;
pub(crate) mod char_device;
pub(crate) mod errno;
pub(crate) mod eventfd;
pub(crate) mod io;
pub(crate) mod io_vectors;
#[cfg(CONFIG_VHOST_BLK_RS_KUNIT_TEST)]
pub(crate) mod kunit;
pub(crate) mod lock;
mod locked_memory;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) mod mapped_pages;
pub(crate) mod mapped_range;
pub(crate) mod periodic;
pub(crate) mod pin;
pub(crate) mod pinned_extents;
pub(crate) mod plug;
pub(crate) mod signal;
pub(crate) mod task;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) mod vdpa;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) mod vdpa_ops;
pub(crate) mod worker_thread;

/// The functions of helpers.h, by bindgen.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    unused_imports
)]
mod bindings {
    use kernel::bindings::*;
    include!(env!("VBLK_BINDINGS"));
}

use kernel::{
    alloc::{
        flags::{
            __GFP_NOWARN, //
            GFP_KERNEL_ACCOUNT,
        },
        Flags, //
    },
    sync::atomic::{
        Atomic,
        AtomicType, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use vblk_core::addr::HostAddr;

/// Returns how memory is allocated whose size user space chooses: charged to its process, and refused
/// without a word in the log.
pub(crate) fn gfp_user_sized() -> Flags {
    GFP_KERNEL_ACCOUNT | __GFP_NOWARN
}

/// Whether `[addr, addr + len)` can be user memory at all on this machine, mapped or not.
pub(crate) fn is_user_range(addr: HostAddr, len: u64) -> bool {
    match (usize::try_from(addr.0), usize::try_from(len)) {
        // SAFETY: Any two numbers may be asked about.
        (Ok(addr), Ok(len)) => unsafe { bindings::vblk_access_ok(addr, len) },
        _ => false,
    }
}

/// Fills `to` from the memory of the process that the current thread belongs to or works for; what
/// was read is lost when it returns `false`. May sleep.
#[inline]
pub(crate) fn copy_from_user(addr: HostAddr, to: &mut [u8]) -> bool {
    let Ok(addr) = usize::try_from(addr.0) else {
        return false;
    };
    // Headers of requests have 16 bytes.
    if let Ok(to) = <&mut [u8; 16]>::try_from(&mut *to) {
        // SAFETY: Any address may be tried, as above, and `to` has room for 16 bytes.
        return unsafe { bindings::vblk_load_16(addr, to.as_mut_ptr().cast()) };
    }
    UserSlice::new(UserPtr::from_addr(addr), to.len())
        .reader()
        .read_slice(to)
        .is_ok()
}

/// Writes `from` to the memory of the process that the current thread belongs to or works for.
/// Returns whether all of it was written. May sleep.
pub(crate) fn copy_to_user(from: &[u8], to: HostAddr) -> bool {
    let Ok(to) = usize::try_from(to.0) else {
        return false;
    };
    UserSlice::new(UserPtr::from_addr(to), from.len())
        .writer()
        .write_slice(from)
        .is_ok()
}

/// Loads relaxed, without the call that this takes where the kernel's helpers are not inlined.
#[inline]
pub(crate) fn read_once<T: AtomicType>(atomic: &Atomic<T>) -> T {
    // SAFETY: `as_ptr` gives a valid, aligned pointer to a `T`; a volatile load is READ_ONCE of the
    // kernel's memory model, and that is what `atomic_read` is.
    unsafe { core::ptr::read_volatile(atomic.as_ptr()) }
}

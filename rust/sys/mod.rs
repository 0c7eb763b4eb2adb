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
pub(crate) mod op;
pub(crate) mod periodic;
pub(crate) mod pin;
pub(crate) mod plug;
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

use kernel::{
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
    // SAFETY: Any address may be tried: those that are no user memory, or not there, are refused.
    unsafe { bindings::vblk_store_byte_nofault(addr, value) }
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

/// As `load(Relaxed)`, without the call that this takes where the kernel's helpers are not inlined.
#[inline]
pub(crate) fn read_once<T: AtomicType>(atomic: &Atomic<T>) -> T {
    // SAFETY: `as_ptr` gives a valid, aligned pointer to a `T`; a volatile load is READ_ONCE of the
    // kernel's memory model, and that is what `atomic_read` is.
    unsafe { core::ptr::read_volatile(atomic.as_ptr()) }
}

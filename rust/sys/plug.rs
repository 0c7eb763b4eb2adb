// SPDX-License-Identifier: GPL-2.0

//! I/Os that devices get together.

use core::ptr::NonNull;
use kernel::bindings;

/// Calls `submit`, and gives the I/Os that it submits to the devices together, at the end of the
/// call or when the thread sleeps.
pub(crate) fn plugged<R>(submit: impl FnOnce() -> R) -> R {
    let mut plug = bindings::blk_plug::default();
    let plug = NonNull::from(&mut plug).as_ptr();
    // SAFETY: `plug` outlives the call that ends it, and nothing unwinds in the kernel.
    unsafe { bindings::blk_start_plug(plug) };
    let result = submit();
    // SAFETY: Started just above, by this thread.
    unsafe { bindings::blk_finish_plug(plug) };
    result
}

// SPDX-License-Identifier: GPL-2.0

//! I/Os that devices get together.

use core::ptr::NonNull;
use kernel::bindings;

/// I/Os that block devices prepare for at once, at most: BLK_MAX_REQUEST_COUNT, <block/blk.h>.
const MOST_AT_ONCE: u16 = 32;

/// Calls `submit`, and gives the I/Os that it submits to the devices together, at the end of the
/// call or when the thread sleeps. About `count` of them are expected, for which devices prepare: more
/// or fewer do no harm.
pub(crate) fn plugged<R>(count: u16, submit: impl FnOnce() -> R) -> R {
    let mut plug = bindings::blk_plug::default();
    let plug = NonNull::from(&mut plug).as_ptr();
    // SAFETY: `plug` outlives the call that ends it, and nothing unwinds in the kernel. The field is
    // this thread's; `blk_start_plug_nr_ios`, which would set it, is not for modules.
    unsafe {
        bindings::blk_start_plug(plug);
        (*plug).nr_ios = count.clamp(1, MOST_AT_ONCE);
    }
    let result = submit();
    // SAFETY: Started just above, by this thread.
    unsafe { bindings::blk_finish_plug(plug) };
    result
}

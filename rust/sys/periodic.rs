// SPDX-License-Identifier: GPL-2.0

//! Something to do about once a second, by the system's own threads, until it is dropped.
//!
//! `kernel::workqueue` has delayed work too, but no way to cancel it: what is pending would keep
//! its target alive for up to a period, and run in a module that may be gone by then.

use super::bindings as helpers;
use kernel::{
    bindings,
    container_of,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// What a [`Periodic`] does.
pub(crate) trait Tick: Send + Sync + 'static {
    /// Called about once a second, by one thread at a time. May sleep, but not for long.
    fn tick(&self);
}

/// Calls [`Tick::tick`] about once a second, until it is dropped.
///
/// Calls fall on full seconds, as those of others do, so that an idle machine wakes up once for all
/// of them; and none come while it is suspended.
///
/// # Invariants
///
/// `work` is initialised with [`run`] for this `T`. It is queued or running until it is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct Periodic<T: Tick> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    target: Arc<T>,
}

// SAFETY: Delayed work may be cancelled by any thread; the rest is `Send`.
unsafe impl<T: Tick> Send for Periodic<T> {}
// SAFETY: A shared reference is used by `run` only, which calls `T: Sync`.
unsafe impl<T: Tick> Sync for Periodic<T> {}

impl<T: Tick> Periodic<T> {
    /// Begins; the first call comes in about a second.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(target: Arc<T>) -> Result<Pin<KBox<Self>>> {
        let periodic = KBox::pin_init(
            pin_init!(Self {
                // SAFETY: `run::<T>` fits the work of a `Periodic<T>`.
                work <- Opaque::ffi_init(|work| unsafe {
                    helpers::vblk_init_delayed_work(work, Some(run::<T>));
                }),
                target,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // INVARIANT: queued from here on.
        // SAFETY: Initialised just now, and pinned; `drop` cancels it.
        unsafe { helpers::vblk_queue_delayed_work(periodic.work.get()) };
        Ok(periodic)
    }
}

#[pinned_drop]
impl<T: Tick> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Initialised, by the type invariant. When this returns it is neither queued nor
        // running, although it queues itself: that fails while it is being cancelled.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }
}

/// # Safety
///
/// Called for the work of a [`Periodic<T>`].
unsafe extern "C" fn run<T: Tick>(work: *mut bindings::work_struct) {
    // SAFETY: `work` lies in the delayed work of a `Periodic<T>`, whose drop waits for this. What
    // `Opaque` holds begins where it does.
    let periodic = unsafe {
        let work = container_of!(work, bindings::delayed_work, work);
        &*container_of!(
            work.cast::<Opaque<bindings::delayed_work>>(),
            Periodic<T>,
            work
        )
    };
    periodic.target.tick();
    // SAFETY: Initialised, by the type invariant, and not queued while it runs.
    unsafe { helpers::vblk_queue_delayed_work(periodic.work.get()) };
}

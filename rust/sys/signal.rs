// SPDX-License-Identifier: GPL-2.0

//! What is signalled to tell a driver or a VMM of something.

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::bindings as helpers;

/// Something to signal.
///
/// # Invariants
///
/// Owns a reference to the context of an eventfd, or has a callback that may be called as long as
/// this value lives.
pub(crate) struct Signal(Kind);

enum Kind {
    /// Unlike [`EventFile`](super::eventfd::EventFile) it does not keep the file open, so that a
    /// poller sees when its owner closes it.
    Eventfd(NonNull<bindings::eventfd_ctx>),
    /// Of a driver of the vDPA bus.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Callback(helpers::vdpa_callback),
}

// SAFETY: Eventfd contexts may be used and dropped by any thread, and callbacks called by any.
unsafe impl Send for Signal {}
// SAFETY: Signalling is thread-safe.
unsafe impl Sync for Signal {}

impl Signal {
    /// Returns the eventfd behind a descriptor of the current process.
    ///
    /// # Errors
    ///
    /// EBADF when it is not open, EINVAL when it is not an eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be asked about.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: `eventfd_ctx_fdget` gave us a reference.
        NonNull::new(context)
            .map(|context| Self(Kind::Eventfd(context)))
            .ok_or(EBADF)
    }

    /// Returns the callback of a driver of the vDPA bus; `None` when it is none.
    ///
    /// # Safety
    ///
    /// It may be called in any context until this value has been dropped.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(super) unsafe fn from_callback(callback: &helpers::vdpa_callback) -> Option<Self> {
        // INVARIANT: as the caller promised. The eventfd that it may name is not used: it is freed
        // without a word when user space exchanges it, and the callback knows of that.
        callback
            .callback
            .is_some()
            .then_some(Self(Kind::Callback(*callback)))
    }

    /// Adds one to the counter of an eventfd and wakes its waiters, or calls the callback. In any
    /// context but a wake-up callback of an eventfd. Takes locks of others: call it without a lock
    /// that others need.
    pub(crate) fn signal(&self) {
        match &self.0 {
            // SAFETY: The context is alive, by the type invariant.
            Kind::Eventfd(context) => unsafe {
                bindings::eventfd_signal_mask(context.as_ptr(), 0);
            },
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Kind::Callback(callback) => {
                if let Some(call) = callback.callback {
                    // SAFETY: It may be called, by the type invariant.
                    unsafe { call(callback.private) };
                }
            }
        }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        match &self.0 {
            // SAFETY: We own the reference.
            Kind::Eventfd(context) => unsafe { bindings::eventfd_ctx_put(context.as_ptr()) },
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Kind::Callback(_) => (),
        }
    }
}

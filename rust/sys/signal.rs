// SPDX-License-Identifier: GPL-2.0

//! What is signalled to tell a driver or a VMM of something.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use super::bindings as helpers;
use core::ptr::NonNull;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use kernel::types::Opaque;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

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
    /// The same, in an interrupt of its own.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    Interrupt(KBox<Interrupt>),
}

/// A callback that is called in an interrupt of its own.
///
/// # Invariants
///
/// `work` runs [`call_back`], and lies at the beginning.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
#[repr(C)]
struct Interrupt {
    work: Opaque<bindings::irq_work>,
    callback: helpers::vdpa_callback,
}

/// # Safety
///
/// `work` is that of an [`Interrupt`] whose callback may be called.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
unsafe extern "C" fn call_back(work: *mut bindings::irq_work) {
    // SAFETY: The work lies at the beginning of it, by its type invariant.
    let interrupt = unsafe { &*work.cast::<Interrupt>() };
    if let Some(call) = interrupt.callback.callback {
        // SAFETY: As the caller promised.
        unsafe { call(interrupt.callback.private) };
    }
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
    /// The host's driver is one of a disk, and takes the block layer's locks for it. Who signals may
    /// hold the same kind of lock of the disk below, as a flush that ends does, so it is called in an
    /// interrupt of its own, as such drivers are.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    ///
    /// # Safety
    ///
    /// It may be called in any context until this value has been dropped.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(super) unsafe fn from_callback(
        callback: &helpers::vdpa_callback,
        is_of_host: bool,
    ) -> Result<Option<Self>> {
        if callback.callback.is_none() {
            return Ok(None);
        }
        if !is_of_host {
            // INVARIANT: as the caller promised. The eventfd that it may name is not used: it is freed
            // without a word when user space exchanges it, and the callback knows of that.
            return Ok(Some(Self(Kind::Callback(*callback))));
        }
        // INVARIANT: as the caller promised; the rest is 0, as IRQ_WORK_INIT makes it.
        let interrupt = Interrupt {
            work: Opaque::new(bindings::irq_work {
                func: Some(call_back),
                ..Default::default()
            }),
            callback: *callback,
        };
        let interrupt = KBox::new(interrupt, GFP_KERNEL)?;
        Ok(Some(Self(Kind::Interrupt(interrupt))))
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
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Kind::Interrupt(interrupt) => {
                // SAFETY: The work stays where it is until `drop` has waited for it.
                unsafe { bindings::irq_work_queue(interrupt.work.get()) };
            }
        }
    }
}

impl Drop for Signal {
    /// May sleep.
    fn drop(&mut self) {
        match &self.0 {
            // SAFETY: We own the reference.
            Kind::Eventfd(context) => unsafe { bindings::eventfd_ctx_put(context.as_ptr()) },
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Kind::Callback(_) => (),
            // SAFETY: Nobody queues the work any more.
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            Kind::Interrupt(interrupt) => unsafe {
                bindings::irq_work_sync(interrupt.work.get());
            },
        }
    }
}

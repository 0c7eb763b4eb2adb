// SPDX-License-Identifier: GPL-2.0

//! Event file descriptors: waiting for one without a thread.

use super::bindings as helpers;
use core::{
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// An eventfd as an open file.
///
/// # Invariants
///
/// Owns a reference to a file that is an eventfd.
pub(crate) struct EventFile(NonNull<bindings::file>);

// SAFETY: References to files may be used and dropped by any thread.
unsafe impl Send for EventFile {}
// SAFETY: As above; polling a file is thread-safe.
unsafe impl Sync for EventFile {}

impl EventFile {
    /// Returns the eventfd behind a descriptor of the current process.
    ///
    /// # Errors
    ///
    /// EBADF when it is not open, EINVAL when it is not an eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be asked about.
        let file = from_err_ptr(unsafe { bindings::eventfd_fget(fd) })?;
        // INVARIANT: `eventfd_fget` gave us a reference.
        NonNull::new(file).map(Self).ok_or(EBADF)
    }
}

impl Drop for EventFile {
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// Reacts to a signal of an eventfd.
pub(crate) trait Wake: Send + Sync + 'static {
    /// Runs with the eventfd's lock held and interrupts off: must neither sleep nor signal an
    /// eventfd.
    fn wake(&self);
}

/// Calls [`Wake::wake`] whenever an eventfd is signalled, until it is dropped.
///
/// # Invariants
///
/// `entry` is queued on `head` unless that is null, and `head` belongs to `file`.
#[pin_data(PinnedDrop)]
pub(crate) struct EventWatch<W: Wake> {
    #[pin]
    entry: Opaque<bindings::wait_queue_entry>,
    head: *mut bindings::wait_queue_head,
    file: Arc<EventFile>,
    target: W,
}

// SAFETY: `head` stays valid with `file`, on whichever thread; the rest is `Send`.
unsafe impl<W: Wake> Send for EventWatch<W> {}
// SAFETY: A shared reference is used by the callback only, which calls `W: Sync`.
unsafe impl<W: Wake> Sync for EventWatch<W> {}

/// The arguments of [`queue`], around the table that poll hands to it.
#[repr(C)]
struct Registering {
    table: bindings::poll_table,
    entry: *mut bindings::wait_queue_entry,
    head: *mut bindings::wait_queue_head,
}

impl<W: Wake> EventWatch<W> {
    /// Begins to watch. An eventfd that is signalled already wakes at once.
    pub(crate) fn new(file: Arc<EventFile>, target: W) -> Result<Pin<KBox<Self>>> {
        let mut watch = KBox::pin_init(
            pin_init!(Self {
                entry: Opaque::uninit(),
                head: core::ptr::null_mut(),
                file,
                target,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: Nothing is moved out of the pinned value.
        let this = unsafe { watch.as_mut().get_unchecked_mut() };
        let entry = this.entry.get();
        // SAFETY: `entry` is ours and not queued. `private` is for the callback alone to use; it
        // points to the value that `drop` takes off the queue before it goes.
        unsafe {
            entry.write(bindings::wait_queue_entry {
                func: Some(callback::<W>),
                private: core::ptr::from_mut(this).cast(),
                ..pin_init::zeroed()
            });
        }
        let mut registering = Registering {
            table: bindings::poll_table {
                _qproc: Some(queue),
                _key: !0,
            },
            entry,
            head: core::ptr::null_mut(),
        };
        // SAFETY: The file is open, and the table is the first field of what `queue` expects.
        let mask = unsafe {
            helpers::vblk_poll(
                this.file.0.as_ptr(),
                (&raw mut registering).cast::<bindings::poll_table>(),
            )
        };
        // INVARIANT: `queue` queued the entry on that head of this file, or was not called.
        this.head = registering.head;
        if mask & helpers::VBLK_POLLIN != 0 {
            this.target.wake();
        }
        Ok(watch)
    }
}

#[pinned_drop]
impl<W: Wake> PinnedDrop for EventWatch<W> {
    fn drop(self: Pin<&mut Self>) {
        if !self.head.is_null() {
            // SAFETY: The entry is queued there, by the type invariant. This takes the lock that
            // the callback runs under: it is neither running afterwards nor called again.
            unsafe { bindings::remove_wait_queue(self.head, self.entry.get()) };
        }
    }
}

/// # Safety
///
/// Called by `poll` with the table of a [`Registering`] whose entry is not queued.
unsafe extern "C" fn queue(
    _file: *mut bindings::file,
    head: *mut bindings::wait_queue_head,
    table: *mut bindings::poll_table,
) {
    let registering = table.cast::<Registering>();
    // SAFETY: `table` is the first field of a `Registering`, and the only reference to it. The
    // head lives as long as its file.
    unsafe {
        if (*registering).head.is_null() {
            (*registering).head = head;
            bindings::add_wait_queue(head, (*registering).entry);
        }
    }
}

/// # Safety
///
/// Called for a queued entry of an [`EventWatch<W>`].
unsafe extern "C" fn callback<W: Wake>(
    entry: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    key: *mut c_void,
) -> c_int {
    if key.addr() & helpers::VBLK_POLLIN as usize != 0 {
        // SAFETY: `private` points to the watch, which is pinned, and alive while queued.
        unsafe { &*(*entry).private.cast::<EventWatch<W>>() }
            .target
            .wake();
    }
    0
}

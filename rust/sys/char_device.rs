// SPDX-License-Identifier: GPL-2.0

//! A character device whose open files keep the module loaded.
//!
//! `kernel::miscdevice` leaves `fops.owner` unset, so that the module could go while a file is
//! open; hence the file operations of our own.

use core::{
    marker::PhantomData,
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    },
};

/// What an open file of the device does.
pub(crate) trait CharDevice: Send + Sync + Sized + 'static {
    /// Name below /dev.
    const NAME: &'static CStr;

    /// A file was opened.
    fn open() -> Result<Pin<KBox<Self>>>;

    /// An ioctl on `file`, also of a 32-bit program: arguments must have one layout for both.
    fn ioctl(&self, file: OpenedFile<'_>, command: u32, arg: usize) -> Result<isize>;
}

/// The file that a call comes by.
///
/// # Invariants
///
/// It is open as long as the lifetime says.
#[derive(Clone, Copy)]
pub(crate) struct OpenedFile<'a>(
    #[cfg_attr(not(CONFIG_VHOST_BLK_RS_VDPA), expect(dead_code))] NonNull<bindings::file>,
    PhantomData<&'a ()>,
);

/// A reference to an open file of this module, which therefore stays loaded.
///
/// # Invariants
///
/// Owns a reference to the file.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) struct HeldFile(NonNull<bindings::file>);

// SAFETY: References to files may be used and dropped by any thread.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
unsafe impl Send for HeldFile {}
// SAFETY: A shared reference gives access to nothing.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
unsafe impl Sync for HeldFile {}

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
impl OpenedFile<'_> {
    /// Keeps the file open.
    pub(crate) fn hold(self) -> HeldFile {
        // SAFETY: Open, by the type invariant.
        unsafe { bindings::get_file(self.0.as_ptr()) };
        // INVARIANT: taken just now.
        HeldFile(self.0)
    }
}

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
impl Drop for HeldFile {
    /// The file is closed later, by the kernel, if this was the last reference.
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// The registered device. It disappears with this value; the files stay.
///
/// # Invariants
///
/// `misc` is registered and points to `operations`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: CharDevice> {
    operations: bindings::file_operations,
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    _device: PhantomData<T>,
}

// SAFETY: `misc_deregister` may be called from any thread, and there is no other access.
unsafe impl<T: CharDevice> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: CharDevice> Sync for Registration<T> {}

impl<T: CharDevice> Registration<T> {
    /// Registers the device for the module `owner`.
    pub(crate) fn new(owner: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            operations: bindings::file_operations {
                owner: owner.as_ptr(),
                open: Some(open::<T>),
                release: Some(release::<T>),
                unlocked_ioctl: Some(ioctl::<T>),
                #[cfg(CONFIG_COMPAT)]
                compat_ioctl: Some(bindings::compat_ptr_ioctl),
                llseek: Some(bindings::noop_llseek),
                ..pin_init::zeroed()
            },
            // INVARIANT: registered when this succeeds; `operations` was written before.
            misc <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                // SAFETY: `slot` is ours to write, and `this` is pinned around it.
                unsafe {
                    slot.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: T::NAME.as_char_ptr(),
                        fops: &raw const (*this.as_ptr()).operations,
                        ..pin_init::zeroed()
                    });
                }
                // SAFETY: `slot` holds a complete `miscdevice` that stays where it is until `drop`
                // takes it back.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
            _device: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: CharDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered, by the type invariant. Files that are still open have a reference to
        // the module, which therefore is not being unloaded: only a failing init gets here then,
        // and nothing can have been opened by name before that.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// # Safety
///
/// Called by the VFS: `file` is being opened and belongs to a [`Registration<T>`].
unsafe extern "C" fn open<T: CharDevice>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    match T::open() {
        Ok(device) => {
            // SAFETY: The private data of a file that is being opened is ours to set.
            unsafe { (*file).private_data = device.into_foreign() };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the VFS: the last use of a file that [`open`] succeeded for.
unsafe extern "C" fn release<T: CharDevice>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: `open` put it there with `into_foreign`, and nobody else uses the file any more.
    let device = unsafe { <Pin<KBox<T>>>::from_foreign((*file).private_data) };
    drop(device);
    0
}

/// # Safety
///
/// Called by the VFS: `file` is open, and [`open`] succeeded for it.
unsafe extern "C" fn ioctl<T: CharDevice>(
    file: *mut bindings::file,
    command: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: `open` put it there with `into_foreign`, and `release` comes after every ioctl.
    let device = unsafe { <Pin<KBox<T>>>::borrow((*file).private_data) };
    let Some(file) = NonNull::new(file) else {
        return EBADF.to_errno() as c_long;
    };
    // INVARIANT: it is open during the call.
    match device.ioctl(OpenedFile(file, PhantomData), command, arg) {
        Ok(value) => value,
        Err(error) => error.to_errno() as c_long,
    }
}

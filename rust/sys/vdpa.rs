// SPDX-License-Identifier: GPL-2.0

//! Devices on the vDPA bus, and the management device that they belong to.

use super::{
    bindings as helpers,
    char_device::HeldFile,
    vdpa_ops::{
        ops,
        Object,
        Operations,
        VdpaOps, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    str::CString,
    types::ForeignOwnable, //
};

/// The driver of the bus that a device is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BusDriver {
    /// vhost_vdpa: the device is for a VMM.
    VhostVdpa,
    /// virtio_vdpa: the device is for the host.
    VirtioVdpa,
}

/// The management device. Devices belong to it.
///
/// # Invariants
///
/// It is registered.
pub(crate) struct Management<T> {
    _ops: PhantomData<T>,
}

impl<T: VdpaOps> Management<T> {
    /// Registers the management device, for devices with up to so many queues that offer at most these
    /// features.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(features: u64, max_queues: u32) -> Result<Self> {
        // SAFETY: Called once, by the module's one value of this type, until it is dropped.
        to_result(unsafe { helpers::vblk_vdpa_mgmt_register(features, max_queues) })?;
        // INVARIANT: registered just now.
        Ok(Self { _ops: PhantomData })
    }
}

impl<T> Drop for Management<T> {
    fn drop(&mut self) {
        // SAFETY: Registered, by the type invariant. There are no devices: each holds the module.
        unsafe { helpers::vblk_vdpa_mgmt_unregister() };
    }
}

/// A device that was found on the bus.
///
/// # Invariants
///
/// Owns a reference to a device of the management device, whose object is a `T`.
pub(crate) struct VdpaDevice<T> {
    vdpa: NonNull<helpers::vdpa_device>,
    _ops: PhantomData<T>,
}

impl<T: VdpaOps> VdpaDevice<T> {
    /// Makes a device with a face on the bus, which holds `keeps_module` until it is gone.
    ///
    /// # Errors
    ///
    /// EEXIST when the name is taken; ENOMEM.
    pub(crate) fn register(
        name: &CStr,
        driver: BusDriver,
        queues: u32,
        ops: impl PinInit<T, Error>,
        keeps_module: HeldFile,
    ) -> Result {
        let object = KBox::pin_init(
            try_pin_init!(Object {
                ops <- ops,
                _keeps_module: keeps_module,
            }),
            GFP_KERNEL,
        )?;
        let driver = match driver {
            BusDriver::VhostVdpa => c"vhost_vdpa",
            BusDriver::VirtioVdpa => c"virtio_vdpa",
        };
        // SAFETY: The operations are static and fit the object that is set below; strings are copied.
        // The management device exists: only its devices, or a command that comes through the module,
        // get here.
        let vdpa = from_err_ptr(unsafe {
            helpers::vblk_vdpa_alloc(
                Operations::<T>::TABLE,
                name.as_char_ptr(),
                driver.as_char_ptr(),
            )
        })?;
        // INVARIANT: allocated just now.
        let this = Self {
            vdpa: NonNull::new(vdpa).ok_or(ENOMEM)?,
            _ops: PhantomData,
        };
        // SAFETY: The device is not registered yet. `free` takes the object back.
        unsafe { helpers::vblk_vdpa_set_object(vdpa, object.into_foreign().cast()) };
        // SAFETY: Complete; registered once. The bus has a reference of its own.
        to_result(unsafe { helpers::vblk_vdpa_register(vdpa, queues) })?;
        core::mem::forget(this);
        Ok(())
    }
}

impl<T: VdpaOps> VdpaDevice<T> {
    /// Returns the device with this name, if there is one.
    pub(crate) fn find(name: &CStr) -> Option<Self> {
        // SAFETY: A string.
        Self::take(unsafe { helpers::vblk_vdpa_find(name.as_char_ptr()) })
    }

    /// Returns a device by its place in the order in which they were made, if there are so many.
    pub(crate) fn nth(index: u32) -> Option<Self> {
        // SAFETY: Any number may be asked about.
        Self::take(unsafe { helpers::vblk_vdpa_nth(index) })
    }

    fn take(vdpa: *mut helpers::vdpa_device) -> Option<Self> {
        // INVARIANT: the reference is ours now; the object is that which `register` set.
        let this = Self {
            vdpa: NonNull::new(vdpa)?,
            _ops: PhantomData,
        };
        // SAFETY: The device is there.
        let is_ours =
            unsafe { helpers::vblk_vdpa_has_ops(this.vdpa.as_ptr(), Operations::<T>::TABLE) };
        is_ours.then_some(this)
    }

    /// Returns the operations of the device.
    pub(crate) fn ops(&self) -> &T {
        // SAFETY: The device is there as long as `self`, by the type invariant.
        unsafe { ops(self.vdpa.as_ptr()) }
    }

    /// Returns the name of the device.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn name(&self) -> Result<CString> {
        // SAFETY: The name stays as long as the device: the bus renames none.
        let name = unsafe { CStr::from_char_ptr(helpers::vblk_vdpa_name(self.vdpa.as_ptr())) };
        Ok(CString::try_from(name)?)
    }

    /// Takes the device off the bus. Waits until a VMM has closed it.
    ///
    /// # Errors
    ///
    /// ENODEV when another task does so.
    pub(crate) fn unregister(&self) -> Result {
        // SAFETY: The device is registered unless that is found out there.
        to_result(unsafe { helpers::vblk_vdpa_unregister(self.vdpa.as_ptr()) })
    }
}

impl<T> Drop for VdpaDevice<T> {
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { helpers::vblk_vdpa_put(self.vdpa.as_ptr()) };
    }
}

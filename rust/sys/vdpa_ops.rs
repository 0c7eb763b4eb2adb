// SPDX-License-Identifier: GPL-2.0

//! The operations of a device on the vDPA bus: what a driver of the bus calls.
//!
//! The driver is vhost_vdpa for a VMM, or virtio_vdpa for the host's own driver. The calls may come at
//! any time and in any order, several at once.
//!
//! # Safety
//!
//! The functions below are called by the bus, for a device whose object is an [`Object<T>`], and the
//! pointers are as `struct vdpa_config_ops` says.

#![allow(clippy::missing_safety_doc)]

use super::{
    bindings as helpers,
    char_device::HeldFile,
    mapped_pages::{
        MappedPages,
        Permission, //
    },
    signal::Signal, //
};
use core::{
    marker::PhantomData,
    pin::Pin, //
};
use kernel::{
    error::from_result,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    page::PAGE_SIZE,
    prelude::*,
    types::ForeignOwnable, //
};
use vblk_core::addr::GuestAddr;

/// Vendor of the devices. vDPA has no register of vendors; the kernel's own devices have 0.
const VENDOR: u32 = 0;

/// A driver of the host has a device, which addresses all of its memory as it likes.
pub(crate) struct HostDriver(());

impl HostDriver {
    /// Returns a part of the memory of the host, by number; `None` when there are fewer.
    pub(crate) fn memory(&self, part: u64) -> Option<MappedPages> {
        // SAFETY: There is a driver of the host. The addresses that a device uses are those that its
        // driver put into rings; that they are its own is the host's trust in its driver, as with
        // any device that does DMA.
        unsafe { MappedPages::of_host(part) }
    }
}

/// Who uses a device.
pub(crate) enum User {
    /// A VMM, by vhost_vdpa. It maps the memory that the device shall use.
    Vmm,
    /// The host, by virtio_vdpa.
    Host(HostDriver),
}

/// A device on the bus. Queues have numbers that are smaller than those that it was registered with.
pub(crate) trait VdpaOps: Send + Sync + Sized + 'static {
    /// Sets where the parts of a ring lie: descriptors, driver area, device area.
    fn set_vq_address(&self, index: usize, parts: [GuestAddr; 3]) -> Result;
    /// Sets the number of entries of a ring.
    fn set_vq_num(&self, index: usize, num: u32);
    /// Tells of requests. In any context.
    fn kick_vq(&self, index: usize);
    /// Exchanges what is signalled for answers. The old one is not signalled any more afterwards.
    fn set_vq_call(&self, index: usize, call: Result<Option<Signal>>);
    /// Starts or stops a queue. virtio_vdpa lets go of its callback when it stops one.
    fn set_vq_ready(&self, index: usize, is_ready: bool, user: User);
    /// Returns whether a queue is started, or shall be with the device.
    fn is_vq_ready(&self, index: usize) -> bool;
    /// Sets the position in a ring, in the encoding of VHOST_SET_VRING_BASE. virtio_vdpa does this
    /// last before it starts the queue, which it is not told of if it fails.
    fn set_vq_base(&self, index: usize, base: u32, user: User) -> Result;
    /// Returns the position in a ring.
    fn vq_base(&self, index: usize) -> Result<u32>;
    /// Returns the most entries that a ring may have.
    fn max_vq_num(&self) -> u16;
    /// Returns whether rings are packed.
    fn is_packed(&self) -> bool;
    /// Returns the features on offer.
    fn device_features(&self) -> u64;
    /// Sets the features that were negotiated.
    fn set_driver_features(&self, features: u64) -> Result;
    /// Returns the features that were negotiated.
    fn driver_features(&self) -> u64;
    /// Exchanges what is signalled when the configuration space has changed. The old one is not
    /// signalled any more afterwards.
    fn set_config_call(&self, call: Result<Option<Signal>>);
    /// Returns the device status.
    fn status(&self) -> u8;
    /// Sets the device status, which is not 0.
    fn set_status(&self, status: u8, user: User);
    /// Forgets all that a driver set up. When this returns nothing is signalled any more.
    fn reset(&self);
    /// Stops all queues, so that they can go on later.
    fn suspend(&self) -> Result;
    /// Has the queues go on.
    fn resume(&self) -> Result;
    /// Returns the bytes of the configuration space.
    fn config_size(&self) -> usize;
    /// Reads from the configuration space.
    fn read_config(&self, offset: usize, to: &mut [u8]);
    /// Writes to the configuration space.
    fn write_config(&self, offset: usize, from: &[u8]);
    /// Returns a number that changes with the configuration space.
    fn config_generation(&self) -> u32;
    /// Maps pages at an IO virtual address.
    fn map(&self, start: GuestAddr, pages: MappedPages) -> Result;
    /// Unmaps a range of IO virtual addresses. When this returns nothing there is accessed any more.
    fn unmap(&self, first: GuestAddr, last: GuestAddr);
}

// SAFETY: All fields are optional functions, for which zero is `None`.
unsafe impl Zeroable for helpers::vdpa_config_ops {}

/// An object with the file that keeps this module loaded as long as it has a face on the bus.
#[pin_data]
pub(super) struct Object<T> {
    #[pin]
    pub(super) ops: T,
    /// Let go of last: its end, which comes later, may be that of this code.
    pub(super) _keeps_module: HeldFile,
}

/// The operations of devices whose object is an [`Object<T>`].
pub(super) struct Operations<T>(PhantomData<T>);

impl<T: VdpaOps> Operations<T> {
    /// The operations, for the bus.
    pub(super) const TABLE: &'static helpers::vdpa_config_ops = &helpers::vdpa_config_ops {
        set_vq_address: Some(set_vq_address::<T>),
        set_vq_num: Some(set_vq_num::<T>),
        kick_vq: Some(kick_vq::<T>),
        set_vq_cb: Some(set_vq_cb::<T>),
        set_vq_ready: Some(set_vq_ready::<T>),
        get_vq_ready: Some(get_vq_ready::<T>),
        set_vq_state: Some(set_vq_state::<T>),
        get_vq_state: Some(get_vq_state::<T>),
        get_vq_align: Some(get_vq_align),
        get_device_features: Some(get_device_features::<T>),
        get_backend_features: Some(get_backend_features),
        set_driver_features: Some(set_driver_features::<T>),
        get_driver_features: Some(get_driver_features::<T>),
        set_config_cb: Some(set_config_cb::<T>),
        get_vq_num_max: Some(get_vq_num_max::<T>),
        get_device_id: Some(get_device_id),
        get_vendor_id: Some(get_vendor_id),
        get_status: Some(get_status::<T>),
        set_status: Some(set_status::<T>),
        reset: Some(reset::<T>),
        suspend: Some(suspend::<T>),
        resume: Some(resume::<T>),
        get_config_size: Some(get_config_size::<T>),
        get_config: Some(get_config::<T>),
        set_config: Some(set_config::<T>),
        get_generation: Some(get_generation::<T>),
        dma_map: Some(dma_map::<T>),
        dma_unmap: Some(dma_unmap::<T>),
        free: Some(free::<T>),
        ..pin_init::zeroed()
    };
}

/// Returns the operations of a device.
///
/// # Safety
///
/// `vdpa` is a device whose object is a `T`, and stays as long as the result is used.
pub(super) unsafe fn ops<'a, T: VdpaOps>(vdpa: *const helpers::vdpa_device) -> &'a T {
    // SAFETY: `register` put the object there with `into_foreign`, and `free` comes last.
    let object = unsafe { helpers::vblk_vdpa_object(vdpa) };
    // SAFETY: As above.
    let object = unsafe { Pin::<KBox<Object<T>>>::borrow(object.cast()) };
    &object.get_ref().ops
}

unsafe extern "C" fn set_vq_address<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    index: u16,
    desc: u64,
    driver: u64,
    device: u64,
) -> c_int {
    let parts = [desc, driver, device].map(GuestAddr);
    // SAFETY: As the caller promised.
    let ops = unsafe { ops::<T>(vdpa) };
    errno(ops.set_vq_address(index.into(), parts))
}

unsafe extern "C" fn set_vq_num<T: VdpaOps>(vdpa: *mut helpers::vdpa_device, index: u16, num: u32) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.set_vq_num(index.into(), num);
}

unsafe extern "C" fn kick_vq<T: VdpaOps>(vdpa: *mut helpers::vdpa_device, index: u16) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.kick_vq(index.into());
}

/// Returns what a driver of the bus wants to be called.
///
/// # Errors
///
/// ENOMEM.
///
/// # Safety
///
/// `vdpa` is there. `callback` points to a callback that may be called until another one is set, or
/// the device is reset.
unsafe fn signal(
    vdpa: *mut helpers::vdpa_device,
    callback: *mut helpers::vdpa_callback,
) -> Result<Option<Signal>> {
    // SAFETY: As the caller promised: the operations let go of the callback then.
    unsafe { Signal::from_callback(&*callback, helpers::vblk_vdpa_is_for_host(vdpa)) }
}

unsafe extern "C" fn set_vq_cb<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    index: u16,
    callback: *mut helpers::vdpa_callback,
) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa).set_vq_call(index.into(), signal(vdpa, callback)) };
}

unsafe extern "C" fn set_vq_ready<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    index: u16,
    ready: bool,
) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa).set_vq_ready(index.into(), ready, user(vdpa)) };
}

unsafe extern "C" fn get_vq_ready<T: VdpaOps>(vdpa: *mut helpers::vdpa_device, index: u16) -> bool {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.is_vq_ready(index.into())
}

/// Returns who has a device.
///
/// # Safety
///
/// `vdpa` is there, and its driver is calling.
unsafe fn user(vdpa: *mut helpers::vdpa_device) -> User {
    // SAFETY: As the caller promised.
    if unsafe { helpers::vblk_vdpa_is_for_host(vdpa) } {
        User::Host(HostDriver(()))
    } else {
        User::Vmm
    }
}

unsafe extern "C" fn set_vq_state<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    index: u16,
    state: *const helpers::vdpa_vq_state,
) -> c_int {
    // SAFETY: As the caller promised.
    let ops = unsafe { ops::<T>(vdpa) };
    // SAFETY: As the caller promised.
    let base = unsafe { helpers::vblk_vq_state_base(state, ops.is_packed()) };
    // SAFETY: As the caller promised.
    errno(ops.set_vq_base(index.into(), base, unsafe { user(vdpa) }))
}

unsafe extern "C" fn get_vq_state<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    index: u16,
    state: *mut helpers::vdpa_vq_state,
) -> c_int {
    // SAFETY: As the caller promised.
    let ops = unsafe { ops::<T>(vdpa) };
    from_result(|| {
        let base = ops.vq_base(index.into())?;
        // SAFETY: As the caller promised.
        unsafe { helpers::vblk_vq_state_set(state, base, ops.is_packed()) };
        Ok(0)
    })
}

unsafe extern "C" fn get_vq_align(_vdpa: *mut helpers::vdpa_device) -> u32 {
    PAGE_SIZE as u32
}

unsafe extern "C" fn get_device_features<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> u64 {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.device_features()
}

/// What is mapped stays over a reset, and queues may be started after the device.
unsafe extern "C" fn get_backend_features(_vdpa: *const helpers::vdpa_device) -> u64 {
    1 << helpers::VBLK_BACKEND_F_ENABLE_AFTER_DRIVER_OK | 1 << helpers::VBLK_BACKEND_F_IOTLB_PERSIST
}

unsafe extern "C" fn set_driver_features<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    features: u64,
) -> c_int {
    // SAFETY: As the caller promised.
    errno(unsafe { ops::<T>(vdpa) }.set_driver_features(features))
}

unsafe extern "C" fn get_driver_features<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> u64 {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.driver_features()
}

unsafe extern "C" fn set_config_cb<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    callback: *mut helpers::vdpa_callback,
) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa).set_config_call(signal(vdpa, callback)) };
}

unsafe extern "C" fn get_vq_num_max<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> u16 {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.max_vq_num()
}

unsafe extern "C" fn get_device_id(_vdpa: *mut helpers::vdpa_device) -> u32 {
    helpers::VBLK_ID_BLOCK
}

unsafe extern "C" fn get_vendor_id(_vdpa: *mut helpers::vdpa_device) -> u32 {
    VENDOR
}

unsafe extern "C" fn get_status<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> u8 {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.status()
}

unsafe extern "C" fn set_status<T: VdpaOps>(vdpa: *mut helpers::vdpa_device, status: u8) {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa).set_status(status, user(vdpa)) };
}

unsafe extern "C" fn reset<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> c_int {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.reset();
    0
}

unsafe extern "C" fn suspend<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> c_int {
    // SAFETY: As the caller promised.
    errno(unsafe { ops::<T>(vdpa) }.suspend())
}

unsafe extern "C" fn resume<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> c_int {
    // SAFETY: As the caller promised.
    errno(unsafe { ops::<T>(vdpa) }.resume())
}

unsafe extern "C" fn get_config_size<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> usize {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.config_size()
}

unsafe extern "C" fn get_config<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    offset: c_uint,
    to: *mut c_void,
    len: c_uint,
) {
    // SAFETY: As the caller promised: there is room for `len` bytes, filled before they are lent.
    let to = unsafe {
        to.cast::<u8>().write_bytes(0, len as usize);
        core::slice::from_raw_parts_mut(to.cast::<u8>(), len as usize)
    };
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.read_config(offset as usize, to);
}

unsafe extern "C" fn set_config<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    offset: c_uint,
    from: *const c_void,
    len: c_uint,
) {
    // SAFETY: As the caller promised: there are `len` bytes, which do not change.
    let from = unsafe { core::slice::from_raw_parts(from.cast::<u8>(), len as usize) };
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.write_config(offset as usize, from);
}

unsafe extern "C" fn get_generation<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) -> u32 {
    // SAFETY: As the caller promised.
    unsafe { ops::<T>(vdpa) }.config_generation()
}

unsafe extern "C" fn dma_map<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    space: c_uint,
    start: u64,
    bytes: u64,
    addr: u64,
    access: u32,
    _opaque: *mut c_void,
) -> c_int {
    from_result(|| {
        let permission = match access {
            helpers::VBLK_ACCESS_RO => Permission::Read,
            helpers::VBLK_ACCESS_WO => Permission::Write,
            helpers::VBLK_ACCESS_RW => Permission::ReadWrite,
            _ => return Err(EINVAL),
        };
        if space != 0 {
            return Err(EINVAL);
        }
        // SAFETY: As the caller promised: vhost_vdpa has pinned the pages for long, and for writing
        // if they may be written.
        let pages = unsafe { MappedPages::pin(addr, bytes, permission) }?;
        // SAFETY: As the caller promised.
        unsafe { ops::<T>(vdpa) }.map(GuestAddr(start), pages)?;
        Ok(0)
    })
}

unsafe extern "C" fn dma_unmap<T: VdpaOps>(
    vdpa: *mut helpers::vdpa_device,
    space: c_uint,
    start: u64,
    bytes: u64,
) -> c_int {
    from_result(|| {
        let more = bytes.checked_sub(1).ok_or(EINVAL)?;
        let last = start.checked_add(more).ok_or(EINVAL)?;
        if space != 0 {
            return Err(EINVAL);
        }
        // SAFETY: As the caller promised.
        unsafe { ops::<T>(vdpa) }.unmap(GuestAddr(start), GuestAddr(last));
        Ok(0)
    })
}

unsafe extern "C" fn free<T: VdpaOps>(vdpa: *mut helpers::vdpa_device) {
    // SAFETY: The device is going.
    let object = unsafe { helpers::vblk_vdpa_object(vdpa) };
    if !object.is_null() {
        // SAFETY: `register` put it there with `into_foreign`, and the bus was its last user.
        drop(unsafe { Pin::<KBox<Object<T>>>::from_foreign(object.cast()) });
    }
}

/// Returns what the bus expects for a result.
fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

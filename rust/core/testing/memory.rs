// SPDX-License-Identifier: GPL-2.0

//! How the model of a driver reaches guest memory.

use crate::addr::GuestAddr;
use std::{
    sync::Arc,
    vec,
    vec::Vec, //
};

/// Guest memory as the driver sees it.
///
/// The mirror image of [`crate::memory::SharedMemory`], with guest addresses instead of offsets.
/// Values are in the byte order of the host; [`Driver`](super::Driver) converts. Accesses of 16
/// bits are aligned, single and untorn. Shared references are enough to write: it is shared
/// memory.
///
/// # Panics
///
/// All methods may panic when there is no memory at the address.
pub trait DriverMemory {
    /// Fills `to` with the bytes from `from` on, without ordering.
    fn read(&self, from: GuestAddr, to: &mut [u8]);
    /// Writes `bytes` from `to` on, without ordering.
    fn write(&self, to: GuestAddr, bytes: &[u8]);
    /// Loads without ordering.
    fn load_u16(&self, at: GuestAddr) -> u16;
    /// Loads; no later access of this thread is seen before it.
    fn load_acquire_u16(&self, at: GuestAddr) -> u16;
    /// Stores without ordering.
    fn store_u16(&self, at: GuestAddr, value: u16);
    /// Stores; no earlier access of this thread is seen after it.
    fn store_release_u16(&self, at: GuestAddr, value: u16);
    /// Orders every earlier access of this thread before every later one.
    fn full_barrier(&self);

    /// Returns `len` bytes from `from` on.
    fn read_vec(&self, from: GuestAddr, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(from, &mut bytes);
        bytes
    }

    /// Returns the byte at `from`.
    fn read_u8(&self, from: GuestAddr) -> u8 {
        let mut byte = [0];
        self.read(from, &mut byte);
        byte[0]
    }

    /// Sets `len` bytes from `to` on to `value`.
    fn fill(&self, to: GuestAddr, len: usize, value: u8) {
        self.write(to, &vec![value; len]);
    }
}

/// Forwards to what a pointer points to, so that several drivers can share one memory.
macro_rules! forward {
    ($($pointer:ty),*) => { $(
        impl<T: DriverMemory + ?Sized> DriverMemory for $pointer {
            fn read(&self, from: GuestAddr, to: &mut [u8]) {
                (**self).read(from, to)
            }
            fn write(&self, to: GuestAddr, bytes: &[u8]) {
                (**self).write(to, bytes)
            }
            fn load_u16(&self, at: GuestAddr) -> u16 {
                (**self).load_u16(at)
            }
            fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
                (**self).load_acquire_u16(at)
            }
            fn store_u16(&self, at: GuestAddr, value: u16) {
                (**self).store_u16(at, value)
            }
            fn store_release_u16(&self, at: GuestAddr, value: u16) {
                (**self).store_release_u16(at, value)
            }
            fn full_barrier(&self) {
                (**self).full_barrier()
            }
        }
    )* };
}

forward!(&T, Arc<T>);

// SPDX-License-Identifier: GPL-2.0

//! Access to memory that is shared with a guest, as traits.
//!
//! Two rules justify the shape of these traits. Shared memory changes at any moment, so every
//! value is loaded exactly once and judged on that copy. And shared memory is never handed out as
//! a Rust reference, so that no implementation needs to pretend that it holds still.

use crate::addr::{
    GuestAddr,
    HostAddr, //
};

/// Reason for which an access to guest memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest named memory that is in no region: the guest's mistake.
    OutsideTable,
    /// The host could not reach memory that the table does hold: the host's failure.
    Inaccessible,
}

/// One part of a ring (descriptors, available or used) as memory shared with the guest.
///
/// Offsets are in bytes and aligned to the size of the access. Values are in the byte order of
/// the host; this crate converts. Each access is a single, untorn one. An access outside the part
/// must be harmless: a load gives 0 and a store does nothing.
pub trait SharedMemory {
    /// Loads without ordering.
    fn load_u16(&self, offset: usize) -> u16;
    /// Loads without ordering.
    fn load_u64(&self, offset: usize) -> u64;
    /// Loads two in a row without ordering, each untorn.
    fn load_u64_pair(&self, offset: usize) -> [u64; 2] {
        [self.load_u64(offset), self.load_u64(offset + 8)]
    }
    /// Loads; no later access of this thread is seen before it.
    fn load_acquire_u16(&self, offset: usize) -> u16;
    /// Stores without ordering.
    fn store_u16(&self, offset: usize, value: u16);
    /// Stores without ordering.
    fn store_u32(&self, offset: usize, value: u32);
    /// Stores two in a row without ordering, each untorn.
    fn store_u32_pair(&self, offset: usize, values: [u32; 2]) {
        let [first, second] = values;
        self.store_u32(offset, first);
        self.store_u32(offset + 4, second);
    }
    /// Stores; no earlier access of this thread is seen after it.
    fn store_release_u16(&self, offset: usize, value: u16);
    /// Orders every earlier access of this thread before every later one.
    fn full_barrier(&self);
}

/// A bitmap that others read and clear at the same time: the first bit of a byte is its lowest.
pub trait SharedBitmap {
    /// Sets a bit; no earlier write of this thread is seen after it. A bit outside is left out.
    fn set(&self, bit: u64);
}

/// Reads memory of the process that owns the device, by its own addresses.
pub trait CopyIn {
    /// Fills `to` with the bytes from `from` on.
    ///
    /// # Errors
    ///
    /// [`Fault::Inaccessible`] when any of them can't be read; `to` may be partly overwritten then.
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault>;
}

/// Reads guest memory by guest address.
pub trait ReadGuest {
    /// Fills `to` with the bytes from `from` on.
    ///
    /// # Errors
    ///
    /// [`Fault`] when any of them can't be read; `to` may be partly overwritten then.
    fn read(&self, from: GuestAddr, to: &mut [u8]) -> Result<(), Fault>;
}

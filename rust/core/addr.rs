// SPDX-License-Identifier: GPL-2.0

//! The two address spaces and the unit of a disk, as types that can't be mixed up.

/// A guest-physical address, in bytes. The guest chooses it: nothing about it can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestAddr(pub u64);

impl GuestAddr {
    /// Returns the address `bytes` further on, or `None` past the end of the address space.
    #[inline]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

/// An address in the memory of the process that owns the device, in bytes.
///
/// The user of this crate gives it a meaning: an address in the owner's address space, or an offset
/// in a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddr(pub u64);

impl HostAddr {
    /// Returns the address `bytes` further on, or `None` past the end of the address space.
    #[inline]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

/// Bytes in a [`Sector`]. Fixed by virtio whatever the block size of the disk is
/// (virtio 1.2, 5.2.6).
pub const SECTOR_SIZE: u64 = 512;

/// A position on the disk, in units of [`SECTOR_SIZE`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sector(pub u64);

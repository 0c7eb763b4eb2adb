// SPDX-License-Identifier: GPL-2.0

//! The arguments of ioctls, in the memory of the current process.

use crate::{
    memory::MemoryRegion,
    sys::{
        errno::eopnotsupp,
        is_user_range, //
    },
};
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    table::MAX_REGIONS,
    uapi, //
};

/// The address of an argument.
#[derive(Clone, Copy)]
pub(super) struct UserArgument(pub(super) usize);

impl UserArgument {
    /// Reads the argument.
    ///
    /// # Errors
    ///
    /// EFAULT.
    pub(super) fn read<const N: usize>(self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        UserSlice::new(UserPtr::from_addr(self.0), N)
            .reader()
            .read_slice(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a result to the argument.
    ///
    /// # Errors
    ///
    /// EFAULT.
    pub(super) fn write(self, bytes: &[u8]) -> Result {
        UserSlice::new(UserPtr::from_addr(self.0), bytes.len())
            .writer()
            .write_slice(bytes)
    }

    /// Returns the argument `bytes` further on.
    ///
    /// # Errors
    ///
    /// EFAULT past the end of the address space.
    pub(super) fn skip(self, bytes: usize) -> Result<Self> {
        self.0.checked_add(bytes).map(Self).ok_or(EFAULT)
    }

    /// Reads a `struct vhost_memory` with its regions.
    ///
    /// # Errors
    ///
    /// EFAULT when it can't be read, or a region is no user memory; EOPNOTSUPP when the padding is
    /// used; E2BIG; ENOMEM.
    pub(super) fn read_regions(self) -> Result<KVec<MemoryRegion>> {
        let header = uapi::MemoryHeader::from_bytes(&self.read()?);
        if header.padding != 0 {
            return Err(eopnotsupp());
        }
        let count = header.nregions as usize;
        if count > MAX_REGIONS {
            return Err(E2BIG);
        }
        let mut regions = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        let mut at = self.skip(uapi::MemoryHeader::BYTES)?;
        for _ in 0..count {
            let region = uapi::MemoryRegion::from_bytes(&at.read()?);
            at = at.skip(uapi::MemoryRegion::BYTES)?;
            let host = HostAddr(region.userspace_addr);
            if !is_user_range(host, region.memory_size) {
                return Err(EFAULT);
            }
            let region = MemoryRegion {
                guest: GuestAddr(region.guest_phys_addr),
                host,
                bytes: region.memory_size,
            };
            regions.push(region, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(regions)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A block device that somebody opened for us.

use super::bindings as helpers;
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};
use vblk_core::config::Limits;

/// An open file of a block device.
///
/// # Invariants
///
/// Owns a reference to the file, which keeps `device` open. The file can be read.
pub(crate) struct BlockFile {
    file: NonNull<bindings::file>,
    device: NonNull<bindings::block_device>,
    writable: bool,
}

/// What decides which I/O a block device takes.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    /// Capacity in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// Logical block size in bytes, a power of two.
    pub(crate) block_size: u32,
    /// The bits of a memory address that must be 0 for the device to reach the memory.
    pub(crate) alignment_mask: u32,
    /// Whether it may not be written: by how it was opened, or by itself.
    pub(crate) read_only: bool,
}

// SAFETY: References to files may be used and dropped by any thread.
unsafe impl Send for BlockFile {}
// SAFETY: As above, and so may block devices.
unsafe impl Sync for BlockFile {}

impl BlockFile {
    /// The block device behind a descriptor of the current process.
    ///
    /// # Errors
    ///
    /// EBADF when it is not open, or not for reading; ENOTBLK when it is something else.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        // SAFETY: Any number may be asked about.
        let file = NonNull::new(unsafe { bindings::fget(fd) }).ok_or(EBADF)?;
        // SAFETY: The file is open while we hold the reference.
        let (device, readable, writable) = unsafe {
            (
                helpers::vblk_file_bdev(file.as_ptr()),
                helpers::vblk_file_can_read(file.as_ptr()),
                helpers::vblk_file_can_write(file.as_ptr()),
            )
        };
        let failed = match NonNull::new(device) {
            // INVARIANT: `fget` gave us a reference.
            Some(device) if readable => {
                return Ok(Self {
                    file,
                    device,
                    writable,
                })
            }
            Some(_) => EBADF,
            None => ENOTBLK,
        };
        // SAFETY: We own the reference and give it up.
        unsafe { bindings::fput(file.as_ptr()) };
        Err(failed)
    }

    /// The device, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::block_device {
        self.device.as_ptr()
    }

    /// What the device looks like now.
    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        let mut geometry = MaybeUninit::uninit();
        // SAFETY: The device is open, by the type invariant; all of the structure is filled in.
        let geometry: helpers::vblk_geometry = unsafe {
            helpers::vblk_bdev_geometry(self.as_ptr(), geometry.as_mut_ptr());
            geometry.assume_init()
        };
        Geometry {
            sectors: geometry.sectors,
            block_size: geometry.block_size,
            alignment_mask: geometry.dma_alignment,
            read_only: geometry.read_only || !self.writable,
        }
    }

    /// All that a configuration space tells of the device.
    pub(crate) fn limits(&self) -> Limits {
        let geometry = self.geometry();
        let mut limits = helpers::vblk_bdev_limits {
            physical_block_size: 0,
            alignment_offset: 0,
            io_min: 0,
            io_opt: 0,
            max_segments: 0,
            max_segment_size: 0,
            discard_sectors: 0,
            discard_granularity: 0,
            write_zeroes_sectors: 0,
            secure_erase_sectors: 0,
        };
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_limits(self.as_ptr(), &mut limits) };
        Limits {
            sectors: geometry.sectors,
            block_size: geometry.block_size,
            physical_block_size: limits.physical_block_size,
            alignment_offset: limits.alignment_offset,
            io_min: limits.io_min,
            io_opt: limits.io_opt,
            max_segments: limits.max_segments,
            max_segment_size: limits.max_segment_size,
            read_only: geometry.read_only,
            discard_sectors: limits.discard_sectors,
            discard_granularity: limits.discard_granularity,
            write_zeroes_sectors: limits.write_zeroes_sectors,
            secure_erase_sectors: limits.secure_erase_sectors,
        }
    }

    /// Whether the device can fill sectors with zeroes by itself.
    pub(crate) fn writes_zeroes(&self) -> bool {
        self.limits().write_zeroes_sectors > 0
    }

    /// Major and minor number.
    pub(crate) fn number(&self) -> (u32, u32) {
        // SAFETY: The device is open, by the type invariant.
        let number = unsafe { helpers::vblk_bdev_number(self.as_ptr()) };
        // As MAJOR() and MINOR() of <linux/kdev_t.h> take it apart.
        (number >> 20, number & 0xf_ffff)
    }

    /// Reads into the first `len` bytes of `buffer`, whole blocks, and waits for it.
    ///
    /// # Errors
    ///
    /// What the device says; EINVAL when `buffer` is too short.
    pub(crate) fn read(&self, sector: u64, buffer: &mut KVec<u8>, len: usize) -> Result {
        self.transfer(sector, buffer, len, helpers::VBLK_OP_READ)
    }

    /// Writes the first `len` bytes of `buffer`, whole blocks, and waits until that is done; until
    /// it is durable with `fua`.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub(crate) fn write(
        &self,
        sector: u64,
        buffer: &mut KVec<u8>,
        len: usize,
        fua: bool,
    ) -> Result {
        let op = if fua {
            helpers::VBLK_OP_WRITE_FUA
        } else {
            helpers::VBLK_OP_WRITE
        };
        self.transfer(sector, buffer, len, op)
    }

    fn transfer(&self, sector: u64, buffer: &mut KVec<u8>, len: usize, op: u32) -> Result {
        if len > buffer.len() {
            return Err(EINVAL);
        }
        // SAFETY: The device is open, by the type invariant. `buffer` was allocated with kmalloc,
        // is initialised over its length, and is borrowed until the transfer is over.
        to_result(unsafe {
            bindings::bdev_rw_virt(self.as_ptr(), sector, buffer.as_mut_ptr().cast(), len, op)
        })
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

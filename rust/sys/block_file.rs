// SPDX-License-Identifier: GPL-2.0

//! A block device that somebody opened for us.

use super::bindings as helpers;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

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

    /// Capacity in sectors of 512 bytes, now.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_sectors(self.as_ptr()) }
    }

    /// Logical block size in bytes.
    pub(crate) fn block_size(&self) -> u32 {
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_block_size(self.as_ptr()) }
    }

    /// The bits of a memory address that must be 0 for the device to reach the memory.
    pub(crate) fn alignment_mask(&self) -> u32 {
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_dma_alignment(self.as_ptr()) }
    }

    /// Whether it may not be written: by how it was opened, or by itself.
    pub(crate) fn read_only(&self) -> bool {
        // SAFETY: The device is open, by the type invariant.
        !self.writable || unsafe { helpers::vblk_bdev_read_only(self.as_ptr()) }
    }

    /// Major and minor number.
    pub(crate) fn number(&self) -> (u32, u32) {
        // SAFETY: The device is open, by the type invariant.
        let number = unsafe { helpers::vblk_bdev_number(self.as_ptr()) };
        // As MAJOR() and MINOR() of <linux/kdev_t.h> take it apart.
        (number >> 20, number & 0xf_ffff)
    }

    /// Reads into `buffer` and waits for it. Whole blocks only.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub(crate) fn read(&self, sector: u64, buffer: &mut KVec<u8>) -> Result {
        self.transfer(sector, buffer, helpers::VBLK_OP_READ)
    }

    /// Writes from `buffer` and waits for it, until it is durable with `fua`. Whole blocks only.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub(crate) fn write(&self, sector: u64, buffer: &mut KVec<u8>, fua: bool) -> Result {
        let op = if fua {
            helpers::VBLK_OP_WRITE_FUA
        } else {
            helpers::VBLK_OP_WRITE
        };
        self.transfer(sector, buffer, op)
    }

    fn transfer(&self, sector: u64, buffer: &mut KVec<u8>, op: u32) -> Result {
        // SAFETY: The device is open, by the type invariant. `buffer` was allocated with kmalloc,
        // is initialised over its length, and is borrowed until the transfer is over.
        to_result(unsafe {
            bindings::bdev_rw_virt(
                self.as_ptr(),
                sector,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                op,
            )
        })
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

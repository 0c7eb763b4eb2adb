// SPDX-License-Identifier: GPL-2.0

//! A block device that user space opened.

use super::{
    bindings as helpers,
    errno::eopnotsupp, //
};

/// Limits of a block device, in the units of the fields in helpers.h.
pub(crate) use super::bindings::vblk_bdev_limits as Limits;
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};
use vblk_core::segments::SegmentLimits;

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

/// The properties of a block device that decide which I/O it takes.
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
    /// Returns the block device behind a descriptor of the current process.
    ///
    /// # Errors
    ///
    /// EBADF when it is not open, or not for reading; ENOTBLK when it is something else; EOPNOTSUPP
    /// when it is zoned: its zones refuse writes that a guest takes for ordinary.
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
            Some(_) if !readable => EBADF,
            // SAFETY: The device of an open file.
            Some(device) if unsafe { helpers::vblk_bdev_is_zoned(device.as_ptr()) } => eopnotsupp(),
            // INVARIANT: `fget` gave us a reference.
            Some(device) => {
                return Ok(Self {
                    file,
                    device,
                    writable,
                })
            }
            None => ENOTBLK,
        };
        // SAFETY: We own the reference and give it up.
        unsafe { bindings::fput(file.as_ptr()) };
        Err(failed)
    }

    /// Returns the device, valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut bindings::block_device {
        self.device.as_ptr()
    }

    /// Returns the major and the minor number of the device.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn numbers(&self) -> (u32, u32) {
        // SAFETY: The device is open, by the type invariant.
        let number = unsafe { helpers::vblk_bdev_number(self.as_ptr()) };
        // MINORBITS of <linux/kdev_t.h>.
        (number >> 20, number & ((1 << 20) - 1))
    }

    /// Returns the geometry that the device has now.
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

    /// Returns the limits of segments that the device has now.
    pub(crate) fn segment_limits(&self) -> SegmentLimits {
        let mut limits = helpers::vblk_segment_limits::default();
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_segment_limits(self.as_ptr(), &mut limits) };
        SegmentLimits {
            most: limits.max_segments,
            virt_boundary_mask: limits.virt_boundary_mask,
        }
    }

    /// Returns the limits that the device has now.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        // SAFETY: The device is open, by the type invariant.
        unsafe { helpers::vblk_bdev_limits(self.as_ptr(), &mut limits) };
        limits
    }

    /// Returns whether the device can fill sectors with zeroes by itself. In any context.
    pub(crate) fn writes_zeroes(&self) -> bool {
        self.limits().write_zeroes_sectors > 0
    }

    /// Writes back and drops what the host's page cache holds of the device: direct I/O goes past it.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// Those of writing back.
    pub(crate) fn drop_cache(&self) -> Result {
        // SAFETY: The device is open, by the type invariant.
        to_result(unsafe { helpers::vblk_bdev_drop_cache(self.as_ptr()) })
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        // SAFETY: We own the reference.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

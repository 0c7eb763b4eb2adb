// SPDX-License-Identifier: GPL-2.0

//! The properties of a disk, and the check that a range of sectors is on it.
//!
//! ```
//! use vblk_core::{
//!     addr::Sector,
//!     disk::{Disk, OutOfRange, RangeOps},
//! };
//!
//! let range_ops = RangeOps::default();
//! let disk = Disk { sectors: 1024, block_size: 4096, read_only: false, range_ops };
//! assert_eq!(disk.check(Sector(1016), 4096), Ok(()));
//! // Beyond the end; a part of a block.
//! assert_eq!(disk.check(Sector(1016), 8192), Err(OutOfRange));
//! assert_eq!(disk.check(Sector(1), 4096), Err(OutOfRange));
//! ```

use crate::{
    addr::{
        Sector,
        SECTOR_SIZE, //
    },
    features::{
        bit,
        Features, //
    },
};

/// An operation on ranges of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOp {
    /// Gives up content that is not needed any more.
    Discard,
    /// Makes the content zero.
    WriteZeroes,
    /// Makes the content irrecoverable.
    SecureErase,
}

/// A set of [`RangeOp`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeOps {
    /// Discard.
    pub discard: bool,
    /// Write zeroes.
    pub write_zeroes: bool,
    /// Secure erase.
    pub secure_erase: bool,
}

impl RangeOps {
    /// Returns the operations that were negotiated.
    pub fn negotiated(features: Features) -> Self {
        Self {
            discard: features.has(bit::BLK_DISCARD),
            write_zeroes: features.has(bit::BLK_WRITE_ZEROES),
            secure_erase: features.has(bit::BLK_SECURE_ERASE),
        }
    }

    /// Returns true if `op` is in the set.
    pub fn has(self, op: RangeOp) -> bool {
        match op {
            RangeOp::Discard => self.discard,
            RangeOp::WriteZeroes => self.write_zeroes,
            RangeOp::SecureErase => self.secure_erase,
        }
    }
}

/// The disk properties that a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Capacity in sectors of 512 bytes, now.
    pub sectors: u64,
    /// Logical block size in bytes, a power of two: the unit of reads and writes.
    pub block_size: u32,
    /// True if writes are refused.
    pub read_only: bool,
    /// Operations on ranges that were negotiated.
    pub range_ops: RangeOps,
}

/// A range that is not on the disk, or not made of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl Disk {
    /// Checks that `bytes` bytes from `sector` on are whole blocks within the disk.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    #[inline]
    pub fn check(&self, sector: Sector, bytes: u64) -> Result<(), OutOfRange> {
        let start = sector.0.checked_mul(SECTOR_SIZE).ok_or(OutOfRange)?;
        let end = start.checked_add(bytes).ok_or(OutOfRange)?;
        let block = u64::from(self.block_size).max(SECTOR_SIZE);
        // A mask saves two divisions.
        if (start | end) & (block - 1) != 0 || end / SECTOR_SIZE > self.sectors {
            return Err(OutOfRange);
        }
        Ok(())
    }
}

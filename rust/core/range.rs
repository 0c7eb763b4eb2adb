// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard, write zeroes, secure erase (virtio 1.2, 5.2.6).
//!
//! ```
//! use vblk_core::{
//!     addr::Sector,
//!     disk::{Disk, RangeOps},
//!     range::{Range, RangeOp},
//!     status::Status,
//! };
//!
//! let range_ops = RangeOps::default();
//! let disk = Disk { sectors: 1024, block_size: 512, read_only: false, range_ops };
//! // Sector 8, 16 sectors, and the flag that allows to unmap them.
//! let mut bytes = [0; 16];
//! (bytes[0], bytes[8], bytes[12]) = (8, 16, 1);
//! let range = Range::parse(&bytes, RangeOp::WriteZeroes, &disk).unwrap();
//! assert_eq!(range, Range { sector: Sector(8), bytes: 8192, unmap: true });
//! // Discarding has no flags.
//! assert_eq!(Range::parse(&bytes, RangeOp::Discard, &disk), Err(Status::Unsupported));
//! ```

use crate::{
    addr::{
        Sector,
        SECTOR_SIZE, //
    },
    disk::Disk,
    status::Status,
};

pub use crate::disk::{
    RangeOp,
    RangeOps, //
};

/// Bytes of `struct virtio_blk_discard_write_zeroes`.
pub const RANGE_BYTES: usize = 16;

/// Most ranges of a request, as announced in the configuration space.
pub const MAX_RANGES: usize = 16;

/// Most sectors of a range, as announced in the configuration space: 2 GiB, so that the bytes of a
/// range can be counted in 32 bits.
pub const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP.
const FLAG_UNMAP: u32 = 1;

/// A range that lies on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First sector.
    pub sector: Sector,
    /// Length in bytes: whole blocks, at most [`MAX_RANGE_SECTORS`]. May be 0.
    pub bytes: u32,
    /// True if zeroes may be made by giving up the storage behind them.
    pub unmap: bool,
}

impl Range {
    /// Decodes a range and checks it against `disk`.
    ///
    /// # Errors
    ///
    /// The status for the whole request: [`Status::Unsupported`] when a flag is set that means
    /// nothing for `op` ("the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP", virtio 1.2,
    /// 5.2.6.2), [`Status::IoError`] when the range is not on the disk, or too long.
    pub fn parse(bytes: &[u8; RANGE_BYTES], op: RangeOp, disk: &Disk) -> Result<Self, Status> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = *bytes;
        let sector = Sector(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]));
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let known = match op {
            RangeOp::WriteZeroes => FLAG_UNMAP,
            RangeOp::Discard | RangeOp::SecureErase => 0,
        };
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let bytes = sectors * SECTOR_SIZE as u32;
        disk.check(sector, bytes.into())
            .map_err(|_| Status::IoError)?;
        Ok(Self {
            sector,
            bytes,
            unmap: flags & FLAG_UNMAP != 0,
        })
    }
}

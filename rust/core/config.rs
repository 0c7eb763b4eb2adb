// SPDX-License-Identifier: GPL-2.0

//! The configuration space that fits a disk: `struct virtio_blk_config` of
//! `<linux/virtio_blk.h>` (virtio 1.2, 5.2.4).
//!
//! ```
//! use vblk_core::{
//!     config::{Limits, Queues},
//!     features::bit,
//! };
//!
//! let disk = Limits { sectors: 2048, block_size: 512, read_only: true, ..Limits::default() };
//! let queues = Queues { count: 1, size: 128 };
//! assert!(disk.features(&queues).has(bit::BLK_RO));
//! assert!(!disk.features(&queues).has(bit::BLK_MQ));
//! // The capacity comes first.
//! assert_eq!(disk.config(&queues)[..8], 2048u64.to_le_bytes());
//! ```

use crate::{
    features::{
        bit,
        Features, //
    },
    range::{
        MAX_RANGES,
        MAX_RANGE_SECTORS, //
    },
};

/// Bytes of the configuration space, up to and with the secure erase fields.
pub const CONFIG_BYTES: usize = 72;

/// Offset of `wce`, the one field that a driver may write.
pub const CONFIG_WCE: usize = 32;

/// The properties of a disk that the configuration space tells. Sectors have 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Capacity in sectors.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Bytes by which the first physical block precedes the disk.
    pub alignment_offset: u32,
    /// Smallest request without penalty in bytes, or 0.
    pub io_min: u32,
    /// Best request for sustained throughput in bytes, or 0.
    pub io_opt: u32,
    /// True if the disk may not be written.
    pub read_only: bool,
    /// Most sectors that can be discarded at a time; 0 if none can.
    pub discard_sectors: u32,
    /// Unit of discarding in bytes.
    pub discard_granularity: u32,
    /// Most sectors that the disk itself can fill with zeroes at a time; 0 if it can't.
    pub write_zeroes_sectors: u32,
    /// Most sectors that can be erased at a time; 0 if none can.
    pub secure_erase_sectors: u32,
}

/// The properties of the queues that the configuration space tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Number of queues.
    pub count: u16,
    /// Entries of each.
    pub size: u16,
}

impl Queues {
    /// Returns how many buffers of data fit a ring, in which two descriptors are for the header and
    /// the status.
    fn seg_max(&self) -> u32 {
        self.size.saturating_sub(2).max(1).into()
    }
}

impl Limits {
    /// Returns the features that a device with this disk offers, of those that concern the disk.
    pub fn features(&self, queues: &Queues) -> Features {
        let mut bits = 1 << bit::BLK_SEG_MAX
            | 1 << bit::BLK_SIZE
            | 1 << bit::BLK_TOPOLOGY
            | 1 << bit::BLK_FLUSH
            | 1 << bit::BLK_CONFIG_WCE;
        let mut add = |condition, number: u32| {
            if condition {
                bits |= 1 << number;
            }
        };
        add(self.read_only, bit::BLK_RO);
        add(queues.count > 1, bit::BLK_MQ);
        add(
            self.discard_sectors > 0 && !self.read_only,
            bit::BLK_DISCARD,
        );
        add(!self.read_only, bit::BLK_WRITE_ZEROES);
        add(
            self.secure_erase_sectors > 0 && !self.read_only,
            bit::BLK_SECURE_ERASE,
        );
        Features(bits)
    }

    /// Encodes the configuration space, in the writeback mode that drivers expect.
    pub fn config(&self, queues: &Queues) -> [u8; CONFIG_BYTES] {
        let block = self.block_size.max(1);
        let in_blocks = |bytes: u32| bytes / block;
        let physical = (self.physical_block_size / block).max(1);
        let exponent = physical.ilog2();
        // The field counts logical blocks up to the first aligned one.
        let alignment = in_blocks(self.alignment_offset).min(u32::from(u8::MAX)) as u8;
        let granularity = (self.discard_granularity.max(block) / 512).max(1);
        let ranges = MAX_RANGES as u32;

        let mut space = Writer::default();
        space.put(&self.sectors.to_le_bytes());
        // What the disk can't take in one piece is cut for it, so that only the ring sets a limit.
        space.put(&[0; 4]); // size_max: none
        space.put(&queues.seg_max().to_le_bytes());
        space.put(&[0; 4]); // geometry: none
        space.put(&self.block_size.to_le_bytes());
        space.put(&[exponent as u8, alignment]);
        let io_min = in_blocks(self.io_min).min(u32::from(u16::MAX)) as u16;
        space.put(&io_min.to_le_bytes());
        space.put(&in_blocks(self.io_opt).to_le_bytes());
        space.put(&[1, 0]); // wce, unused
        space.put(&queues.count.to_le_bytes());
        space.put(&self.discard_sectors.min(MAX_RANGE_SECTORS).to_le_bytes());
        space.put(&if_any(self.discard_sectors, ranges).to_le_bytes());
        space.put(&granularity.to_le_bytes());
        // Zeroes are written to a disk that has no command for them; a guest shall not ask for more
        // of them than it would write at a time.
        let zeroes = match self.write_zeroes_sectors {
            0 => WRITTEN_ZEROES_SECTORS,
            native => native.min(MAX_RANGE_SECTORS),
        };
        space.put(&zeroes.to_le_bytes());
        space.put(&ranges.to_le_bytes());
        space.put(&[u8::from(self.discard_sectors > 0), 0, 0, 0]);
        space.put(
            &self
                .secure_erase_sectors
                .min(MAX_RANGE_SECTORS)
                .to_le_bytes(),
        );
        space.put(&if_any(self.secure_erase_sectors, ranges).to_le_bytes());
        space.put(&granularity.to_le_bytes());
        space.bytes
    }
}

/// Sectors of a range of zeroes on a disk that must be written: 4 MiB.
const WRITTEN_ZEROES_SECTORS: u32 = 8192;

fn if_any(sectors: u32, ranges: u32) -> u32 {
    if sectors > 0 {
        ranges
    } else {
        0
    }
}

struct Writer {
    bytes: [u8; CONFIG_BYTES],
    filled: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            bytes: [0; CONFIG_BYTES],
            filled: 0,
        }
    }
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        let to = self.bytes.iter_mut().skip(self.filled);
        to.zip(field).for_each(|(to, from)| *to = *from);
        self.filled += field.len();
    }
}

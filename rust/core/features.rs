// SPDX-License-Identifier: GPL-2.0

//! Feature bits, offered and negotiated.
//!
//! ```
//! use vblk_core::features::{bit, Features};
//!
//! let accepted = Features(1 << bit::VERSION_1 | 1 << bit::RING_PACKED);
//! assert!(accepted.within(Features::SUPPORTED));
//! assert!(accepted.has(bit::RING_PACKED));
//! // Between VMM and device, not for drivers.
//! assert!(!Features::SUPPORTED.has(bit::LOG_ALL));
//! ```

/// Bit numbers, from virtio 1.2 and `<linux/virtio_*.h>`.
pub mod bit {
    /// `size_max` in the configuration space is valid (virtio 1.2, 5.2.3). Never offered: what a
    /// disk can't take in one piece is cut for it.
    pub const BLK_SIZE_MAX: u32 = 1;
    /// `seg_max` in the configuration space is valid.
    pub const BLK_SEG_MAX: u32 = 2;
    /// The disk is read-only.
    pub const BLK_RO: u32 = 5;
    /// `blk_size` in the configuration space is valid.
    pub const BLK_SIZE: u32 = 6;
    /// The device has a volatile cache and a command to empty it.
    pub const BLK_FLUSH: u32 = 9;
    /// The topology fields of the configuration space are valid.
    pub const BLK_TOPOLOGY: u32 = 10;
    /// The driver may switch between writing back and writing through.
    pub const BLK_CONFIG_WCE: u32 = 11;
    /// The device has several queues.
    pub const BLK_MQ: u32 = 12;
    /// The device can be told that sectors are not needed any more.
    pub const BLK_DISCARD: u32 = 13;
    /// The device can fill sectors with zeroes by itself.
    pub const BLK_WRITE_ZEROES: u32 = 14;
    /// The device can erase sectors so that they can never be read again.
    pub const BLK_SECURE_ERASE: u32 = 16;
    /// The device logs what it writes to guest memory. Between VMM and device: no driver sees it.
    pub const LOG_ALL: u32 = 26;
    /// A descriptor may refer to a table of descriptors.
    pub const RING_INDIRECT_DESC: u32 = 28;
    /// Both sides say at which index they want to be notified.
    pub const RING_EVENT_IDX: u32 = 29;
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u32 = 32;
    /// The device reaches memory by addresses that the platform gives it, not by physical ones.
    pub const ACCESS_PLATFORM: u32 = 33;
    /// Rings have the packed format.
    pub const RING_PACKED: u32 = 34;
}

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Features that the rules in this crate implement. A device on top of it may offer fewer.
    pub const SUPPORTED: Self = Self(
        1 << bit::BLK_SEG_MAX
            | 1 << bit::BLK_RO
            | 1 << bit::BLK_SIZE
            | 1 << bit::BLK_FLUSH
            | 1 << bit::BLK_TOPOLOGY
            | 1 << bit::BLK_CONFIG_WCE
            | 1 << bit::BLK_MQ
            | 1 << bit::BLK_DISCARD
            | 1 << bit::BLK_WRITE_ZEROES
            | 1 << bit::BLK_SECURE_ERASE
            | 1 << bit::RING_INDIRECT_DESC
            | 1 << bit::RING_EVENT_IDX
            | 1 << bit::VERSION_1
            | 1 << bit::RING_PACKED,
    );

    /// Features that a VMM can set by vhost.
    pub const VHOST: Self = Self(Self::SUPPORTED.0 | 1 << bit::LOG_ALL);

    /// Features of a device whose user maps its memory that do not concern the disk, but for packed
    /// rings.
    pub const TRANSPORT: Self = Self(
        1 << bit::RING_INDIRECT_DESC
            | 1 << bit::RING_EVENT_IDX
            | 1 << bit::VERSION_1
            | 1 << bit::ACCESS_PLATFORM,
    );

    /// Features that a device whose user maps its memory may offer.
    pub const MAPPED: Self = Self(Self::SUPPORTED.0 | Self::TRANSPORT.0);

    /// Returns true if the bit with this number is in the set.
    pub const fn has(self, bit: u32) -> bool {
        bit < 64 && self.0 >> bit & 1 != 0
    }

    /// Returns true if every bit of this set is also in `other`.
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

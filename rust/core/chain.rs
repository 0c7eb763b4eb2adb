// SPDX-License-Identifier: GPL-2.0

//! Descriptor chains as lists of buffers, and the limits on their length.
//!
//! [`crate::ring::Ring::walk`] makes a [`Chain`] of what a driver wrote.
//!
//! ```
//! use vblk_core::{
//!     chain::{max_segments, Segment},
//!     queue::Popped,
//!     ring::{Avail, Base},
//!     table::TableMemory,
//!     testing::{Buf, Driver, Layout, Ram},
//!     addr::GuestAddr,
//! };
//!
//! let (ram, layout) = (Ram::new(0x10000), Layout::with_size(8, GuestAddr(0x1000)));
//! let mut driver = Driver::new(&ram, layout, false);
//! driver.add(&[Buf::readable(GuestAddr(0x4000), 16), Buf::writable(GuestAddr(0x5000), 513)]);
//! driver.publish();
//!
//! let ring = ram.ring(&layout);
//! let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
//! let Ok(Popped::Chain(head)) = avail.pop(&ring, || 0) else {
//!     panic!("the chain is there");
//! };
//! let memory = TableMemory { table: &ram.table(), memory: &ram };
//! let mut segments = vec![Segment::default(); max_segments(layout.size)];
//! let chain = ring.walk(head, false, &memory, &mut segments).unwrap();
//! assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (16, 513));
//! assert_eq!(chain.last_writable_byte(), Some(GuestAddr(0x5200)));
//! ```

use crate::{
    addr::GuestAddr,
    queue::QueueSize, //
};

/// Most buffers of an indirect table on a ring that is no longer than that.
///
/// "A driver MUST NOT create a descriptor chain longer than the Queue Size of the device" (virtio
/// 1.2, 2.7.5.3.1), but drivers do with indirect tables, and QEMU (`VIRTQUEUE_MAX_SIZE`) and C vhost
/// (`UIO_MAXIOV`) serve them up to this length.
pub const MAX_INDIRECT: u16 = 1024;

/// Returns the most buffers that a chain may have on a ring of this size.
///
/// As many as the ring has entries, or [`MAX_INDIRECT`] if that is more. Those that lie in the ring
/// itself are never more than the ring has entries.
pub const fn max_segments(size: QueueSize) -> usize {
    max_buffers(size) as usize
}

/// Returns [`max_segments`] as a number of descriptors.
pub(crate) const fn max_buffers(size: QueueSize) -> u16 {
    if size.get() > MAX_INDIRECT {
        size.get()
    } else {
        MAX_INDIRECT
    }
}

/// A buffer of a chain. Its address is not checked against the memory table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub addr: GuestAddr,
    /// Length in bytes.
    pub len: u32,
    /// True if the device may write to it, and only that; otherwise it may only read it.
    pub writable: bool,
}

/// Reason for which a chain can't be walked to its end, so that its buffers are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainError {
    /// More descriptors than [`max_segments`], or in the ring itself more than it has entries: a
    /// loop, or too long a chain.
    TooLong,
    /// `next` points outside its table. Only in split rings.
    NextOutOfRange,
    /// An indirect descriptor although the feature was not negotiated.
    IndirectNotNegotiated,
    /// An indirect descriptor with a successor (virtio 1.2, 2.7.5.3.1), or in a packed ring with
    /// any other (2.8.19).
    IndirectWithNext,
    /// An indirect descriptor inside an indirect table (virtio 1.2, 2.7.5.3.1). Only in split
    /// rings: tables of packed ones have no such flag (2.8.7).
    NestedIndirect,
    /// An indirect table of no entries, or of a part of one.
    IndirectSize,
    /// An indirect table outside the memory table.
    IndirectOutsideTable,
    /// An indirect table that the host could not read.
    IndirectInaccessible,
    /// Buffers of 2^32 bytes or more in all (virtio 1.2, 2.7.5.2 forbids more than 2^32).
    TooManyBytes,
}

impl ChainError {
    /// Returns true if the host failed; otherwise the guest made a mistake.
    pub fn is_host_failure(self) -> bool {
        matches!(self, Self::IndirectInaccessible)
    }
}

/// The buffers of a chain, in order. Empty ones are left out.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    readable: &'a [Segment],
    writable: &'a [Segment],
    readable_bytes: u32,
    writable_bytes: u32,
    ordered: bool,
}

impl<'a> Chain<'a> {
    /// Divides a chain's buffers into those before the first writable one, which have
    /// `readable_bytes` of the `bytes` bytes, and the others. `ordered` says that none of these is
    /// readable.
    #[inline]
    pub(crate) fn new(
        stored: StoredChain,
        segments: &'a [Segment],
        readable_bytes: u32,
        bytes: u32,
        ordered: bool,
    ) -> Self {
        let (readable, writable) = stored.split(segments).unwrap_or((&[], &[]));
        Self {
            readable,
            writable,
            readable_bytes,
            writable_bytes: bytes.saturating_sub(readable_bytes),
            ordered,
        }
    }

    /// Returns the buffers that the device reads, if the chain is ordered.
    #[inline]
    pub fn readable(&self) -> &'a [Segment] {
        self.readable
    }

    /// Returns the buffers that the device writes, if the chain is ordered.
    #[inline]
    pub fn writable(&self) -> &'a [Segment] {
        self.writable
    }

    /// Counts the bytes in the readable buffers, if the chain is ordered.
    #[inline]
    pub fn readable_bytes(&self) -> u32 {
        self.readable_bytes
    }

    /// Counts the bytes in the writable buffers, if the chain is ordered.
    #[inline]
    pub fn writable_bytes(&self) -> u32 {
        self.writable_bytes
    }

    /// Returns true if all readable buffers come before all writable ones, as they must (virtio
    /// 1.2, 2.7.4.2).
    #[inline]
    pub fn ordered(&self) -> bool {
        self.ordered
    }

    /// Returns the length for the used entry when nothing but the last byte was written: 1 if
    /// there is no gap before it, else 0 (see [`crate::request::Request::used_len`]).
    pub fn status_len(&self) -> u32 {
        u32::from(self.ordered && self.writable_bytes == 1)
    }

    /// Returns the address of the chain's last byte, when the device may write it.
    #[inline]
    pub fn last_writable_byte(&self) -> Option<GuestAddr> {
        let last = self.writable.last().filter(|last| last.writable)?;
        last.addr.checked_add(u64::from(last.len.checked_sub(1)?))
    }

    /// Returns the chain without the buffers, for the owner of the segments that it was read into.
    #[inline]
    pub fn store(&self) -> StoredChain {
        let first_writable = self.readable.len();
        StoredChain {
            first_writable,
            filled: first_writable.saturating_add(self.writable.len()),
        }
    }
}

/// The division of a [`Chain`], without borrowing its buffers.
///
/// The owner of the segments that the chain was read into keeps them unchanged and has the same
/// buffers again later ([`StoredChain::payload`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredChain {
    /// Number of segments before the first writable one.
    first_writable: usize,
    /// Number of segments in all.
    filled: usize,
}

impl StoredChain {
    #[inline]
    pub(crate) fn new(first_writable: usize, filled: usize) -> Self {
        Self {
            first_writable,
            filled,
        }
    }

    /// Finds the buffers before the first writable one, and the others. Returns `None` when
    /// `segments` is too short to hold them.
    #[inline]
    pub(crate) fn split<'a>(
        &self,
        segments: &'a [Segment],
    ) -> Option<(&'a [Segment], &'a [Segment])> {
        segments
            .get(..self.filled)?
            .split_at_checked(self.first_writable)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Where a split ring lies, and the buffers that a driver puts into it.

use crate::{
    addr::GuestAddr,
    chain::Segment,
    split::{
        Descriptor,
        QueueSize,
        AVAIL_ALIGN,
        DESC_ALIGN,
        USED_ALIGN, //
    },
};

/// The guest addresses of the three parts of a split ring.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of entries.
    pub size: QueueSize,
    /// Descriptor table.
    pub desc: GuestAddr,
    /// Available ring.
    pub avail: GuestAddr,
    /// Used ring.
    pub used: GuestAddr,
}

impl Layout {
    /// The parts one behind the other from `area` on, each aligned as virtio asks.
    pub fn new(size: QueueSize, area: GuestAddr) -> Self {
        let desc = align(area, DESC_ALIGN);
        let avail = align(GuestAddr(desc.0 + size.desc_bytes() as u64), AVAIL_ALIGN);
        let used = align(GuestAddr(avail.0 + size.avail_bytes() as u64), USED_ALIGN);
        Self {
            size,
            desc,
            avail,
            used,
        }
    }

    /// As [`Self::new`], for a size that is known to be right.
    ///
    /// # Panics
    ///
    /// When `size` is not that of a queue.
    pub fn with_size(size: u32, area: GuestAddr) -> Self {
        Self::new(QueueSize::new(size).expect("a queue size"), area)
    }

    /// The first address behind the used ring.
    pub fn end(&self) -> GuestAddr {
        GuestAddr(self.used.0 + self.size.used_bytes() as u64)
    }

    /// Bytes that [`Self::new`] takes of an area that is aligned to [`DESC_ALIGN`].
    pub fn bytes(size: QueueSize) -> u64 {
        Self::new(size, GuestAddr(0)).end().0
    }

    /// Where a descriptor stands, also one behind the table.
    pub fn descriptor(&self, index: u16) -> GuestAddr {
        GuestAddr(self.desc.0 + u64::from(index) * Descriptor::BYTES as u64)
    }

    /// Where the flags of the available ring stand.
    pub fn avail_flags(&self) -> GuestAddr {
        self.avail
    }

    /// Where the index of the available ring stands.
    pub fn avail_index(&self) -> GuestAddr {
        GuestAddr(self.avail.0 + 2)
    }

    /// Where the entry of the available ring for a free-running index stands.
    pub fn avail_entry(&self, index: u16) -> GuestAddr {
        GuestAddr(self.avail.0 + 4 + self.slot(index) * 2)
    }

    /// Where the driver says at which used index it wants an interrupt.
    pub fn used_event(&self) -> GuestAddr {
        GuestAddr(self.avail.0 + 4 + u64::from(self.size.get()) * 2)
    }

    /// Where the flags of the used ring stand.
    pub fn used_flags(&self) -> GuestAddr {
        self.used
    }

    /// Where the index of the used ring stands.
    pub fn used_index(&self) -> GuestAddr {
        GuestAddr(self.used.0 + 2)
    }

    /// Where the entry of the used ring for a free-running index stands.
    pub fn used_entry(&self, index: u16) -> GuestAddr {
        GuestAddr(self.used.0 + 4 + self.slot(index) * 8)
    }

    /// Where the device says at which available index it wants a kick.
    pub fn avail_event(&self) -> GuestAddr {
        GuestAddr(self.used.0 + 4 + u64::from(self.size.get()) * 8)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index % self.size.get())
    }
}

fn align(addr: GuestAddr, to: u64) -> GuestAddr {
    GuestAddr(addr.0.next_multiple_of(to))
}

/// A buffer that a driver hands to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf {
    /// Guest-physical address.
    pub addr: GuestAddr,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes to it, and only that.
    pub writable: bool,
}

impl Buf {
    /// A buffer that the device reads.
    pub fn readable(addr: GuestAddr, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: false,
        }
    }

    /// A buffer that the device writes.
    pub fn writable(addr: GuestAddr, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: true,
        }
    }

    /// The descriptor for it, with a successor or without.
    pub fn descriptor(&self, next: Option<u16>) -> Descriptor {
        let write = if self.writable {
            Descriptor::F_WRITE
        } else {
            0
        };
        let more = next.map_or(0, |_| Descriptor::F_NEXT);
        Descriptor {
            addr: self.addr.0,
            len: self.len,
            flags: write | more,
            next: next.unwrap_or(0),
        }
    }
}

/// A buffer is what the device should find as a segment.
impl From<Buf> for Segment {
    fn from(buf: Buf) -> Self {
        Self {
            addr: buf.addr,
            len: buf.len,
            writable: buf.writable,
        }
    }
}

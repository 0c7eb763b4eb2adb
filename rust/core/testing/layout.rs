// SPDX-License-Identifier: GPL-2.0

//! The place of a ring, and the buffers that a driver puts into it.

use super::DriverMemory;
use crate::{
    addr::GuestAddr,
    chain::Segment,
    queue::QueueSize,
    ring::Format,
    split::Descriptor, //
};

/// The guest addresses of the three parts of a ring, by their names in a split one.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The format of the ring.
    pub format: Format,
    /// Number of entries.
    pub size: QueueSize,
    /// Descriptor table, or descriptor ring.
    pub desc: GuestAddr,
    /// Available ring, or the driver's event suppression.
    pub avail: GuestAddr,
    /// Used ring, or the device's event suppression.
    pub used: GuestAddr,
}

impl Layout {
    /// Returns the parts one behind the other from `area` on, each aligned as virtio asks.
    pub fn new(format: Format, size: QueueSize, area: GuestAddr) -> Self {
        let parts = format.parts(size);
        let behind = |start: GuestAddr, bytes: usize| GuestAddr(start.0 + bytes as u64);
        let desc = align(area, parts.desc.align);
        let avail = align(behind(desc, parts.desc.bytes), parts.driver.align);
        let used = align(behind(avail, parts.driver.bytes), parts.device.align);
        Self {
            format,
            size,
            desc,
            avail,
            used,
        }
    }

    /// As [`Self::new`], for a split ring and a size that is known to be right.
    ///
    /// # Panics
    ///
    /// When `size` is not that of a queue.
    pub fn with_size(size: u32, area: GuestAddr) -> Self {
        let size = QueueSize::new(size).expect("a queue size");
        Self::new(Format::Split, size, area)
    }

    /// As [`Self::with_size`], for a packed ring.
    ///
    /// # Panics
    ///
    /// When `size` is not that of a queue.
    pub fn packed(size: u32, area: GuestAddr) -> Self {
        let size = QueueSize::new(size).expect("a queue size");
        Self::new(Format::Packed, size, area)
    }

    /// Returns the first address behind the last part.
    pub fn end(&self) -> GuestAddr {
        let device = self.format.parts(self.size).device;
        GuestAddr(self.used.0 + device.bytes as u64)
    }

    /// Fills all parts with zeroes.
    pub fn clear<M: DriverMemory>(&self, memory: &M) {
        let parts = self.format.parts(self.size);
        memory.fill(self.desc, parts.desc.bytes, 0);
        memory.fill(self.avail, parts.driver.bytes, 0);
        memory.fill(self.used, parts.device.bytes, 0);
    }

    /// Returns where a descriptor stands, also one behind the table.
    pub fn descriptor(&self, index: u16) -> GuestAddr {
        GuestAddr(self.desc.0 + u64::from(index) * Descriptor::BYTES as u64)
    }

    /// Returns where the flags of a descriptor of a packed ring stand.
    pub fn packed_flags(&self, index: u16) -> GuestAddr {
        GuestAddr(self.descriptor(index).0 + 14)
    }

    /// Returns where the flags of the available ring stand.
    pub fn avail_flags(&self) -> GuestAddr {
        self.avail
    }

    /// Returns where the index of the available ring stands.
    pub fn avail_index(&self) -> GuestAddr {
        GuestAddr(self.avail.0 + 2)
    }

    /// Returns where the entry of the available ring for a free-running index stands.
    pub fn avail_entry(&self, index: u16) -> GuestAddr {
        GuestAddr(self.avail.0 + 4 + self.slot(index) * 2)
    }

    /// Returns where the driver says at which used index it wants an interrupt.
    pub fn used_event(&self) -> GuestAddr {
        GuestAddr(self.avail.0 + 4 + u64::from(self.size.get()) * 2)
    }

    /// Returns where the flags of the used ring stand.
    pub fn used_flags(&self) -> GuestAddr {
        self.used
    }

    /// Returns where the index of the used ring stands.
    pub fn used_index(&self) -> GuestAddr {
        GuestAddr(self.used.0 + 2)
    }

    /// Returns where the entry of the used ring for a free-running index stands.
    pub fn used_entry(&self, index: u16) -> GuestAddr {
        GuestAddr(self.used.0 + 4 + self.slot(index) * 8)
    }

    /// Returns where the device says at which available index it wants a kick.
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
    /// True if the device writes to it, and only that.
    pub writable: bool,
}

impl Buf {
    /// Returns a buffer that the device reads.
    pub fn readable(addr: GuestAddr, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: false,
        }
    }

    /// Returns a buffer that the device writes.
    pub fn writable(addr: GuestAddr, len: u32) -> Self {
        Self {
            addr,
            len,
            writable: true,
        }
    }

    /// Returns the descriptor for it, with a successor or without.
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

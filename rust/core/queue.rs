// SPDX-License-Identifier: GPL-2.0

//! What both formats of a virtqueue have in common: its size, its parts in memory, and what the
//! device takes from it and gives back.

/// Largest queue (virtio 1.2, 2.7 and 2.8: 2^15 entries).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Number of entries of a ring.
///
/// Virtio lets packed rings have any number of entries. vhost does not (VHOST_SET_VRING_NUM), and
/// no driver asks for one, so that there is one rule for both formats.
///
/// # Invariants
///
/// A power of two from 1 to [`MAX_QUEUE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// The smallest one.
    // INVARIANT: 1 is a power of two.
    pub const MIN: Self = Self(1);

    /// Checks a size that was asked for; `None` unless it is a power of two in range.
    pub fn new(size: u32) -> Option<Self> {
        let size = u16::try_from(size).ok()?;
        // INVARIANT: a u16 that is a power of two is at most 32768.
        size.is_power_of_two().then_some(Self(size))
    }

    /// The number of entries.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Where a free-running index points to.
    #[inline]
    pub(crate) const fn slot(self, index: u16) -> usize {
        (index & (self.0 - 1)) as usize
    }
}

/// The parts of a ring, by the names that virtio has for both formats (virtio 1.2, 2.6).
#[derive(Clone, Copy, Debug)]
pub struct Parts<T> {
    /// Descriptor area: the descriptor table or the descriptor ring.
    pub desc: T,
    /// Driver area: the available ring or the driver's event suppression. vhost says `avail`.
    pub driver: T,
    /// Device area: the used ring or the device's event suppression. vhost says `used`.
    pub device: T,
}

impl<T> Parts<T> {
    /// Something else for each of them.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Parts<U> {
        Parts {
            desc: f(self.desc),
            driver: f(self.driver),
            device: f(self.device),
        }
    }
}

/// What a part of a ring must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its length.
    pub bytes: usize,
    /// Alignment of its address, in bytes.
    pub align: u64,
    /// Whether the device writes to it; otherwise it only reads.
    pub written: bool,
}

/// A chain that the driver made available. Giving it back ends the device's ownership of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    index: u16,
    id: u16,
    count: u16,
}

impl Head {
    pub(crate) const fn new(index: u16, id: u16, count: u16) -> Self {
        Self { index, id, count }
    }

    /// Where its first descriptor is: in a split ring an index into the table, less than the size
    /// of the queue it came from; in a packed ring a free-running position.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// How the driver knows it. In a packed ring that is any number, chosen by the driver and told
    /// to nobody else.
    pub const fn id(self) -> u16 {
        self.id
    }

    /// How many places of the ring it takes: in a split ring one, the used entry; in a packed ring
    /// as many as it has descriptors.
    pub const fn count(self) -> u16 {
        self.count
    }
}

/// What there was to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    /// Nothing new.
    Empty,
    /// A chain, now owned by the device.
    Chain(Head),
    /// An entry that names no descriptor. It is consumed; there is nothing to give back. Packed
    /// rings have no such entries.
    OutOfRange(u16),
}

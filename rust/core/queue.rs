// SPDX-License-Identifier: GPL-2.0

//! The parts that both formats of a virtqueue have in common: size, parts in memory, chains as
//! they are taken and given back, and the errors of a ring that makes no sense.
//!
//! ```
//! use vblk_core::queue::QueueSize;
//!
//! assert_eq!(QueueSize::new(256).map(QueueSize::get), Some(256));
//! assert_eq!(QueueSize::new(100), None);
//! assert_eq!(QueueSize::new(65536), None);
//! ```

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
    /// Smallest size.
    // INVARIANT: 1 is a power of two.
    pub const MIN: Self = Self(1);

    /// Checks a size that was asked for. Returns `None` unless it is a power of two in range.
    pub fn new(size: u32) -> Option<Self> {
        let size = u16::try_from(size).ok()?;
        // INVARIANT: a u16 that is a power of two is at most 32768.
        size.is_power_of_two().then_some(Self(size))
    }

    /// Returns the number of entries.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the place in the ring that a free-running index stands for.
    ///
    /// The result is in range also where a processor runs ahead of a bounds check that is going to
    /// fail: an index that a guest chose goes through this mask before it becomes an offset, as
    /// C vhost has `array_index_nospec()`. The compiler can't leave the mask out, as it does not
    /// know that a size is a power of two.
    #[inline]
    pub(crate) const fn slot(self, index: u16) -> usize {
        (index & (self.0 - 1)) as usize
    }
}

/// The parts of a ring, by the names that virtio has for both formats (virtio 1.2, 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<T> {
    /// Descriptor area: the descriptor table or the descriptor ring.
    pub desc: T,
    /// Driver area: the available ring or the driver's event suppression. vhost says `avail`.
    pub driver: T,
    /// Device area: the used ring or the device's event suppression. vhost says `used`.
    pub device: T,
}

impl<T> Parts<T> {
    /// Applies `f` to each part.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Parts<U> {
        Parts {
            desc: f(self.desc),
            driver: f(self.driver),
            device: f(self.device),
        }
    }

    /// Applies `f` to each part, up to the first error.
    ///
    /// # Errors
    ///
    /// Those of `f`.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<Parts<U>, E> {
        Ok(Parts {
            desc: f(self.desc)?,
            driver: f(self.driver)?,
            device: f(self.device)?,
        })
    }

    /// Pairs each part with that of `other`.
    pub fn zip<U>(self, other: Parts<U>) -> Parts<(T, U)> {
        Parts {
            desc: (self.desc, other.desc),
            driver: (self.driver, other.driver),
            device: (self.device, other.device),
        }
    }
}

/// Requirements on one part of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Length in bytes.
    pub bytes: usize,
    /// Alignment of the address in bytes.
    pub align: u64,
    /// True if the device writes to the part; otherwise it only reads.
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
    /// Names a chain that was taken earlier, by what [`Self::index`], [`Self::id`] and [`Self::count`]
    /// said of it. Numbers that no ring gave out do no harm: walking finds no such chain.
    pub const fn new(index: u16, id: u16, count: u16) -> Self {
        Self { index, id, count }
    }

    /// Returns the position of the first descriptor: in a split ring an index into the table, less
    /// than the size of the queue that it came from; in a packed ring a free-running position.
    pub const fn index(self) -> u16 {
        self.index
    }

    /// Returns the number by which the driver knows the chain. In a packed ring that is any
    /// number, chosen by the driver and of no meaning to the device.
    pub const fn id(self) -> u16 {
        self.id
    }

    /// Returns how many places of the ring the chain takes: in a split ring one, the used entry;
    /// in a packed ring as many as it has descriptors.
    pub const fn count(self) -> u16 {
        self.count
    }
}

/// Result of taking the next chain from a ring.
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

/// The driver made more available than a ring can hold, which no driver can mean. Nothing in the
/// ring can be trusted from here on, and nothing is to be taken from it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The available index of a split ring is further ahead of the device than the queue is long.
    AvailIndex {
        /// Position of the device.
        next: u16,
        /// Index that the driver claims.
        claimed: u16,
    },
    /// A chain of a packed ring takes more descriptors than the driver can have, so that its end
    /// is not known.
    ChainOverrun {
        /// Position where the chain begins.
        next: u16,
        /// Number of descriptors that the device does not have.
        free: u16,
    },
}

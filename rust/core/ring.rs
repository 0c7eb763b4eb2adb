// SPDX-License-Identifier: GPL-2.0

//! A virtqueue in either format.
//!
//! Users of this crate serve a [`Ring`] with its [`Avail`] and its [`Used`] half, and need not know
//! which format they have. Each of them is an enum of two, so that every call is a comparison and a
//! jump to [`split`] or [`packed`]. A half that meets a ring of the other format does nothing: no
//! user mixes them, and no guest can make it.
//!
//! ```
//! use vblk_core::{
//!     addr::GuestAddr,
//!     queue::Popped,
//!     ring::{Avail, Format, Used},
//!     testing::{Buf, Driver, Layout, Ram},
//! };
//!
//! for layout in [Layout::with_size(8, GuestAddr(0x1000)), Layout::packed(8, GuestAddr(0x1000))] {
//!     let ram = Ram::new(0x10000);
//!     let mut driver = Driver::new(&ram, layout, true);
//!     let ring = ram.ring(&layout);
//!     let base = ring.base(layout.format.initial_base()).unwrap();
//!     let (mut avail, mut used) = (Avail::new(&ring, base, true), Used::new(&ring, base, true));
//!
//!     let id = driver.add(&[Buf::writable(GuestAddr(0x4000), 512)]);
//!     assert!(driver.publish_needs_kick());
//!     while let Ok(Popped::Chain(head)) = avail.pop(&ring, || used.position()) {
//!         used.add_used(&ring, head, 512);
//!     }
//!     assert!(used.should_interrupt(&ring));
//!     let entry = driver.poll_used().unwrap();
//!     assert_eq!((entry.id, entry.len), (id.unwrap().into(), 512));
//! }
//! ```

use crate::{
    chain::{
        Chain,
        ChainError,
        Segment, //
    },
    features::{
        bit,
        Features, //
    },
    memory::{
        ReadGuest,
        SharedMemory, //
    },
    packed::{
        self,
        PackedRing, //
    },
    queue::{
        Head,
        Part,
        Parts,
        Popped,
        QueueSize,
        RingError, //
    },
    split::{
        self,
        SplitRing, //
    },
    wrap,
};

/// The format of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Descriptor table, available ring, used ring (virtio 1.2, 2.7).
    Split,
    /// One ring of descriptors (virtio 1.2, 2.8).
    Packed,
}

impl Format {
    /// Returns the format that was negotiated.
    pub const fn of(features: Features) -> Self {
        if features.has(bit::RING_PACKED) {
            Self::Packed
        } else {
            Self::Split
        }
    }

    /// Returns the requirements on the parts of a ring.
    pub const fn parts(self, size: QueueSize) -> Parts<Part> {
        match self {
            Self::Split => split::parts(size),
            Self::Packed => packed::parts(size),
        }
    }

    /// Returns true if the parts of a ring of any size may lie at these addresses.
    pub const fn aligned(self, addresses: Parts<u64>) -> bool {
        // The alignment is the same for all sizes.
        let parts = self.parts(QueueSize::MIN);
        addresses.desc % parts.desc.align == 0
            && addresses.driver % parts.driver.align == 0
            && addresses.device % parts.device.align == 0
    }

    /// Returns the base of an unused ring.
    pub const fn initial_base(self) -> u32 {
        match self {
            Self::Split => 0,
            // Place 0 and wrap counter 1, twice.
            Self::Packed => 0x8000_8000,
        }
    }

    /// Returns true if VHOST_SET_VRING_BASE takes this number: 16 bits in a split ring, 32 in a
    /// packed one. [`Base::decode`] checks that it is a place in a ring of some size.
    pub const fn takes_base(self, number: u32) -> bool {
        match self {
            Self::Split => number <= u16::MAX as u32,
            Self::Packed => true,
        }
    }
}

/// The positions of both halves of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Free-running position of the available half.
    pub avail: u16,
    /// Free-running position of the used half. In a split ring only the ring itself knows it.
    pub used: u16,
}

impl Base {
    /// Decodes the number of VHOST_SET_VRING_BASE. For a split ring that is the available index; for
    /// a packed one the position of the available half in the low 16 bits and that of the used half
    /// in the high ones, each with its wrap counter on top.
    ///
    /// Returns `None` for a place that is not in the ring, and when the halves are so far apart that more
    /// descriptors would be in the hands of the device than there are.
    pub const fn decode(format: Format, size: QueueSize, number: u32) -> Option<Self> {
        let (low, high) = (number as u16, (number >> 16) as u16);
        match format {
            Format::Split if high == 0 => Some(Self {
                avail: low,
                used: 0,
            }),
            Format::Split => None,
            Format::Packed => match (wrap::position(size, low), wrap::position(size, high)) {
                (Some(avail), Some(used)) if wrap::distance(size, used, avail) <= size.get() => {
                    Some(Self { avail, used })
                }
                _ => None,
            },
        }
    }

    /// Encodes the number of VHOST_GET_VRING_BASE, the inverse of [`Self::decode`].
    pub const fn encode(self, format: Format, size: QueueSize) -> u32 {
        match format {
            Format::Split => self.avail as u32,
            Format::Packed => {
                let avail = wrap::off_wrap(size, self.avail) as u32;
                let used = wrap::off_wrap(size, self.used) as u32;
                used << 16 | avail
            }
        }
    }
}

/// A ring, as shared memory.
pub enum Ring<M> {
    /// Of the split format.
    Split(SplitRing<M>),
    /// Of the packed format.
    Packed(PackedRing<M>),
}

impl<M: SharedMemory> Ring<M> {
    /// Creates a ring of `size` entries over its parts, which are as long as [`Format::parts`] says.
    pub fn new(format: Format, size: QueueSize, parts: Parts<M>) -> Self {
        match format {
            Format::Split => Self::Split(SplitRing::new(size, parts)),
            Format::Packed => Self::Packed(PackedRing::new(size, parts)),
        }
    }

    /// Returns the number of entries.
    #[inline]
    pub fn size(&self) -> QueueSize {
        match self {
            Self::Split(ring) => ring.size(),
            Self::Packed(ring) => ring.size(),
        }
    }

    /// Returns the format.
    pub fn format(&self) -> Format {
        match self {
            Self::Split(_) => Format::Split,
            Self::Packed(_) => Format::Packed,
        }
    }

    /// Decodes the number of VHOST_SET_VRING_BASE for this ring, as [`Base::decode`] does, but for one
    /// that some users (the crate virtio-driver, Cloud Hypervisor) set for every new ring: in a packed
    /// one, 0 is the first place with a wrap counter of 0, which no new ring has. What the driver or the
    /// device wrote there in the lap before has a flag set, so a ring without is new.
    pub fn base(&self, number: u32) -> Option<Base> {
        let number = match self {
            Self::Packed(ring) if number == 0 && ring.is_new() => self.format().initial_base(),
            _ => number,
        };
        Base::decode(self.format(), self.size(), number)
    }

    /// Reads the chain at `head` into `segments`, which must have room for as many as
    /// [`max_segments`](crate::chain::max_segments) says: a chain that has more than there is room
    /// for is refused as too long.
    ///
    /// `indirect` says whether VIRTIO_F_INDIRECT_DESC was negotiated; indirect tables are read
    /// through `memory`.
    ///
    /// # Errors
    ///
    /// See [`ChainError`]. The buffers found until then mean nothing.
    #[inline]
    pub fn walk<'s>(
        &self,
        head: Head,
        indirect: bool,
        memory: &impl ReadGuest,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError> {
        match self {
            Self::Split(ring) => ring.walk(head, indirect, memory, segments),
            Self::Packed(ring) => ring.walk(head, indirect, memory, segments),
        }
    }
}

/// Takes chains, and tells the driver when to kick.
pub enum Avail {
    /// From a split ring.
    Split(split::Avail),
    /// From a packed ring.
    Packed(packed::Avail),
}

impl Avail {
    /// Begins at `base`.
    pub fn new<M: SharedMemory>(ring: &Ring<M>, base: Base, event_idx: bool) -> Self {
        match ring {
            Ring::Split(_) => Self::Split(split::Avail::new(base.avail, event_idx)),
            Ring::Packed(_) => Self::Packed(packed::Avail::new(base.avail, event_idx)),
        }
    }

    /// Returns the free-running position to go on from later.
    #[inline]
    pub fn position(&self) -> u16 {
        match self {
            Self::Split(avail) => avail.position(),
            Self::Packed(avail) => avail.position(),
        }
    }

    /// Returns how many more chains are known to be there, without reading the ring.
    #[inline]
    pub fn known_left(&self) -> u16 {
        match self {
            Self::Split(avail) => avail.known_left(),
            Self::Packed(avail) => avail.known_left(),
        }
    }

    /// Returns true if taking a chain looks for the next one: what is known to be left may be new
    /// then.
    #[inline]
    pub fn looks_ahead(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Looks for chains in the ring. Returns whether there are any.
    ///
    /// # Errors
    ///
    /// [`RingError`].
    #[inline]
    pub fn refresh<M: SharedMemory>(&mut self, ring: &Ring<M>) -> Result<bool, RingError> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => avail.refresh(ring),
            (Self::Packed(avail), Ring::Packed(ring)) => Ok(avail.refresh(ring)),
            _ => Ok(false),
        }
    }

    /// Takes the next chain, if one is known to be there ([`Self::known_left`]). `used` says where
    /// the other half stands, as for [`Self::pop`].
    ///
    /// # Errors
    ///
    /// [`RingError`]; nothing was taken then.
    #[inline]
    pub fn take<M: SharedMemory>(
        &mut self,
        ring: &Ring<M>,
        used: impl Fn() -> u16,
    ) -> Result<Popped, RingError> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => Ok(avail.take(ring)),
            (Self::Packed(avail), Ring::Packed(ring)) => avail.take(ring, used),
            _ => Ok(Popped::Empty),
        }
    }

    /// Takes the next chain, looking for one if none is known. `used` says where the other half
    /// stands ([`Used::position`]); it is asked seldom, and never by a split ring.
    ///
    /// # Errors
    ///
    /// [`RingError`]; nothing was taken then.
    #[inline]
    pub fn pop<M: SharedMemory>(
        &mut self,
        ring: &Ring<M>,
        used: impl Fn() -> u16,
    ) -> Result<Popped, RingError> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => avail.pop(ring),
            (Self::Packed(avail), Ring::Packed(ring)) => avail.pop(ring, used),
            _ => Ok(Popped::Empty),
        }
    }

    /// Tells the driver not to kick, while the queue is being served anyway. It may still do so.
    #[inline]
    pub fn disable_notify<M: SharedMemory>(&mut self, ring: &Ring<M>) {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => avail.disable_notify(ring),
            (Self::Packed(avail), Ring::Packed(ring)) => avail.disable_notify(ring),
            _ => (),
        }
    }

    /// Asks the driver to kick for the next chain, then refreshes once more. Returns whether there
    /// is something to take, in which case no kick may come.
    ///
    /// # Errors
    ///
    /// [`RingError`].
    #[inline]
    pub fn enable_notify<M: SharedMemory>(&mut self, ring: &Ring<M>) -> Result<bool, RingError> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => avail.enable_notify(ring),
            (Self::Packed(avail), Ring::Packed(ring)) => Ok(avail.enable_notify(ring)),
            _ => Ok(false),
        }
    }
}

/// Gives chains back, and decides on interrupts.
pub enum Used {
    /// To a split ring.
    Split(split::Used),
    /// To a packed ring.
    Packed(packed::Used),
}

impl Used {
    /// Begins at `base`, or at the used index in the ring if it has one.
    pub fn new<M: SharedMemory>(ring: &Ring<M>, base: Base, event_idx: bool) -> Self {
        match ring {
            Ring::Split(ring) => Self::Split(split::Used::new(ring, event_idx)),
            Ring::Packed(_) => Self::Packed(packed::Used::new(base.used, event_idx)),
        }
    }

    /// Returns the free-running position to go on from later.
    #[inline]
    pub fn position(&self) -> u16 {
        match self {
            Self::Split(used) => used.position(),
            Self::Packed(used) => used.position(),
        }
    }

    /// Gives `head` back with `len` bytes written to it, and makes that visible to the driver.
    ///
    /// `len` may be less than what was written, never more.
    #[inline]
    pub fn add_used<M: SharedMemory>(&mut self, ring: &Ring<M>, head: Head, len: u32) {
        match (self, ring) {
            (Self::Split(used), Ring::Split(ring)) => used.add_used(ring, head, len),
            (Self::Packed(used), Ring::Packed(ring)) => used.add_used(ring, head, len),
            _ => (),
        }
    }

    /// Decides whether the driver wants an interrupt for what was added since the last call. Each
    /// call that returns `true` must be followed by one.
    #[inline]
    pub fn should_interrupt<M: SharedMemory>(&mut self, ring: &Ring<M>) -> bool {
        match (self, ring) {
            (Self::Split(used), Ring::Split(ring)) => used.should_interrupt(ring),
            (Self::Packed(used), Ring::Packed(ring)) => used.should_interrupt(ring),
            _ => false,
        }
    }
}

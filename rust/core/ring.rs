// SPDX-License-Identifier: GPL-2.0

//! A virtqueue in whichever format was agreed on.
//!
//! Users of this crate serve a [`Ring`] with its [`Avail`] and its [`Used`] half, and need not know
//! which format they have. Each of them is one of two, so that every call is a comparison and a
//! jump to [`split`] or [`packed`]. A half that meets a ring of the other format does nothing: no
//! user mixes them, and no guest can make it.

use crate::{
    chain::Chains,
    features::{
        bit,
        Features, //
    },
    lap,
    memory::SharedMemory,
    packed::{
        self,
        Overrun,
        PackedRing, //
    },
    queue::{
        Head,
        Part,
        Parts,
        Popped,
        QueueSize, //
    },
    split::{
        self,
        ImpossibleIndex,
        SplitRing, //
    },
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
    /// The one that was negotiated.
    pub const fn of(features: Features) -> Self {
        if features.has(bit::RING_PACKED) {
            Self::Packed
        } else {
            Self::Split
        }
    }

    /// What the parts of a ring must be like.
    pub const fn parts(self, size: QueueSize) -> Parts<Part> {
        match self {
            Self::Split => split::parts(size),
            Self::Packed => packed::parts(size),
        }
    }

    /// Whether the parts of a ring of any size may lie at these addresses.
    pub const fn aligned(self, addresses: Parts<u64>) -> bool {
        // It is the same for all sizes.
        let parts = self.parts(QueueSize::MIN);
        addresses.desc % parts.desc.align == 0
            && addresses.driver % parts.driver.align == 0
            && addresses.device % parts.device.align == 0
    }

    /// The base of a ring that nobody has used yet.
    pub const fn initial_base(self) -> u32 {
        match self {
            Self::Split => 0,
            // Place 0 and wrap counter 1, twice.
            Self::Packed => 0x8000_8000,
        }
    }

    /// Whether VHOST_SET_VRING_BASE takes this number: 16 bits in a split ring, 32 in a packed
    /// one. Whether it is a place in the ring depends on its size, see [`Base::decode`].
    pub const fn takes_base(self, number: u32) -> bool {
        match self {
            Self::Split => number <= u16::MAX as u32,
            Self::Packed => true,
        }
    }
}

/// Where the halves of a ring stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Free-running position of the available half.
    pub avail: u16,
    /// Free-running position of the used half. In a split ring only the ring itself knows it.
    pub used: u16,
}

impl Base {
    /// From what VHOST_SET_VRING_BASE was given. For a split ring that is the available index; for
    /// a packed one the position of the available half in the low 16 bits and that of the used half
    /// in the high ones, each with its wrap counter on top.
    ///
    /// `None` for a place that is not in the ring, and when the halves are so far apart that more
    /// descriptors would be in the hands of the device than there are.
    pub const fn decode(format: Format, size: QueueSize, number: u32) -> Option<Self> {
        let (low, high) = (number as u16, (number >> 16) as u16);
        match format {
            Format::Split if high == 0 => Some(Self {
                avail: low,
                used: 0,
            }),
            Format::Split => None,
            Format::Packed => match (lap::position(size, low), lap::position(size, high)) {
                (Some(avail), Some(used)) if lap::distance(size, used, avail) <= size.get() => {
                    Some(Self { avail, used })
                }
                _ => None,
            },
        }
    }

    /// As VHOST_GET_VRING_BASE tells it, the inverse of [`Self::decode`].
    pub const fn encode(self, format: Format, size: QueueSize) -> u32 {
        match format {
            Format::Split => self.avail as u32,
            Format::Packed => {
                let avail = lap::off_wrap(size, self.avail) as u32;
                let used = lap::off_wrap(size, self.used) as u32;
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
    /// A ring of `size` entries over its parts, which are as long as [`Format::parts`] says.
    pub fn new(format: Format, size: QueueSize, parts: Parts<M>) -> Self {
        match format {
            Format::Split => Self::Split(SplitRing::new(size, parts)),
            Format::Packed => Self::Packed(PackedRing::new(size, parts)),
        }
    }

    /// Number of entries.
    #[inline]
    pub fn size(&self) -> QueueSize {
        match self {
            Self::Split(ring) => ring.size(),
            Self::Packed(ring) => ring.size(),
        }
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self {
            Self::Split(_) => Format::Split,
            Self::Packed(_) => Format::Packed,
        }
    }
}

/// The driver made more available than a ring can hold. Nothing is to be taken from it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// In a split ring.
    Index(ImpossibleIndex),
    /// In a packed ring.
    Overrun(Overrun),
}

impl From<ImpossibleIndex> for Impossible {
    fn from(error: ImpossibleIndex) -> Self {
        Self::Index(error)
    }
}

impl From<Overrun> for Impossible {
    fn from(error: Overrun) -> Self {
        Self::Overrun(error)
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

    /// The free-running position to go on from later.
    #[inline]
    pub fn position(&self) -> u16 {
        match self {
            Self::Split(avail) => avail.position(),
            Self::Packed(avail) => avail.position(),
        }
    }

    /// How many more chains are known to be there, without looking.
    #[inline]
    pub fn known_left(&self) -> u16 {
        match self {
            Self::Split(avail) => avail.known_left(),
            Self::Packed(avail) => avail.known_left(),
        }
    }

    /// Takes the next chain. `used` says where the other half stands ([`Used::position`]); it is
    /// asked seldom, and never by a split ring.
    ///
    /// # Errors
    ///
    /// [`Impossible`]; nothing was taken then.
    #[inline]
    pub fn pop<M: SharedMemory>(
        &mut self,
        ring: &Ring<M>,
        used: impl Fn() -> u16,
    ) -> Result<Popped, Impossible> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => Ok(avail.pop(ring)?),
            (Self::Packed(avail), Ring::Packed(ring)) => Ok(avail.pop(ring, used)?),
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

    /// Asks the driver to kick for the next chain, then looks once more. Returns whether there is
    /// something to take, in which case no kick may come.
    ///
    /// # Errors
    ///
    /// [`Impossible`].
    #[inline]
    pub fn enable_notify<M: SharedMemory>(&mut self, ring: &Ring<M>) -> Result<bool, Impossible> {
        match (self, ring) {
            (Self::Split(avail), Ring::Split(ring)) => AvailHalf::enable_notify(avail, ring),
            (Self::Packed(avail), Ring::Packed(ring)) => AvailHalf::enable_notify(avail, ring),
            _ => Ok(false),
        }
    }
}

/// The available half of a ring of one format, for those who decide once which one they serve and
/// not again for each chain. What each function does is told at [`Avail`].
pub trait AvailHalf<M> {
    /// The ring.
    type Ring: Chains;
    /// Whether taking a chain looks for the next one: what is known to be left may be new then.
    const LOOKS_AHEAD: bool;

    /// See [`Avail::known_left`].
    fn known_left(&self) -> u16;

    /// Looks for chains when none is known to be left; whether there are any.
    ///
    /// # Errors
    ///
    /// [`Impossible`].
    fn look(&mut self, ring: &Self::Ring) -> Result<bool, Impossible>;

    /// Takes the next chain, which is known to be there; see [`Avail::pop`].
    ///
    /// # Errors
    ///
    /// [`Impossible`].
    fn take(&mut self, ring: &Self::Ring, used: impl Fn() -> u16) -> Result<Popped, Impossible>;

    /// See [`Avail::disable_notify`].
    fn disable_notify(&mut self, ring: &Self::Ring);

    /// See [`Avail::enable_notify`].
    ///
    /// # Errors
    ///
    /// [`Impossible`].
    fn enable_notify(&mut self, ring: &Self::Ring) -> Result<bool, Impossible>;
}

impl<M: SharedMemory> AvailHalf<M> for split::Avail {
    type Ring = SplitRing<M>;
    const LOOKS_AHEAD: bool = false;

    #[inline]
    fn known_left(&self) -> u16 {
        self.known_left()
    }

    #[inline]
    fn look(&mut self, ring: &Self::Ring) -> Result<bool, Impossible> {
        Ok(self.look(ring)?)
    }

    #[inline]
    fn take(&mut self, ring: &Self::Ring, _used: impl Fn() -> u16) -> Result<Popped, Impossible> {
        Ok(self.take(ring))
    }

    #[inline]
    fn disable_notify(&mut self, ring: &Self::Ring) {
        self.disable_notify(ring);
    }

    #[inline]
    fn enable_notify(&mut self, ring: &Self::Ring) -> Result<bool, Impossible> {
        Ok(self.enable_notify(ring)?)
    }
}

impl<M: SharedMemory> AvailHalf<M> for packed::Avail {
    type Ring = PackedRing<M>;
    const LOOKS_AHEAD: bool = true;

    #[inline]
    fn known_left(&self) -> u16 {
        self.known_left()
    }

    #[inline]
    fn look(&mut self, ring: &Self::Ring) -> Result<bool, Impossible> {
        Ok(self.look(ring))
    }

    #[inline]
    fn take(&mut self, ring: &Self::Ring, used: impl Fn() -> u16) -> Result<Popped, Impossible> {
        Ok(self.pop(ring, used)?)
    }

    #[inline]
    fn disable_notify(&mut self, ring: &Self::Ring) {
        self.disable_notify(ring);
    }

    #[inline]
    fn enable_notify(&mut self, ring: &Self::Ring) -> Result<bool, Impossible> {
        Ok(self.enable_notify(ring))
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
    /// Begins at `base`, or where the ring stands if that tells.
    pub fn new<M: SharedMemory>(ring: &Ring<M>, base: Base, event_idx: bool) -> Self {
        match ring {
            Ring::Split(ring) => Self::Split(split::Used::new(ring, event_idx)),
            Ring::Packed(_) => Self::Packed(packed::Used::new(base.used, event_idx)),
        }
    }

    /// The free-running position to go on from later.
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
    pub fn push<M: SharedMemory>(&mut self, ring: &Ring<M>, head: Head, len: u32) {
        match (self, ring) {
            (Self::Split(used), Ring::Split(ring)) => used.push(ring, head, len),
            (Self::Packed(used), Ring::Packed(ring)) => used.push(ring, head, len),
            _ => (),
        }
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call. Each call
    /// that returns `true` must be followed by one.
    #[inline]
    pub fn should_interrupt<M: SharedMemory>(&mut self, ring: &Ring<M>) -> bool {
        match (self, ring) {
            (Self::Split(used), Ring::Split(ring)) => used.should_interrupt(ring),
            (Self::Packed(used), Ring::Packed(ring)) => used.should_interrupt(ring),
            _ => false,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The device's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! A ring has two independent halves. [`Avail`] takes chains and belongs to the code that serves
//! the queue; [`Used`] gives them back and belongs to the code that completes requests. They touch
//! different fields of the shared memory, so that each can live under a lock of its own.
//!
//! ```
//! use vblk_core::{
//!     addr::GuestAddr,
//!     queue::Popped,
//!     split::{Avail, SplitRing, Used},
//!     testing::{Buf, Driver, Layout, Ram},
//! };
//!
//! let (ram, layout) = (Ram::new(0x10000), Layout::with_size(8, GuestAddr(0x1000)));
//! let mut driver = Driver::new(&ram, layout, false);
//! driver.add(&[Buf::writable(GuestAddr(0x4000), 512)]);
//! driver.publish();
//!
//! let ring = SplitRing::new(layout.size, ram.parts(&layout));
//! let (mut avail, mut used) = (Avail::new(0, false), Used::new(&ring, false));
//! avail.disable_notify(&ring);
//! let Ok(Popped::Chain(head)) = avail.pop(&ring) else {
//!     panic!("the chain is there");
//! };
//! used.add_used(&ring, head, 512);
//! assert!(used.should_interrupt(&ring));
//! // Nothing came meanwhile, and the driver kicks again.
//! assert_eq!(avail.enable_notify(&ring), Ok(false));
//! assert!(driver.device_waits());
//! ```

use crate::{
    memory::SharedMemory,
    notify::need_event,
    queue::{
        Head,
        Part,
        Parts,
        Popped,
        QueueSize,
        RingError, //
    },
};

const DESC_BYTES: usize = 16;
const USED_ELEM_BYTES: usize = 8;
/// Both rings begin with 16 bits of flags and a 16 bit index.
const RING_FLAGS: usize = 0;
const RING_INDEX: usize = 2;
const RING_ENTRIES: usize = 4;

/// The driver does not want interrupts (virtio 1.2, 2.7.6, VIRTQ_AVAIL_F_NO_INTERRUPT).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// The device does not want kicks (virtio 1.2, 2.7.8, VIRTQ_USED_F_NO_NOTIFY).
const USED_F_NO_NOTIFY: u16 = 1;

/// Returns the requirements on the parts of a ring (virtio 1.2, 2.7).
pub const fn parts(size: QueueSize) -> Parts<Part> {
    Parts {
        desc: Part {
            bytes: size.get() as usize * DESC_BYTES,
            align: 16,
            written: false,
        },
        driver: Part {
            bytes: used_event(size) + 2,
            align: 2,
            written: false,
        },
        device: Part {
            bytes: avail_event(size) + 2,
            align: 4,
            written: true,
        },
    }
}

/// Returns the offset of `used_event`, by which the driver says at which used index it wants an
/// interrupt: behind the available ring.
#[inline]
const fn used_event(size: QueueSize) -> usize {
    RING_ENTRIES + size.get() as usize * 2
}

/// Returns the offset of `avail_event`, by which the device says at which available index it wants
/// a kick: behind the used ring.
#[inline]
const fn avail_event(size: QueueSize) -> usize {
    RING_ENTRIES + size.get() as usize * USED_ELEM_BYTES
}

/// A descriptor as it stood in guest memory when it was read, once (virtio 1.2, 2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address, unchecked.
    pub addr: u64,
    /// Length in bytes, unchecked.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
    /// Index of the next descriptor when [`Self::F_NEXT`] is set, unchecked.
    pub next: u16,
}

impl Descriptor {
    /// Bytes of a descriptor, in the table as in an indirect table.
    pub const BYTES: usize = DESC_BYTES;
    /// The chain goes on at `next`.
    pub const F_NEXT: u16 = 1;
    /// The device writes to the buffer, otherwise it reads it.
    pub const F_WRITE: u16 = 2;
    /// The buffer holds a table of descriptors.
    pub const F_INDIRECT: u16 = 4;

    /// Decodes two little-endian words of 64 bits, given as values of the host.
    #[inline]
    pub fn from_words(addr: u64, rest: u64) -> Self {
        Self {
            addr: u64::from_le(addr),
            len: u64::from_le(rest) as u32,
            flags: (u64::from_le(rest) >> 32) as u16,
            next: (u64::from_le(rest) >> 48) as u16,
        }
    }

    /// Decodes an entry of an indirect table.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let both = u128::from_le_bytes(*bytes);
        Self::from_words((both as u64).to_le(), ((both >> 64) as u64).to_le())
    }
}

/// The three parts of a split ring, as shared memory.
pub struct SplitRing<M> {
    size: QueueSize,
    desc: M,
    avail: M,
    used: M,
}

impl<M: SharedMemory> SplitRing<M> {
    /// Creates a ring of `size` entries over its three parts, which are as long as [`parts`] says.
    pub fn new(size: QueueSize, parts: Parts<M>) -> Self {
        Self {
            size,
            desc: parts.desc,
            avail: parts.driver,
            used: parts.device,
        }
    }

    /// Returns the number of entries.
    pub fn size(&self) -> QueueSize {
        self.size
    }

    /// Reads the descriptor at `index`. Returns `None` when the table is not that long.
    pub fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size.get() {
            return None;
        }
        // The guest chose the index: the mask holds under speculation too, see `slot`.
        let at = self.size.slot(index) * DESC_BYTES;
        let [addr, rest] = self.desc.load_u64_pair(at);
        Some(Descriptor::from_words(addr, rest))
    }
}

/// Takes chains from the available ring, and tells the driver when to kick.
pub struct Avail {
    /// Free-running index of the next entry to take.
    next: u16,
    /// The driver's index when it was last read: entries before it are there to take.
    seen: u16,
    event_idx: bool,
    /// True if the driver was last told to kick. What it was told before our time is not known.
    notify: bool,
}

impl Avail {
    /// Begins at the free-running index `next`: what VHOST_SET_VRING_BASE was given, or
    /// [`Self::position`] returned when the ring was last served.
    pub fn new(next: u16, event_idx: bool) -> Self {
        Self {
            next,
            seen: next,
            event_idx,
            notify: false,
        }
    }

    /// Returns the position to go on from later, as in VHOST_GET_VRING_BASE.
    #[inline]
    pub fn position(&self) -> u16 {
        self.next
    }

    /// Returns how many more entries are known to be there, without reading the ring.
    #[inline]
    pub fn known_left(&self) -> u16 {
        self.seen.wrapping_sub(self.next)
    }

    /// Takes the next entry.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailIndex`]; nothing was taken then.
    pub fn pop<M: SharedMemory>(&mut self, ring: &SplitRing<M>) -> Result<Popped, RingError> {
        if self.next == self.seen && !self.refresh(ring)? {
            return Ok(Popped::Empty);
        }
        Ok(self.take(ring))
    }

    /// Takes the next entry, if one is known to be there ([`Self::known_left`]).
    #[inline]
    pub fn take<M: SharedMemory>(&mut self, ring: &SplitRing<M>) -> Popped {
        if self.next == self.seen {
            return Popped::Empty;
        }
        let at = RING_ENTRIES + ring.size.slot(self.next) * 2;
        let head = u16::from_le(ring.avail.load_u16(at));
        self.next = self.next.wrapping_add(1);
        if head >= ring.size.get() {
            return Popped::OutOfRange(head);
        }
        // The guest chose the head: the mask holds under speculation too, see `slot`.
        let head = ring.size.slot(head) as u16;
        Popped::Chain(Head::new(head, head, 1))
    }

    /// Reads the driver's index anew. Returns whether there is something to take.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailIndex`].
    #[inline]
    pub fn refresh<M: SharedMemory>(&mut self, ring: &SplitRing<M>) -> Result<bool, RingError> {
        // Pairs with the driver's barrier between writing the entries with their descriptors and
        // moving the index (virtio 1.2, 2.7.13.3): what the index covers is visible from here on.
        let claimed = u16::from_le(ring.avail.load_acquire_u16(RING_INDEX));
        if claimed.wrapping_sub(self.next) > ring.size.get() {
            return Err(RingError::AvailIndex {
                next: self.next,
                claimed,
            });
        }
        self.seen = claimed;
        Ok(claimed != self.next)
    }

    /// Tells the driver not to kick, while the queue is being served anyway. It may still do so.
    pub fn disable_notify<M: SharedMemory>(&mut self, ring: &SplitRing<M>) {
        // With the event index, the index that was asked for last is passed and stays silent.
        if self.notify && !self.event_idx {
            ring.used.store_u16(RING_FLAGS, USED_F_NO_NOTIFY.to_le());
        }
        self.notify = false;
    }

    /// Asks the driver to kick for the next entry, then refreshes once more. Returns whether there
    /// is something to take, in which case no kick may come.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailIndex`].
    pub fn enable_notify<M: SharedMemory>(
        &mut self,
        ring: &SplitRing<M>,
    ) -> Result<bool, RingError> {
        if self.event_idx {
            let at = avail_event(ring.size);
            ring.used.store_u16(at, self.next.to_le());
        } else if !self.notify {
            ring.used.store_u16(RING_FLAGS, 0);
        }
        self.notify = true;
        // Pairs with the driver's barrier between moving its index and reading our flag or event
        // index (virtio 1.2, 2.7.13.4): either it sees that we want a kick, or we see the entry.
        ring.used.full_barrier();
        self.refresh(ring)
    }
}

/// Gives chains back through the used ring, and decides on interrupts.
pub struct Used {
    /// Free-running index of the next entry to write.
    next: u16,
    /// `next` at the last decision, if that is known.
    signalled: Option<u16>,
    event_idx: bool,
}

impl Used {
    /// Goes on where the used index in the ring stands, as C vhost does: the ring is the only
    /// place that holds it.
    pub fn new<M: SharedMemory>(ring: &SplitRing<M>, event_idx: bool) -> Self {
        Self {
            next: u16::from_le(ring.used.load_u16(RING_INDEX)),
            signalled: None,
            event_idx,
        }
    }

    /// Returns the free-running index of the next entry to write.
    #[inline]
    pub fn position(&self) -> u16 {
        self.next
    }

    /// Gives `head` back with `len` bytes written to it, and makes that visible to the driver.
    ///
    /// `len` may be less than what was written, never more (virtio 1.2, 2.7.8.2).
    pub fn add_used<M: SharedMemory>(&mut self, ring: &SplitRing<M>, head: Head, len: u32) {
        let at = RING_ENTRIES + ring.size.slot(self.next) * USED_ELEM_BYTES;
        let entry = [u32::from(head.id()).to_le(), len.to_le()];
        ring.used.store_u32_pair(at, entry);
        self.next = self.next.wrapping_add(1);
        if self.signalled == Some(self.next) {
            // A whole turn of the index since then: no comparison of indices can tell any more.
            self.signalled = None;
        }
        // Pairs with the driver's barrier between reading the index and reading the entry and the
        // buffers (virtio 1.2, 2.7.14).
        ring.used.store_release_u16(RING_INDEX, self.next.to_le());
    }

    /// Decides whether the driver wants an interrupt for what was added since the last call. Each
    /// call that returns `true` must be followed by one.
    pub fn should_interrupt<M: SharedMemory>(&mut self, ring: &SplitRing<M>) -> bool {
        // Pairs with the driver's barrier between asking for an interrupt and looking at the used
        // index once more: either we see that it asked, or it sees the entry.
        ring.used.full_barrier();
        if !self.event_idx {
            let flags = u16::from_le(ring.avail.load_u16(RING_FLAGS));
            return flags & AVAIL_F_NO_INTERRUPT == 0;
        }
        let event = u16::from_le(ring.avail.load_u16(used_event(ring.size)));
        match self.signalled.replace(self.next) {
            Some(old) => need_event(event, self.next, old),
            None => true,
        }
    }
}

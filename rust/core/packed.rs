// SPDX-License-Identifier: GPL-2.0

//! The device's side of a packed virtqueue (virtio 1.2, 2.8).
//!
//! One ring of descriptors serves both directions: the driver writes the descriptors of a chain,
//! the head's flags last, and the device overwrites the one where it stands with a used descriptor,
//! then goes on as many descriptors as the chain had. [`Avail`] and [`Used`] are the two halves of
//! that, and each keeps what it must know to itself. The one thing that [`Avail`] must hear of the
//! other is how far that has come ([`Used::position`]), and only when the ring may be full. Both
//! stand at positions as [`crate::wrap`] has them.
//!
//! # A driver without rules
//!
//! The ring does not say how many chains it holds, only how each goes on. So what is found to be
//! available is held against how many descriptors the driver can have, which is all but those that
//! were taken and not given back: this bounds every loop, and a head that looks available although
//! the device has all of the ring, a chain that goes on into descriptors that the device has, and
//! one that runs around the ring are all one mistake, [`RingError::ChainOverrun`].
//!
//! The flags of a descriptor are believed once. [`Avail::pop`] decides by them where a chain ends,
//! so that however broken it is, it can be given back, and the next one be found; the flags that
//! say what a buffer is for are judged when the chain is walked, and NEXT is not looked at again.
//!
//! ```
//! use vblk_core::{
//!     addr::GuestAddr,
//!     packed::{Avail, PackedRing, Used},
//!     queue::Popped,
//!     testing::{Buf, Driver, Layout, Ram},
//! };
//!
//! let (ram, layout) = (Ram::new(0x10000), Layout::packed(8, GuestAddr(0x1000)));
//! let mut driver = Driver::new(&ram, layout, false);
//! let buffers = [Buf::writable(GuestAddr(0x4000), 16), Buf::writable(GuestAddr(0x5000), 1)];
//! let id = driver.add(&buffers);
//! driver.publish();
//!
//! let ring = PackedRing::new(layout.size, ram.parts(&layout));
//! let (mut avail, mut used) = (Avail::new(0, false), Used::new(0, false));
//! let Ok(Popped::Chain(head)) = avail.pop(&ring, || used.position()) else {
//!     panic!("the chain is there");
//! };
//! // As many places as the chain has descriptors.
//! assert_eq!((Some(head.id()), head.count()), (id, 2));
//! used.add_used(&ring, head, 17);
//! assert!(used.should_interrupt(&ring));
//! assert_eq!(driver.poll_used().map(|entry| entry.len), Some(17));
//! ```

use crate::{
    memory::SharedMemory,
    queue::{
        Head,
        Part,
        Parts,
        Popped,
        QueueSize,
        RingError, //
    },
    wrap::{
        distance,
        off_wrap,
        position,
        wrap_counter, //
    },
};

const DESC_BYTES: usize = 16;
const DESC_LEN: usize = 8;
const DESC_ID: usize = 12;
const DESC_FLAGS: usize = 14;

/// Both event suppression structures (virtio 1.2, 2.8.14).
const EVENT_BYTES: usize = 4;
const EVENT_OFF_WRAP: usize = 0;
const EVENT_FLAGS: usize = 2;
/// The bits of the flags that are not reserved.
const EVENT_MASK: u16 = 3;
/// Notify of everything.
const EVENT_ENABLE: u16 = 0;
/// Notify of nothing.
const EVENT_DISABLE: u16 = 1;
/// Notify on coming past `off_wrap`; only with VIRTIO_F_EVENT_IDX.
const EVENT_DESC: u16 = 2;

/// Returns the requirements on the parts of a ring (virtio 1.2, 2.8.10.1).
pub const fn parts(size: QueueSize) -> Parts<Part> {
    Parts {
        desc: Part {
            bytes: size.get() as usize * DESC_BYTES,
            align: 16,
            written: true,
        },
        driver: Part {
            bytes: EVENT_BYTES,
            align: 4,
            written: false,
        },
        device: Part {
            bytes: EVENT_BYTES,
            align: 4,
            written: true,
        },
    }
}

/// A descriptor as it stood in guest memory when it was read, once (virtio 1.2, 2.8.13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address, unchecked.
    pub addr: u64,
    /// Length in bytes, unchecked.
    pub len: u32,
    /// Identifies the chain, in its last descriptor.
    pub id: u16,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
}

impl Descriptor {
    /// Bytes of a descriptor, in the ring as in an indirect table.
    pub const BYTES: usize = DESC_BYTES;
    /// The chain goes on with the next descriptor of the ring.
    pub const F_NEXT: u16 = 1;
    /// The device writes to the buffer, otherwise it reads it. In a used descriptor: `len` counts.
    pub const F_WRITE: u16 = 2;
    /// The buffer holds a table of descriptors.
    pub const F_INDIRECT: u16 = 4;
    /// Equal to the wrap counter in descriptors that are available, and in used ones.
    pub const F_AVAIL: u16 = 1 << 7;
    /// Equal to the wrap counter in used descriptors, but not in those that are available.
    pub const F_USED: u16 = 1 << 15;

    /// Decodes two little-endian words of 64 bits, given as values of the host.
    #[inline]
    pub fn from_words(addr: u64, rest: u64) -> Self {
        Self {
            addr: u64::from_le(addr),
            len: u64::from_le(rest) as u32,
            id: (u64::from_le(rest) >> 32) as u16,
            flags: (u64::from_le(rest) >> 48) as u16,
        }
    }

    /// Decodes an entry of an indirect table.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let both = u128::from_le_bytes(*bytes);
        Self::from_words((both as u64).to_le(), ((both >> 64) as u64).to_le())
    }
}

/// The three parts of a packed ring, as shared memory.
pub struct PackedRing<M> {
    size: QueueSize,
    desc: M,
    driver: M,
    device: M,
}

impl<M: SharedMemory> PackedRing<M> {
    /// Creates a ring of `size` entries over its three parts, which are as long as [`parts`] says.
    pub fn new(size: QueueSize, parts: Parts<M>) -> Self {
        Self {
            size,
            desc: parts.desc,
            driver: parts.driver,
            device: parts.device,
        }
    }

    /// Returns the number of entries.
    pub fn size(&self) -> QueueSize {
        self.size
    }

    /// Reads the descriptor at a free-running position.
    pub fn descriptor(&self, position: u16) -> Descriptor {
        let at = self.at(position);
        Descriptor::from_words(self.desc.load_u64(at), self.desc.load_u64(at + 8))
    }

    /// Returns true if no descriptor was written to the first place yet. The lap before one with the
    /// wrap counter 0 leaves it with AVAIL, and that lap gives it USED (virtio 1.2, 2.8.1).
    pub(crate) fn is_new(&self) -> bool {
        let flags = u16::from_le(self.desc.load_u16(DESC_FLAGS));
        flags & (Descriptor::F_AVAIL | Descriptor::F_USED) == 0
    }

    fn at(&self, position: u16) -> usize {
        self.size.slot(position) * DESC_BYTES
    }
}

/// Takes chains from the ring, and tells the driver when to kick.
pub struct Avail {
    /// Position of the next descriptor to take.
    next: u16,
    /// The flags at `next`, if they were seen to be those of an available descriptor.
    seen: Option<u16>,
    /// Number of descriptors from `next` on that the device does not have. May be more by now.
    free: u16,
    event_idx: bool,
    /// True if the driver was last told to kick. What it was told before our time is not known.
    notify: bool,
}

impl Avail {
    /// Begins at the position `next`.
    pub fn new(next: u16, event_idx: bool) -> Self {
        Self {
            next,
            seen: None,
            free: 0,
            event_idx,
            notify: false,
        }
    }

    /// Returns the position to go on from later.
    #[inline]
    pub fn position(&self) -> u16 {
        self.next
    }

    /// Returns how many more chains are known to be there, without reading the ring: none or one.
    #[inline]
    pub fn known_left(&self) -> u16 {
        u16::from(self.seen.is_some())
    }

    /// Takes the next chain. `used` says where the other half stands; it is asked about once each
    /// time around the ring.
    ///
    /// # Errors
    ///
    /// [`RingError::ChainOverrun`]; nothing was taken then.
    pub fn pop<M: SharedMemory>(
        &mut self,
        ring: &PackedRing<M>,
        used: impl Fn() -> u16,
    ) -> Result<Popped, RingError> {
        if self.seen.is_none() && !self.refresh(ring) {
            return Ok(Popped::Empty);
        }
        self.take(ring, used)
    }

    /// Takes the next chain, if one is known to be there ([`Self::known_left`]), and looks for the
    /// one behind it; see [`Self::pop`].
    ///
    /// # Errors
    ///
    /// [`RingError::ChainOverrun`]; nothing was taken then.
    pub fn take<M: SharedMemory>(
        &mut self,
        ring: &PackedRing<M>,
        used: impl Fn() -> u16,
    ) -> Result<Popped, RingError> {
        let Some(mut flags) = self.seen.take() else {
            return Ok(Popped::Empty);
        };
        let mut last = self.next;
        let mut count: u16 = 0;
        // Bounded by `free`, which is never more than the size of the queue.
        loop {
            if count == self.free {
                let held = distance(ring.size, used(), self.next);
                self.free = ring.size.get().saturating_sub(held);
                if count >= self.free {
                    return Err(RingError::ChainOverrun {
                        next: self.next,
                        free: self.free,
                    });
                }
            }
            count += 1;
            if flags & Descriptor::F_NEXT == 0 {
                break;
            }
            last = last.wrapping_add(1);
            let at = ring.at(last) + DESC_FLAGS;
            flags = u16::from_le(ring.desc.load_u16(at));
        }
        let id = u16::from_le(ring.desc.load_u16(ring.at(last) + DESC_ID));
        let head = Head::new(self.next, id, count);
        self.next = last.wrapping_add(1);
        self.free -= count;
        self.refresh(ring);
        Ok(Popped::Chain(head))
    }

    /// Reads the flags at `next` anew. Returns whether there is something to take.
    pub fn refresh<M: SharedMemory>(&mut self, ring: &PackedRing<M>) -> bool {
        let at = ring.at(self.next) + DESC_FLAGS;
        // Pairs with the driver's barrier between writing a chain and the flags of its head
        // (virtio 1.2, 2.8.21.1): all of the chain is visible from here on.
        let flags = u16::from_le(ring.desc.load_acquire_u16(at));
        let available = if wrap_counter(ring.size, self.next) {
            Descriptor::F_AVAIL
        } else {
            Descriptor::F_USED
        };
        let state = flags & (Descriptor::F_AVAIL | Descriptor::F_USED);
        self.seen = (state == available).then_some(flags);
        self.seen.is_some()
    }

    /// Tells the driver not to kick, while the queue is being served anyway. It may still do so.
    pub fn disable_notify<M: SharedMemory>(&mut self, ring: &PackedRing<M>) {
        // With the event index, the place that was asked for last is passed, and stays silent for
        // nearly twice around the ring. A kick too much then costs less than telling the driver
        // twice for each drain.
        if self.notify && !self.event_idx {
            let flags = EVENT_DISABLE.to_le();
            ring.device.store_u16(EVENT_FLAGS, flags);
            self.notify = false;
        }
    }

    /// Asks the driver to kick for the next chain, then refreshes once more. Returns whether there
    /// is something to take, in which case no kick may come.
    pub fn enable_notify<M: SharedMemory>(&mut self, ring: &PackedRing<M>) -> bool {
        let flags = if self.event_idx {
            let event = off_wrap(ring.size, self.next);
            ring.device.store_u16(EVENT_OFF_WRAP, event.to_le());
            EVENT_DESC
        } else {
            EVENT_ENABLE
        };
        if !self.notify {
            // The first place comes before the flags that refer to it. Pairs with the driver's
            // reading both at once, or the flags first (virtio 1.2, 2.8.21.2).
            ring.device.store_release_u16(EVENT_FLAGS, flags.to_le());
        }
        self.notify = true;
        // Pairs with the driver's barrier between writing the flags of a head and reading our
        // event suppression (virtio 1.2, 2.8.21.2): either it sees that we want a kick, or we see
        // the chain.
        ring.device.full_barrier();
        self.refresh(ring)
    }
}

/// Gives chains back, and decides on interrupts.
pub struct Used {
    /// Position of the next used descriptor to write.
    next: u16,
    /// Descriptors since the last decision, if that is known and they can be counted.
    moved: Option<u16>,
    event_idx: bool,
}

impl Used {
    /// Begins at the position `next`, which nothing in the ring tells.
    pub fn new(next: u16, event_idx: bool) -> Self {
        Self {
            next,
            moved: None,
            event_idx,
        }
    }

    /// Returns the position to go on from later, which [`Avail::pop`] asks for too.
    #[inline]
    pub fn position(&self) -> u16 {
        self.next
    }

    /// Gives `head` back with `len` bytes written to it, and makes that visible to the driver.
    ///
    /// `len` may be less than what was written, never more.
    // Out of line: where both formats are served, this one must cost the other nothing.
    #[inline(never)]
    pub fn add_used<M: SharedMemory>(&mut self, ring: &PackedRing<M>, head: Head, len: u32) {
        let at = ring.at(self.next);
        let state = if wrap_counter(ring.size, self.next) {
            Descriptor::F_AVAIL | Descriptor::F_USED
        } else {
            0
        };
        // Without the flag the driver is to take the length for nothing (virtio 1.2, 2.8.4).
        let write = if len > 0 { Descriptor::F_WRITE } else { 0 };
        ring.desc.store_u32(at + DESC_LEN, len.to_le());
        ring.desc.store_u16(at + DESC_ID, head.id().to_le());
        self.next = self.next.wrapping_add(head.count());
        self.moved = self.moved.and_then(|moved| moved.checked_add(head.count()));
        // Pairs with the driver's barrier between reading the flags and reading the rest and the
        // buffers (virtio 1.2, 2.8.22).
        ring.desc
            .store_release_u16(at + DESC_FLAGS, (state | write).to_le());
    }

    /// Decides whether the driver wants an interrupt for what was added since the last call. Each
    /// call that returns `true` must be followed by one.
    // Out of line: where both formats are served, this one must cost the other nothing.
    #[inline(never)]
    pub fn should_interrupt<M: SharedMemory>(&mut self, ring: &PackedRing<M>) -> bool {
        // Pairs with the driver's barrier between asking for an interrupt and looking at the used
        // descriptor once more: either we see that it asked, or it sees the descriptor.
        ring.device.full_barrier();
        let moved = self.moved.replace(0);
        // Pairs with the driver's barrier between writing the place and the flags.
        let flags = ring.driver.load_acquire_u16(EVENT_FLAGS);
        match u16::from_le(flags) & EVENT_MASK {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                let event = u16::from_le(ring.driver.load_u16(EVENT_OFF_WRAP));
                match (position(ring.size, event), moved) {
                    (Some(event), Some(moved)) => {
                        let old = self.next.wrapping_sub(moved);
                        distance(ring.size, old, event) < moved
                    }
                    // What it means by that is not known: too many interrupts do no harm.
                    _ => true,
                }
            }
            _ => true,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! One virtqueue: taking chains from it and giving them back.

use super::{
    counters::Counters,
    memory::RingPart,
    tracker::{BadNotes, Taken, Tracker},
};
use crate::backend::{Error, Position, QueueConfig};
use std::{collections::VecDeque, io, sync::Arc};
use vblk_core::{
    chain::{Chain, ChainError, Segment},
    features::{bit, Features},
    memory::ReadGuest,
    queue::RingError,
    queue::{Head, Part, Parts, Popped, QueueSize},
    request::Status,
    ring::{Avail, Base, Format, Ring, Used},
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// A queue that is being served.
pub struct Virtqueue<'m> {
    memory: &'m GuestMemoryMmap,
    index: u16,
    ring: Ring<RingPart<'m>>,
    avail: Avail,
    used: Used,
    tracker: Tracker,
    call: EventFd,
    err: Option<EventFd>,
    /// There may be something to take.
    pub ready: bool,
    /// Taken by an earlier process, or waiting for a buffer.
    pub parked: VecDeque<Taken>,
    /// Its available index is impossible: nothing is taken any more.
    pub stopped: bool,
    /// Given back since the last decision on an interrupt.
    answered: bool,
    /// A malformed chain since the error eventfd was last signalled.
    faulty: bool,
}

/// The answer to a request: its status byte and used entry.
#[derive(Clone, Copy)]
pub struct Answer {
    /// Address of the status byte; nothing is written there if it is not memory.
    pub status_at: GuestAddress,
    /// The status byte.
    pub status: Status,
    /// Bytes written, for the used ring.
    pub len: u32,
}

impl<'m> Virtqueue<'m> {
    /// Goes on with the ring where it stands.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        features: Features,
        config: QueueConfig,
    ) -> Result<(Self, Arc<EventFd>), Error> {
        let (ring, base) = ring(memory, features, &config)?;
        let event_idx = features.has(bit::RING_EVENT_IDX);
        let used = Used::new(&ring, base, event_idx).position();
        let tracker = Tracker::begin(config.tracking, &ring, base, used);
        let (tracker, recovered) = tracker.map_err(|BadNotes| Error::Notes(config.index))?;
        let base = recovered.base;
        let queue = Self {
            memory,
            index: config.index,
            avail: Avail::new(&ring, base, event_idx),
            used: Used::new(&ring, base, event_idx),
            ring,
            tracker,
            call: config.call,
            err: config.err,
            // Attaching counts as a kick.
            ready: true,
            parked: recovered.chains.into(),
            stopped: false,
            answered: false,
            faulty: false,
        };
        Ok((queue, Arc::new(config.kick)))
    }

    /// Reads the buffers of a chain, as [`Ring::walk`] does.
    pub fn walk<'s>(
        &self,
        chain: Taken,
        indirect: bool,
        memory: &impl ReadGuest,
        segments: &'s mut [Segment],
    ) -> Result<Chain<'s>, ChainError> {
        self.tracker
            .walk(&self.ring, chain, indirect, memory, segments)
    }

    /// Number of entries.
    pub fn size(&self) -> QueueSize {
        self.ring.size()
    }

    /// Returns where to go on later.
    pub fn position(&self) -> Position {
        let base = Base {
            avail: self.avail.position(),
            used: self.used.position(),
        };
        Position {
            index: self.index,
            base: base.encode(self.ring.format(), self.ring.size()),
        }
    }

    /// Tells the driver not to kick for a while.
    pub fn disable_notify(&mut self) {
        self.avail.disable_notify(&self.ring);
    }

    /// Asks for kicks. Returns whether something came up meanwhile.
    pub fn enable_notify(&mut self) -> Result<bool, RingError> {
        self.avail.enable_notify(&self.ring)
    }

    /// Takes the next chain, to be [noted](Self::note_taken).
    pub fn pop(&mut self) -> Result<Popped, RingError> {
        self.avail.pop(&self.ring, || self.used.position())
    }

    /// Notes that a chain was taken.
    pub fn note_taken(&mut self, head: Head) -> Taken {
        self.tracker.take(&self.ring, head)
    }

    /// Gives a chain back with its status, or with length 0 if there is no place for that.
    pub fn answer(&mut self, counters: &Counters, chain: Taken, answer: Answer) {
        match self.memory.write_obj(answer.status as u8, answer.status_at) {
            Ok(()) => self.add_used(counters, chain, answer.len),
            Err(_) => {
                self.malformed(counters);
                self.add_used(counters, chain, 0);
            }
        }
    }

    /// Gives a chain back.
    pub fn add_used(&mut self, counters: &Counters, chain: Taken, len: u32) {
        let (used, ring) = (&mut self.used, &self.ring);
        self.tracker
            .give_back(chain, || used.add_used(ring, chain.head, len));
        self.answered = true;
        counters.requests.add(1);
    }

    /// Counts a mistake of the driver.
    pub fn malformed(&mut self, counters: &Counters) {
        self.faulty = true;
        counters.malformed.add(1);
    }

    /// Signals the driver, if it wants that, for what was given back, and the owner for mistakes.
    pub fn signal_used(&mut self, counters: &Counters) -> io::Result<()> {
        if std::mem::take(&mut self.faulty) {
            if let Some(err) = &self.err {
                signal(err)?;
            }
        }
        if std::mem::take(&mut self.answered) && self.used.should_interrupt(&self.ring) {
            counters.interrupts.add(1);
            signal(&self.call)?;
        }
        Ok(())
    }
}

/// Signals an eventfd. One that is full has been signalled already.
fn signal(event: &EventFd) -> io::Result<()> {
    match event.write(1) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(()),
    }
}

/// Refuses queues that can't be served.
pub fn check(
    memory: &GuestMemoryMmap,
    features: Features,
    queues: &[QueueConfig],
) -> Result<(), Error> {
    if queues.is_empty() {
        return Err(Error::Queue(0));
    }
    queues
        .iter()
        .try_for_each(|queue| ring(memory, features, queue).map(drop))
}

fn ring<'m>(
    memory: &'m GuestMemoryMmap,
    features: Features,
    config: &QueueConfig,
) -> Result<(Ring<RingPart<'m>>, Base), Error> {
    let refused = || Error::Queue(config.index);
    let format = Format::of(features);
    let size = QueueSize::new(config.size.into()).ok_or_else(refused)?;
    let base = Base::decode(format, size, config.base).ok_or_else(refused)?;
    let part = |addr: GuestAddress, part: Part| {
        if addr.raw_value() % part.align != 0 {
            return Err(refused());
        }
        let slice = memory.get_slice(addr, part.bytes).map_err(|_| refused())?;
        Ok(RingPart(slice))
    };
    let parts = format.parts(size);
    let parts = Parts {
        desc: part(config.desc, parts.desc)?,
        driver: part(config.avail, parts.driver)?,
        device: part(config.used, parts.device)?,
    };
    Ok((Ring::new(format, size, parts), base))
}

// SPDX-License-Identifier: GPL-2.0

//! One turn of a queue: takes what the guest made available, and has it executed.

use crate::{
    executor::{
        Executor,
        Unanswerable,
        TURN_BYTES, //
    },
    memory::CurrentProcess,
    sys::{
        mapped_range::MappedRange,
        plug::plugged, //
    },
};
use vblk_core::{
    chain::{
        Chains,
        Segment, //
    },
    queue::{
        Head,
        Popped, //
    },
    ring::{
        AvailHalf,
        Impossible, //
    },
};

/// Requests that a queue may take in one turn, before other queues of the worker get theirs.
const TURN_REQUESTS: u32 = 256;

/// Requests that are submitted together and announced together. The guest gets answers early, and
/// few interrupts.
const BATCH_REQUESTS: u32 = 64;

/// Why a batch ended.
enum Ended {
    /// There was nothing more to take, as far as is known.
    Empty,
    /// It had many requests.
    Full,
    /// It had large requests.
    Large,
}

/// What a batch took so far.
#[derive(Default)]
struct Batch {
    requests: u32,
    bytes: u64,
}

/// What a turn works with, on a ring of one format.
pub(crate) struct Turn<'a, A: AvailHalf<MappedRange>> {
    pub(crate) ring: &'a A::Ring,
    pub(crate) avail: &'a mut A,
    /// Whether VIRTIO_F_INDIRECT_DESC was negotiated.
    pub(crate) indirect: bool,
    /// As many as the ring has entries.
    pub(crate) segments: &'a mut [Segment],
    pub(crate) executor: &'a mut Executor,
    /// Requests that made no sense.
    pub(crate) malformed: &'a mut u64,
}

impl<A: AvailHalf<MappedRange>> Turn<'_, A> {
    /// Serves what is there, up to a bound. Returns whether more may be there.
    ///
    /// # Errors
    ///
    /// [`Impossible`]: the ring makes no sense any more.
    pub(crate) fn serve(mut self) -> Result<bool, Impossible> {
        self.avail.disable_notify(self.ring);
        for _ in 0..TURN_REQUESTS / BATCH_REQUESTS {
            let ended = self.batch();
            self.executor.announce();
            match ended? {
                Ended::Empty => {
                    if !self.avail.enable_notify(self.ring)? {
                        return Ok(false);
                    }
                    self.avail.disable_notify(self.ring);
                }
                Ended::Full => (),
                Ended::Large => break,
            }
        }
        Ok(true)
    }

    #[inline(always)]
    fn batch(&mut self) -> Result<Ended, Impossible> {
        let mut batch = Batch::default();
        while self.look()? {
            let popped = self.pop()?;
            if self.avail.known_left() == 0 {
                // Most often all there is: it has nobody to share a plug with, and whether more
                // came is looked at after asking for a kick anyway.
                self.take(popped, &mut batch);
                return Ok(if batch.bytes >= u64::from(TURN_BYTES) {
                    Ended::Large
                } else {
                    Ended::Empty
                });
            }
            let ended = plugged(|| self.take_known(popped, &mut batch));
            self.executor.forget_status_page();
            if let Some(ended) = ended? {
                return Ok(ended);
            }
        }
        Ok(Ended::Empty)
    }

    /// Takes `popped` and those that are known to follow.
    #[inline(never)]
    fn take_known(
        &mut self,
        mut popped: Popped,
        batch: &mut Batch,
    ) -> Result<Option<Ended>, Impossible> {
        loop {
            let ended = self.take(popped, batch);
            if ended.is_some() || self.avail.known_left() == 0 {
                return Ok(ended);
            }
            if A::LOOKS_AHEAD {
                self.executor.forget_status_page();
            }
            popped = self.pop()?;
        }
    }

    /// Whether there is something to take.
    #[inline(always)]
    fn look(&mut self) -> Result<bool, Impossible> {
        Ok(self.avail.known_left() > 0 || self.avail.look(self.ring)?)
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Popped, Impossible> {
        self.avail.take(self.ring, || self.executor.position())
    }

    #[inline(always)]
    fn take(&mut self, popped: Popped, batch: &mut Batch) -> Option<Ended> {
        match popped {
            Popped::Empty => return Some(Ended::Empty),
            Popped::Chain(head) => batch.bytes += u64::from(self.one(head)),
            Popped::OutOfRange(_) => *self.malformed += 1,
        }
        batch.requests += 1;
        if batch.bytes >= u64::from(TURN_BYTES) {
            Some(Ended::Large)
        } else if batch.requests >= BATCH_REQUESTS {
            Some(Ended::Full)
        } else {
            None
        }
    }

    /// Has one chain answered; the bytes that it moves.
    #[inline(always)]
    fn one(&mut self, head: Head) -> u32 {
        let walked = self.ring.walk(
            head,
            self.indirect,
            &self.executor.table,
            &CurrentProcess,
            self.segments,
        );
        let alone = self.avail.known_left() == 0;
        let executed = match walked {
            Ok(chain) => self.executor.chain(head, &chain, alone),
            Err(_) => {
                self.executor.give_back(head);
                Err(Unanswerable)
            }
        };
        executed.unwrap_or_else(|Unanswerable| {
            *self.malformed += 1;
            0
        })
    }
}

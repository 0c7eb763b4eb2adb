// SPDX-License-Identifier: GPL-2.0

//! The worker's half of a queue, from when a disk is attached until it is detached.

use crate::{
    completion::Ring,
    executor::Executor,
    memory::Table,
    sys::eventfd::EventSignal,
    turn::Turn, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    chain::Segment,
    request::ID_BYTES,
    ring::{
        Avail,
        Base,
        Impossible, //
    },
    uapi::Stats, //
};

/// A queue that is being served.
pub(crate) struct Server {
    ring: Arc<Ring>,
    avail: Avail,
    indirect: bool,
    /// As many as the ring has entries.
    segments: KVec<Segment>,
    executor: Executor,
    err: Option<Arc<EventSignal>>,
    /// The ring makes no sense any more: not looked at again.
    broken: bool,
    /// The next turn is not due to a kick.
    own_turn: bool,
    kicks: u64,
    malformed: u64,
    /// How many malformed requests were told of.
    reported: u64,
}

impl Server {
    /// Serves `ring` from `base` on. The first turn is not due to a kick.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        ring: Arc<Ring>,
        base: Base,
        event_idx: bool,
        indirect: bool,
        executor: Executor,
        err: Option<Arc<EventSignal>>,
    ) -> Result<Self> {
        let entries = usize::from(ring.size().get());
        Ok(Self {
            avail: Avail::new(&*ring, base, event_idx),
            indirect,
            segments: KVec::from_elem(Segment::default(), entries, GFP_KERNEL_ACCOUNT)?,
            executor,
            err,
            broken: false,
            own_turn: true,
            kicks: 0,
            malformed: 0,
            reported: 0,
            ring,
        })
    }

    /// Where the ring stands, as VHOST_GET_VRING_BASE tells it.
    pub(crate) fn base(&self) -> u32 {
        let base = Base {
            avail: self.avail.position(),
            used: self.executor.position(),
        };
        base.encode(self.ring.format(), self.ring.size())
    }

    /// I/Os submitted so far.
    pub(crate) fn submitted(&self) -> u64 {
        self.executor.submitted()
    }

    /// Does what the last turn left of a long request, in the owner.
    pub(crate) fn finish(&mut self) {
        while self.executor.go_on() {}
    }

    /// Answers what only the worker or the owner can answer, after the last turn.
    pub(crate) fn answer_late(&self) {
        self.executor.answer_late();
    }

    /// Adds what this half counts.
    pub(crate) fn add_stats(&self, stats: &mut Stats) {
        stats.kicks += self.kicks;
        stats.malformed += self.malformed();
    }

    fn malformed(&self) -> u64 {
        self.malformed + self.executor.unanswerable()
    }

    /// Exchanges the memory table, between two requests.
    pub(crate) fn set_table(&mut self, table: Arc<Table>) {
        self.executor.set_table(table);
    }

    /// Switches between writing back and writing through.
    pub(crate) fn set_durable(&mut self, durable: bool) {
        self.executor.set_durable(durable);
    }

    /// Exchanges the serial number.
    pub(crate) fn set_id(&mut self, id: [u8; ID_BYTES]) {
        self.executor.id = id;
    }

    /// Exchanges the eventfd that tells of malformed requests.
    pub(crate) fn set_err(&mut self, err: Option<Arc<EventSignal>>) {
        self.err = err;
    }

    /// Serves what is there, up to a bound. Returns whether more may be there.
    pub(crate) fn turn(&mut self) -> bool {
        if !core::mem::take(&mut self.own_turn) {
            self.kicks += 1;
        }
        self.executor.tidy();
        // A turn of its own: the other queues of the worker don't wait for all of a long request.
        let more = self.executor.go_on()
            || !self.broken
                && self.serve().unwrap_or_else(|_: Impossible| {
                    self.broken = true;
                    self.malformed += 1;
                    false
                });
        // Once for all of a burst: whoever listens looks at the counters.
        if self.malformed() != self.reported {
            self.reported = self.malformed();
            if let Some(err) = &self.err {
                err.signal();
            }
        }
        self.own_turn = more;
        more
    }

    fn serve(&mut self) -> Result<bool, Impossible> {
        let Self {
            ring,
            avail,
            indirect,
            segments,
            executor,
            malformed,
            ..
        } = self;
        // The one place that knows of formats.
        match (avail, &**ring) {
            (Avail::Split(avail), Ring::Split(ring)) => Turn {
                ring,
                avail,
                indirect: *indirect,
                segments,
                executor,
                malformed,
            }
            .serve(),
            (Avail::Packed(avail), Ring::Packed(ring)) => Turn {
                ring,
                avail,
                indirect: *indirect,
                segments,
                executor,
                malformed,
            }
            .serve(),
            _ => Ok(false),
        }
    }
}

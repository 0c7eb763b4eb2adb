// SPDX-License-Identifier: GPL-2.0

//! The worker's half of a queue: takes what the guest made available, and has it executed.

use crate::{
    completion::Ring,
    executor::{
        Executor,
        Unanswerable, //
    },
    memory::{
        CurrentProcess,
        Table, //
    },
    sys::{
        bio::plugged,
        eventfd::EventSignal, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    chain::{
        walk,
        Segment, //
    },
    queue::{
        Head,
        Popped, //
    },
    request::{
        NotARequest,
        Request,
        Status,
        ID_BYTES, //
    },
    ring::{
        Avail,
        Base,
        Impossible, //
    },
    uapi::Stats, //
};

/// Requests that a queue may take in one turn, before other queues of the worker get theirs.
const TURN_REQUESTS: u32 = 256;

/// Requests that are submitted together and announced together. The guest gets answers early, and
/// few interrupts.
const BATCH_REQUESTS: u32 = 64;

/// Bytes after which a batch ends, and a turn with it.
const BATCH_BYTES: u64 = 4 << 20;

/// Why a batch ended.
enum Ended {
    /// There was nothing more to take.
    Empty,
    /// It had many requests.
    Full,
    /// It had large requests.
    Large,
}

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
        self.executor.table = table;
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
        let malformed = self.malformed();
        self.executor.tidy();
        if self.broken {
            return false;
        }
        let more = self.serve().unwrap_or_else(|_: Impossible| {
            self.broken = true;
            self.malformed += 1;
            false
        });
        // Once for all of a burst: whoever listens looks at the counters.
        if self.malformed() != malformed {
            if let Some(err) = &self.err {
                err.signal();
            }
        }
        self.own_turn = more;
        more
    }

    fn serve(&mut self) -> Result<bool, Impossible> {
        self.avail.disable_notify(&self.ring);
        for _ in 0..TURN_REQUESTS / BATCH_REQUESTS {
            let ended = plugged(|| self.batch());
            self.executor.end_batch();
            match ended? {
                Ended::Empty => {
                    if !self.avail.enable_notify(&self.ring)? {
                        return Ok(false);
                    }
                    self.avail.disable_notify(&self.ring);
                }
                Ended::Full => (),
                Ended::Large => break,
            }
        }
        Ok(true)
    }

    fn batch(&mut self) -> Result<Ended, Impossible> {
        let mut bytes = 0;
        for _ in 0..BATCH_REQUESTS {
            if self.avail.known_left() == 0 {
                self.executor.forget_status_page();
            }
            let popped = self.avail.pop(&*self.ring, || self.executor.position())?;
            match popped {
                Popped::Empty => return Ok(Ended::Empty),
                Popped::Chain(head) => bytes += u64::from(self.one(head)),
                Popped::OutOfRange(_) => self.malformed += 1,
            }
            if bytes >= BATCH_BYTES {
                return Ok(Ended::Large);
            }
        }
        Ok(Ended::Full)
    }

    /// Has one chain answered; the bytes that it moves.
    fn one(&mut self, head: Head) -> u32 {
        let Self {
            ring,
            segments,
            executor,
            ..
        } = self;
        let walked = walk(
            ring,
            head,
            self.indirect,
            &executor.table,
            &CurrentProcess,
            segments,
        );
        let Ok(chain) = walked else {
            self.malformed += 1;
            executor.give_back(head);
            return 0;
        };
        let executed = match Request::parse(&chain, &executor.table, &CurrentProcess) {
            Ok(request) => executor.execute(head, &request, self.avail.known_left() == 0),
            Err(NotARequest { status }) => {
                // Without a place for it there is nothing to tell; with one, trying is all.
                match status {
                    Some(at) => {
                        let len = chain.status_len();
                        let _ = executor.answer(head, at, Status::IoError, len);
                    }
                    None => executor.give_back(head),
                }
                Err(Unanswerable)
            }
        };
        executed.unwrap_or_else(|Unanswerable| {
            self.malformed += 1;
            0
        })
    }
}

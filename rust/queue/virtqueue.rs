// SPDX-License-Identifier: GPL-2.0

//! A virtqueue, from when a disk is attached until it is detached.
//!
//! This is the worker's half; [`UsedSide`] is the other.

use super::{
    context::{
        RequestContext,
        Rules, //
    },
    io_pool::IoPool,
    polling::Polling,
    request_handler::RequestHandler,
    ring_log::RingLog,
    used_side::{
        Ring,
        UsedSide, //
    },
};
use crate::{
    memory::{
        DeviceMemory,
        GuestMemory,
        OwnerMemory,
        PinnedMemory, //
    },
    sys::{
        block_file::BlockFile,
        signal::Signal, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::Instant, //
};
use vblk_core::{
    drain::{
        drain,
        poll,
        Next,
        Polled, //
    },
    request::ID_BYTES,
    ring::{
        Avail,
        Base, //
    },
    uapi::Stats, //
};

/// A virtqueue on guest memory of either kind, as its worker and the owner's ioctls use it: one of
/// them at a time.
pub(crate) trait Serve: Send {
    /// Serves what is there, up to a bound. Returns when to serve the queue again.
    fn handle_kick(&mut self) -> Next;

    /// Looks at the ring. Unless polling `goes_on`, the driver kicks from here on if nothing is there.
    fn poll(&mut self, goes_on: bool) -> Polled;

    /// Sets for how many microseconds the ring may be looked at when it is empty.
    fn set_poll_limit(&mut self, limit_us: u32);

    /// Returns the position in the ring, as VHOST_GET_VRING_BASE tells it.
    fn base(&self) -> u32;

    /// Adds the counters of both halves.
    fn add_stats(&self, stats: &mut Stats);

    /// Exchanges guest memory, between two requests.
    fn replace_memory(&mut self, memory: &DeviceMemory);

    /// Exchanges where what is written to guest memory is logged, between two requests. I/O in flight
    /// is not logged, and of an earlier generation afterwards.
    fn set_log(&mut self, log: Option<RingLog>);

    /// Lets go of guest memory of earlier generations, when their I/O has ended.
    fn release_memory(&mut self);

    /// Switches between writing back and writing through, for the requests that follow.
    fn set_durable(&mut self, durable: bool);

    /// Exchanges the serial number.
    fn set_serial(&mut self, serial: [u8; ID_BYTES]);

    /// Exchanges the eventfd that tells of mistakes and of a stop.
    fn set_err(&mut self, err: Option<Arc<Signal>>);

    /// Ends all that was begun, and sleeps until it has ended. The worker must not serve the queue
    /// any more. Unless the current process `is_owner`, an unfinished request gets no answer: its
    /// memory can't be reached. It is the last that was taken, so that all others before the used index
    /// are answered, and who serves the ring next, in a process that has the same memory, goes on there.
    fn drain(&mut self, is_owner: bool);
}

/// The worker's half of a virtqueue.
struct Virtqueue<M> {
    ring: Arc<Ring>,
    avail: Avail,
    handler: RequestHandler<M>,
    err: Option<Arc<Signal>>,
    /// The queue can't go on: the ring makes no sense, or a request can't be answered.
    is_stopped: bool,
    /// The mistakes that the error eventfd told of.
    reported: u64,
    polling: Polling,
    used: Arc<UsedSide>,
}

/// Setup of a [`Virtqueue`].
pub(crate) struct VirtqueueParams<'a> {
    pub(crate) ring: Arc<Ring>,
    pub(crate) base: Base,
    pub(crate) event_idx: bool,
    pub(crate) used: Arc<UsedSide>,
    pub(crate) disk: Arc<BlockFile>,
    pub(crate) memory: &'a DeviceMemory,
    pub(crate) rules: Rules,
    pub(crate) err: Option<Arc<Signal>>,
    /// Microseconds for which the ring may be looked at when it is empty.
    pub(crate) poll_us: u32,
}

impl VirtqueueParams<'_> {
    /// Creates the virtqueue.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn build(self) -> Result<KBox<dyn Serve>> {
        if let Some(memory) = OwnerMemory::new(self.memory)? {
            return Ok(KBox::new(self.on(memory)?, GFP_KERNEL_ACCOUNT)?);
        }
        let memory = PinnedMemory::new(self.memory)?.ok_or(EINVAL)?;
        Ok(KBox::new(self.on(memory)?, GFP_KERNEL_ACCOUNT)?)
    }

    fn on<M: GuestMemory>(self, memory: M) -> Result<Virtqueue<M>> {
        let size = self.ring.size();
        let pool = IoPool::new(size, self.used.clone(), self.disk.clone())?;
        let context = RequestContext::new(memory, pool, self.disk, self.rules);
        Ok(Virtqueue {
            avail: Avail::new(&*self.ring, self.base, self.event_idx),
            handler: RequestHandler::new(size, context, self.used.clone())?,
            ring: self.ring,
            err: self.err,
            is_stopped: false,
            reported: 0,
            polling: Polling::new(self.poll_us),
            used: self.used,
        })
    }
}

impl<M: GuestMemory> Virtqueue<M> {
    fn serve(&mut self) -> Next {
        if let Some(next) = self.handler.resume() {
            return next;
        }
        if self.is_stopped || self.handler.has_put_back() {
            return Next::Never;
        }
        let next = if self.polling.is_enabled() {
            self.drain_and_learn()
        } else {
            self.drain(false)
        };
        self.is_stopped = next == Next::Never;
        next
    }

    #[inline]
    fn drain(&mut self, polls: bool) -> Next {
        drain(&self.ring, &mut self.avail, &mut self.handler, polls).unwrap_or_else(|_| {
            self.handler.submitter.malformed += 1;
            Next::Never
        })
    }

    /// Marks the ring in the log, if there is one: kicks were asked for, or were not.
    #[inline]
    fn mark_ring(&self) {
        if let Some(log) = &self.handler.submitter.context.log {
            log.mark_ring();
        }
    }

    #[inline(never)]
    fn drain_and_learn(&mut self) -> Next {
        let (began, before) = (Instant::now(), self.avail.position());
        let next = self.drain(self.polling.is_open());
        if self.avail.position() != before {
            self.polling.learn(began);
        }
        self.polling.end_drain(next);
        next
    }
}

impl<M: GuestMemory> Serve for Virtqueue<M> {
    fn handle_kick(&mut self) -> Next {
        let was_stopped = self.is_stopped;
        self.used.begin_turn();
        self.handler.reap();
        let next = self.serve();
        self.used.end_turn();
        self.mark_ring();
        // Once for all of a burst: the counters tell the rest.
        let malformed = self.handler.submitter.malformed;
        if malformed != self.reported || self.is_stopped != was_stopped {
            self.reported = malformed;
            if let Some(err) = &self.err {
                err.signal();
            }
        }
        next
    }

    fn poll(&mut self, goes_on: bool) -> Polled {
        if self.is_stopped {
            return Polled::Over;
        }
        let goes_on = goes_on && self.polling.goes_on();
        let polled = poll(&self.ring, &mut self.avail, goes_on);
        if polled != Polled::Nothing {
            self.mark_ring();
        }
        polled
    }

    fn set_poll_limit(&mut self, limit_us: u32) {
        self.polling.set_limit(limit_us);
    }

    fn base(&self) -> u32 {
        let base = Base {
            avail: self.avail.position(),
            used: self.used.position(),
        };
        base.encode(self.ring.format(), self.ring.size())
    }

    fn add_stats(&self, stats: &mut Stats) {
        *stats += &self.used.stats();
        stats.malformed += self.handler.submitter.malformed;
        stats.stopped_queues += u64::from(self.is_stopped);
    }

    fn replace_memory(&mut self, memory: &DeviceMemory) {
        self.handler.replace_memory(memory);
    }

    fn set_log(&mut self, log: Option<RingLog>) {
        self.handler.set_log(log);
    }

    fn release_memory(&mut self) {
        self.handler.reap();
        self.handler.submitter.context.pool.release_leases();
    }

    fn set_durable(&mut self, durable: bool) {
        self.handler.submitter.context.rules.durable = durable;
    }

    fn set_serial(&mut self, serial: [u8; ID_BYTES]) {
        self.handler.submitter.context.rules.serial = serial;
    }

    fn set_err(&mut self, err: Option<Arc<Signal>>) {
        self.err = err;
    }

    fn drain(&mut self, is_owner: bool) {
        self.handler.drain(is_owner);
        self.used.signal_used();
    }
}

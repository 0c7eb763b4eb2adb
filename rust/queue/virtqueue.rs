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
    request_handler::RequestHandler,
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
    sync::Arc, //
};
use vblk_core::{
    drain::{
        drain,
        Next, //
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

    /// Returns the position in the ring, as VHOST_GET_VRING_BASE tells it.
    fn base(&self) -> u32;

    /// Adds the counters of both halves.
    fn add_stats(&self, stats: &mut Stats);

    /// Exchanges guest memory, between two requests.
    fn replace_memory(&mut self, memory: &DeviceMemory);

    /// Lets go of guest memory of earlier generations, when their I/O has ended.
    fn release_memory(&mut self);

    /// Switches between writing back and writing through, for the requests that follow.
    fn set_durable(&mut self, durable: bool);

    /// Exchanges the serial number.
    fn set_serial(&mut self, serial: [u8; ID_BYTES]);

    /// Exchanges the eventfd that tells of mistakes and of a stop.
    fn set_err(&mut self, err: Option<Arc<Signal>>);

    /// Ends all that was begun, and sleeps until it has ended. The worker must not serve the queue
    /// any more. Some answers can only be written if the current process `is_owner`; they don't
    /// matter otherwise, since no disk can be attached to these rings again.
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
            used: self.used,
        })
    }
}

impl<M: GuestMemory> Virtqueue<M> {
    fn serve(&mut self) -> Next {
        if let Some(next) = self.handler.resume() {
            return next;
        }
        if self.is_stopped {
            return Next::Never;
        }
        let next = drain(&self.ring, &mut self.avail, &mut self.handler);
        if next.is_err() {
            self.handler.submitter.malformed += 1;
        }
        let next = next.unwrap_or(Next::Never);
        self.is_stopped = next == Next::Never;
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

// SPDX-License-Identifier: GPL-2.0

//! Handling the chains of a queue, as the core's drain asks for it.

use super::{
    context::RequestContext,
    ring_log::RingLog,
    submitter::Submitter,
    used_side::{
        Ring,
        UsedSide, //
    },
};
use crate::{
    memory::{
        DeviceMemory,
        GuestMemory, //
    },
    sys::{
        gfp_user_sized,
        mapped_range::MappedRange,
        plug::plugged, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    chain::{
        max_segments,
        Segment, //
    },
    drain::{
        HandleChain,
        Handled,
        Next, //
    },
    memory::Fault,
    queue::{
        Head,
        QueueSize, //
    },
};

/// Handles the chains of a queue.
pub(super) struct RequestHandler<M> {
    /// The buffers of the last chain.
    segments: KVVec<Segment>,
    pub(super) submitter: Submitter<M>,
}

impl<M: GuestMemory> RequestHandler<M> {
    /// Creates the handler of a queue of that size.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn new(
        size: QueueSize,
        context: RequestContext<M>,
        used: Arc<UsedSide>,
    ) -> Result<Self> {
        let room = max_segments(size);
        Ok(Self {
            segments: KVVec::from_elem(Segment::default(), room, gfp_user_sized())?,
            submitter: Submitter::new(context, used),
        })
    }

    /// Takes completed I/Os back.
    #[inline]
    pub(super) fn reap(&mut self) {
        self.submitter.reap(true);
    }

    /// Goes on with an unfinished request. Returns when to go on with the rest; `None` when nothing
    /// is left.
    #[inline]
    pub(super) fn resume(&mut self) -> Option<Next> {
        if !self.submitter.has_unfinished() {
            return None;
        }
        let next = self.submitter.resume(&self.segments);
        self.submitter.used.signal_used();
        next
    }

    /// Exchanges guest memory, between two requests. Memory that was pinned ahead has no request left
    /// that began with it but for I/O in flight.
    pub(super) fn replace_memory(&mut self, memory: &DeviceMemory) {
        if memory.is_pinned() && self.submitter.has_unfinished() {
            self.drain(true);
        }
        self.submitter.context.memory.replace(memory);
        self.submitter.context.pool.begin_generation();
    }

    /// Exchanges where what is written to guest memory is logged. What is left of an unfinished request
    /// is logged, and what was submitted of it is of an earlier generation.
    pub(super) fn set_log(&mut self, log: Option<RingLog>) {
        self.submitter.used.set_log(log.clone());
        self.submitter.context.log = log;
        self.submitter.context.pool.begin_generation();
    }

    /// Ends all that was begun, when the worker does not serve the queue: the rest of an unfinished
    /// request is submitted, and I/O is waited for. Without the owner, whose memory the rest is in, that
    /// request is put back.
    pub(super) fn drain(&mut self, is_owner: bool) {
        loop {
            self.submitter.reap(is_owner);
            if is_owner && self.resume() == Some(Next::Soon) {
                continue;
            }
            let submitted = self.submitter.context.pool.submitted();
            let have_ended = self.submitter.used.wait_for_all(submitted);
            if have_ended && (!is_owner || self.has_put_back()) {
                self.submitter.put_back();
            }
            if have_ended && !self.submitter.has_unfinished() {
                return;
            }
        }
    }

    /// Returns whether the last request was put back, so that none may be taken any more.
    pub(super) fn has_put_back(&self) -> bool {
        self.submitter.has_put_back
    }
}

impl<M: GuestMemory> HandleChain<MappedRange> for RequestHandler<M> {
    #[inline]
    fn is_ready(&mut self) -> bool {
        // Ends: each turn takes a completed I/O back.
        while !self.submitter.context.pool.has_small() {
            self.submitter.reap(true);
            if !self.submitter.context.pool.has_small() && !self.submitter.used.starve() {
                return false;
            }
        }
        true
    }

    #[inline]
    fn handle(&mut self, ring: &Ring, head: Head, is_last: bool) -> Handled {
        let Self {
            segments,
            submitter,
        } = self;
        let indirect = submitter.context.rules.indirect;
        match &ring.walk(head, indirect, &submitter.context.memory, segments) {
            Ok(chain) => submitter.execute(head, chain, is_last),
            Err(error) if error.is_host_failure() => Handled::Failed,
            Err(_) => submitter.unanswerable(head, Fault::OutsideTable, is_last),
        }
    }

    fn skip_entry(&mut self) {
        self.submitter.malformed += 1;
    }

    #[inline]
    fn in_batch<R>(&mut self, chains: u16, submit: impl FnOnce(&mut Self) -> R) -> R {
        let result = plugged(chains, || submit(self));
        self.submitter.context.memory.end_batch();
        result
    }

    #[inline]
    fn refresh(&mut self) {
        self.submitter.context.refresh();
    }

    #[inline]
    fn used_position(&self) -> u16 {
        self.submitter.used.position()
    }

    #[inline]
    fn signal_used(&mut self) {
        self.submitter.used.signal_used();
    }
}

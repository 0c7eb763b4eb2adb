// SPDX-License-Identifier: GPL-2.0

//! From a chain to I/O on the disk.

use super::{
    context::{
        Progress,
        RequestContext, //
    },
    in_flight::{
        judged,
        Accounting,
        Failure,
        InFlight,
        IoOwner,
        SharedRequest,
        NOWHERE, //
    },
    ranges::Ranges,
    transfer::{
        Filled,
        Transfer, //
    },
    used_side::{
        CompletedIos,
        UsedSide, //
    },
};
use crate::{
    memory::GuestMemory,
    sys::{
        io::{
            Completed,
            DataOp,
            Io, //
        },
        task::gives_up, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    chain::{
        Chain,
        Segment,
        StoredChain, //
    },
    drain::{
        Handled,
        Next, //
    },
    memory::Fault,
    priority::Priority,
    queue::Head,
    request::{
        Action,
        MalformedCause,
        MalformedRequest,
        Payload,
        PayloadPosition,
        Request,
        ID_BYTES, //
    },
};

/// A request of which something is left to submit.
struct Unfinished {
    shared: Arc<SharedRequest>,
    rest: Rest,
}

/// The rest of a request.
enum Rest {
    /// Data to move, and where it is in the chain.
    Transfer(Transfer, StoredChain, PayloadPosition),
    /// Ranges of sectors.
    Ranges(KBox<Ranges>),
}

/// Submits the requests of a queue.
pub(super) struct Submitter<M> {
    pub(super) context: RequestContext<M>,
    /// Requests that made no sense.
    pub(super) malformed: u64,
    pub(super) used: Arc<UsedSide>,
    /// The last request, if something is left of it.
    unfinished: Option<Unfinished>,
    /// The last request was put back: none may be taken any more.
    pub(super) has_put_back: bool,
}

impl<M: GuestMemory> Submitter<M> {
    /// Creates the submitter of a queue.
    pub(super) fn new(context: RequestContext<M>, used: Arc<UsedSide>) -> Self {
        Self {
            context,
            malformed: 0,
            used,
            unfinished: None,
            has_put_back: false,
        }
    }

    /// Returns whether something is left of the last request.
    #[inline]
    pub(super) fn has_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Executes the request of a chain.
    #[inline]
    pub(super) fn execute(&mut self, head: Head, chain: &Chain<'_>, is_last: bool) -> Handled {
        let request = match Request::parse(chain, &self.context.memory) {
            Ok(request) => request,
            Err(malformed) => return self.reject(head, *chain, malformed, is_last),
        };
        let status = match self.context.memory.status_byte(request.status, is_last) {
            Ok(status) => status,
            Err(fault) => return self.unanswerable(head, fault, is_last),
        };
        // What can't be answered is not done: its place is there from here on.
        let failed_len = request.used_len(0);
        let status_at = request.status;
        let in_flight = move |len, accounting| InFlight {
            head,
            is_last,
            len,
            failed_len,
            status: Some(status),
            status_at,
            accounting,
        };
        let mut accounting = Accounting::default();
        let disk = &self.context.disk;
        let priority = Priority::grant(request.ioprio, self.context.rules.realtime).get();
        let action = request.action(disk);
        let (op, sector, data) = match &action {
            Action::Read { sector, data } => (DataOp::Read, *sector, data),
            Action::Write { sector, data } => (self.context.rules.write_op(), *sector, data),
            Action::Flush => {
                accounting.flushes = 1;
                let request = in_flight(failed_len, accounting);
                match self.context.pool.take(false) {
                    Some(io) => io.flush(
                        priority,
                        self.context.pool.submitting(),
                        IoOwner::Request(request),
                    ),
                    None => return self.finish(request, Err(Failure::Memory)),
                }
                return Handled::Taken(0);
            }
            Action::GetId { data } => {
                let bytes = data.bytes().min(ID_BYTES as u32);
                let serial = self
                    .context
                    .rules
                    .serial
                    .get(..bytes as usize)
                    .unwrap_or(&[]);
                let copied = self.context.copy_out(data.pieces(), serial);
                return self.finish(
                    in_flight(request.used_len(bytes), accounting),
                    copied.map_err(|_| Failure::Memory),
                );
            }
            Action::Ranges { op, data } => {
                let ranges = Ranges::read(&self.context, *op, *data, priority);
                let request = in_flight(failed_len, accounting);
                return match ranges {
                    Ok(ranges) => self.begin_ranges(ranges, request),
                    Err(status) => self.finish(request, judged(status)),
                };
            }
            Action::Answer(status) => {
                return self.finish(in_flight(failed_len, accounting), judged(*status));
            }
        };
        let (buffers, len) = match op {
            DataOp::Read => {
                accounting.read = data.bytes();
                (chain.writable(), request.used_len(data.bytes()))
            }
            DataOp::Write | DataOp::WriteDurable => {
                accounting.written = data.bytes();
                (chain.readable(), failed_len)
            }
        };
        let transfer = Transfer {
            op,
            priority,
            sector: sector.0,
            block: disk.block_size,
            alignment_mask: self.context.alignment_mask,
            buffers: buffers.len(),
            done: 0,
            is_copied: false,
        };
        self.transfer(transfer, chain, data, || in_flight(len, accounting))
    }

    /// Submits a transfer, or as much of it as one I/O takes.
    #[inline(always)]
    fn transfer(
        &mut self,
        transfer: Transfer,
        chain: &Chain<'_>,
        data: &Payload<'_>,
        request: impl FnOnce() -> InFlight,
    ) -> Handled {
        match transfer.fill(&mut self.context, data) {
            Filled::Io(io) if io.bytes() == data.bytes() => {
                io.submit(self.context.pool.submitting(), IoOwner::Request(request()));
                Handled::Taken(data.bytes())
            }
            filled => self.split(transfer, filled, *chain, *data, request()),
        }
    }

    /// Begins a transfer that takes several I/Os, or can't be done.
    #[cold]
    fn split(
        &mut self,
        mut transfer: Transfer,
        filled: Filled,
        chain: Chain<'_>,
        data: Payload<'_>,
        request: InFlight,
    ) -> Handled {
        let first = match filled {
            Filled::Io(io) => Some(io),
            Filled::Failed => return self.finish(request, Err(Failure::Memory)),
            Filled::Unreachable => {
                transfer.is_copied = true;
                None
            }
            Filled::Starved => None,
        };
        let shared = match SharedRequest::new(request) {
            Ok(shared) => shared,
            Err(request) => {
                if let Some(io) = first {
                    self.context.pool.put(io.abandon());
                }
                return self.finish(request, Err(Failure::Memory));
            }
        };
        if let Some(io) = first {
            transfer.done += io.bytes();
            io.submit(
                self.context.pool.submitting(),
                IoOwner::Part(shared.clone()),
            );
        }
        self.keep(
            shared,
            Rest::Transfer(transfer, chain.store(), data.position()),
        )
    }

    /// Begins a request on ranges, to go on with it soon.
    #[cold]
    fn begin_ranges(&mut self, ranges: Ranges, request: InFlight) -> Handled {
        let Ok(ranges) = KBox::new(ranges, GFP_KERNEL_ACCOUNT) else {
            return self.finish(request, Err(Failure::Memory));
        };
        match SharedRequest::new(request) {
            Ok(shared) => self.keep(shared, Rest::Ranges(ranges)),
            Err(request) => self.finish(request, Err(Failure::Memory)),
        }
    }

    /// Ends the last request, which needs no I/O. One that fails while the process is being killed may
    /// fail for that reason: it is put back.
    fn finish(&mut self, request: InFlight, result: Result<(), Failure>) -> Handled {
        if result.is_err() && gives_up() {
            self.has_put_back = true;
            return Handled::Failed;
        }
        self.used.finish(request, result);
        Handled::Taken(0)
    }

    /// Answers a chain that holds no request.
    #[cold]
    fn reject(
        &mut self,
        head: Head,
        chain: Chain<'_>,
        malformed: MalformedRequest,
        is_last: bool,
    ) -> Handled {
        if malformed.cause == MalformedCause::Malformed {
            self.malformed += 1;
        }
        let mut in_flight = without_status(head, is_last);
        if let Some(at) = malformed.status {
            match self.context.memory.status_byte(at, is_last) {
                Ok(byte) => {
                    in_flight.status = Some(byte);
                    in_flight.status_at = at;
                }
                Err(Fault::Inaccessible) => return Handled::Failed,
                Err(Fault::OutsideTable) => (),
            }
        }
        in_flight.failed_len = chain.status_len();
        self.finish(in_flight, Err(Failure::Invalid))
    }

    /// Handles a chain without a place for the answer. A chain that the host can't answer is not
    /// given back: a driver may take its own old status byte for the answer.
    #[cold]
    pub(super) fn unanswerable(&mut self, head: Head, fault: Fault, is_last: bool) -> Handled {
        match fault {
            Fault::Inaccessible => Handled::Failed,
            Fault::OutsideTable => {
                self.malformed += 1;
                self.finish(without_status(head, is_last), Err(Failure::Invalid))
            }
        }
    }

    /// Keeps the rest of a request, to go on with it soon.
    fn keep(&mut self, shared: Arc<SharedRequest>, rest: Rest) -> Handled {
        self.unfinished = Some(Unfinished { shared, rest });
        Handled::Unfinished(Next::Soon)
    }

    /// Puts an unfinished request back, whose I/O has ended: it gets no answer.
    pub(super) fn put_back(&mut self) {
        self.unfinished = None;
    }

    /// Goes on with an unfinished request. Returns when to go on with the rest; `None` when nothing
    /// is left.
    pub(super) fn resume(&mut self, segments: &[Segment]) -> Option<Next> {
        let mut unfinished = self.unfinished.take()?;
        // What is mapped may have changed since the last turn.
        self.context.memory.refresh();
        let shared = &unfinished.shared;
        let progress = match &mut unfinished.rest {
            Rest::Transfer(transfer, chain, data) => {
                let data = chain.payload(segments, *data);
                transfer.resume(&mut self.context, &data, shared)
            }
            Rest::Ranges(ranges) => ranges.resume(&mut self.context, shared),
        };
        let next = match progress {
            // To be put back, as in Self::finish, when its I/O has ended.
            Progress::Over(Err(_)) if gives_up() => {
                self.has_put_back = true;
                Next::Never
            }
            Progress::Over(result) => {
                if let Some((request, result)) = unfinished.shared.complete(result) {
                    self.used.finish(request, result);
                }
                return None;
            }
            Progress::Soon => Next::Soon,
            Progress::Starved if self.used.starve() => Next::Soon,
            Progress::Starved => Next::Completion,
        };
        self.unfinished = Some(unfinished);
        Some(next)
    }

    /// Takes completed I/Os back, and does what only a thread can do about them. Data is copied to
    /// the guest if the current process `is_owner`, or works for it.
    #[inline]
    pub(super) fn reap(&mut self, is_owner: bool) {
        // Ends: nothing is submitted meanwhile.
        loop {
            let (to_copy, completed) = self.used.take_completed();
            self.context.pool.put_completed(completed);
            if to_copy.is_empty() {
                return;
            }
            self.copy_all(to_copy, is_owner);
        }
    }

    #[cold]
    fn copy_all(&mut self, mut to_copy: CompletedIos, is_owner: bool) {
        // What is mapped may have changed since chains were looked for.
        self.context.memory.refresh();
        while let Some(io) = to_copy.pop() {
            self.copy(io, is_owner);
        }
    }

    fn copy(&self, mut io: Io<Completed, UsedSide>, is_owner: bool) {
        let buffer = io.take_buffer();
        let request = match io.owner().take() {
            Some(IoOwner::CopyOut(shared, pieces)) => {
                let copied = if is_owner {
                    self.context.copy_out(pieces.iter().copied(), &buffer)
                } else {
                    Err(Fault::Inaccessible)
                };
                shared.complete(copied.map_err(|_| Failure::Memory))
            }
            _ => None,
        };
        self.used.forget(io);
        if let Some((request, result)) = request {
            self.used.finish(request, result);
        }
    }
}

/// Returns a request that is given back without an answer.
fn without_status(head: Head, is_last: bool) -> InFlight {
    InFlight {
        head,
        is_last,
        len: 0,
        failed_len: 0,
        status: None,
        status_at: NOWHERE,
        accounting: Accounting::default(),
    }
}

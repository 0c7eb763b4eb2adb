// SPDX-License-Identifier: GPL-2.0

//! Draining a queue: takes the chains that the driver made available and has them handled, in
//! batches, with kicks suppressed meanwhile.

use crate::{
    memory::SharedMemory,
    queue::{
        Head,
        Popped,
        RingError, //
    },
    ring::{
        Avail,
        Ring, //
    },
};

/// Requests that a queue may take before other queues of its worker are served.
pub const VQ_WEIGHT: u32 = 256;

/// Bytes of data after which other queues of the worker are served.
pub const VQ_BYTE_WEIGHT: u32 = 4 << 20;

/// Requests that are submitted together, and whose answers are signalled together. The guest gets
/// answers early, and few interrupts.
const BATCH: u32 = 64;

/// The result of handling a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The request was answered, or given to the disk; so many bytes of data.
    Taken(u32),
    /// The request goes on later, before any other is taken.
    Unfinished(Next),
    /// The queue must stop: the request can neither be done nor answered.
    Failed,
}

/// When a queue is to be served next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When the driver kicks.
    Kick,
    /// When [`poll`] finds something. Until then the driver does not kick.
    Poll,
    /// As soon as the other queues have been served.
    Soon,
    /// When an I/O of the queue has finished.
    Completion,
    /// Never.
    Never,
}

/// Handles the chains of a queue.
pub trait HandleChain<M> {
    /// Returns whether a request can be taken. If not, it is taken when an I/O has finished.
    fn is_ready(&mut self) -> bool;

    /// Handles a chain. `is_last` says that no other is known to follow.
    fn handle(&mut self, ring: &Ring<M>, head: Head, is_last: bool) -> Handled;

    /// Counts an entry that names no chain.
    fn skip_entry(&mut self);

    /// Calls `submit`, which handles `chains` chains or more, and gives the I/Os that it submits to
    /// the disk together.
    fn in_batch<R>(&mut self, chains: u16, submit: impl FnOnce(&mut Self) -> R) -> R;

    /// Looks again at guest memory and at the disk: the next chain may have come after either
    /// changed.
    fn refresh(&mut self);

    /// Returns where the used half stands ([`crate::ring::Used::position`]).
    fn used_position(&self) -> u16;

    /// Signals the driver for what was answered without a signal.
    fn signal_used(&mut self);
}

/// The chains that were taken so far.
#[derive(Default)]
struct Taken {
    /// Requests of the batch.
    requests: u32,
    /// Bytes of data since the drain began.
    bytes: u64,
}

/// Why a batch ended.
enum BatchEnd {
    /// Nothing more is known to be there.
    Empty,
    /// It has many requests.
    Full,
    /// The queue ends its turn.
    Turn(Next),
}

/// The result of [`poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Something is there to drain.
    Found,
    /// Nothing is there: to be looked at again.
    Nothing,
    /// Nothing is there, and the driver kicks from here on.
    Over,
}

/// Looks at a ring that a drain left with [`Next::Poll`]. Unless polling `goes_on`, asks the driver to
/// kick if nothing is there.
#[inline]
pub fn poll<M: SharedMemory>(ring: &Ring<M>, avail: &mut Avail, goes_on: bool) -> Polled {
    let found = match avail.refresh(ring) {
        Ok(false) if goes_on => return Polled::Nothing,
        Ok(false) => avail.enable_notify(ring),
        found => found,
    };
    match found {
        Ok(false) => Polled::Over,
        // Why a ring makes no sense is found by the drain that follows.
        Ok(true) | Err(_) => Polled::Found,
    }
}

/// Handles what is there, up to a bound. If the ring is then empty and `polls`, the driver is not asked
/// to kick.
///
/// # Errors
///
/// [`RingError`]: the ring makes no sense and must not be looked at again. What was taken before
/// has been handled.
pub fn drain<M: SharedMemory, H: HandleChain<M>>(
    ring: &Ring<M>,
    avail: &mut Avail,
    handler: &mut H,
    polls: bool,
) -> Result<Next, RingError> {
    let mut taken = Taken::default();
    avail.disable_notify(ring);
    for _ in 0..VQ_WEIGHT / BATCH {
        taken.requests = 0;
        let end = batch(ring, avail, handler, &mut taken);
        handler.signal_used();
        match end? {
            BatchEnd::Empty if polls => return Ok(Next::Poll),
            BatchEnd::Empty => {
                if !avail.enable_notify(ring)? {
                    return Ok(Next::Kick);
                }
                avail.disable_notify(ring);
            }
            BatchEnd::Full => (),
            BatchEnd::Turn(next) => return Ok(next),
        }
    }
    Ok(Next::Soon)
}

#[inline(always)]
fn batch<M: SharedMemory, H: HandleChain<M>>(
    ring: &Ring<M>,
    avail: &mut Avail,
    handler: &mut H,
    taken: &mut Taken,
) -> Result<BatchEnd, RingError> {
    while avail.known_left() > 0 || avail.refresh(ring)? {
        if !handler.is_ready() {
            return Ok(BatchEnd::Turn(Next::Completion));
        }
        handler.refresh();
        let chains = avail.known_left();
        let popped = avail.take(ring, || handler.used_position())?;
        if avail.known_left() == 0 {
            // Most often all there is: there is none to submit it together with, and whether more
            // came is looked at after asking for a kick anyway.
            let end = handle(ring, handler, popped, true, taken);
            return Ok(match end {
                Some(BatchEnd::Turn(next)) => BatchEnd::Turn(next),
                _ => BatchEnd::Empty,
            });
        }
        let end = handler.in_batch(chains, |handler| {
            handle_known(ring, avail, handler, popped, taken)
        });
        if let Some(end) = end? {
            return Ok(end);
        }
    }
    Ok(BatchEnd::Empty)
}

/// Handles `popped` and those that are known to follow.
#[inline(never)]
fn handle_known<M: SharedMemory, H: HandleChain<M>>(
    ring: &Ring<M>,
    avail: &mut Avail,
    handler: &mut H,
    mut popped: Popped,
    taken: &mut Taken,
) -> Result<Option<BatchEnd>, RingError> {
    loop {
        let is_last = avail.known_left() == 0;
        let end = handle(ring, handler, popped, is_last, taken);
        if is_last || end.is_some() {
            return Ok(end);
        }
        if !handler.is_ready() {
            return Ok(Some(BatchEnd::Turn(Next::Completion)));
        }
        if avail.looks_ahead() {
            handler.refresh();
        }
        popped = avail.take(ring, || handler.used_position())?;
    }
}

#[inline(always)]
fn handle<M: SharedMemory, H: HandleChain<M>>(
    ring: &Ring<M>,
    handler: &mut H,
    popped: Popped,
    is_last: bool,
    taken: &mut Taken,
) -> Option<BatchEnd> {
    match popped {
        Popped::Empty => return Some(BatchEnd::Empty),
        Popped::Chain(head) => match handler.handle(ring, head, is_last) {
            Handled::Taken(bytes) => taken.bytes += u64::from(bytes),
            Handled::Unfinished(next) => return Some(BatchEnd::Turn(next)),
            Handled::Failed => return Some(BatchEnd::Turn(Next::Never)),
        },
        Popped::OutOfRange(_) => handler.skip_entry(),
    }
    taken.requests += 1;
    if taken.bytes >= u64::from(VQ_BYTE_WEIGHT) {
        Some(BatchEnd::Turn(Next::Soon))
    } else if taken.requests >= BATCH {
        Some(BatchEnd::Full)
    } else {
        None
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The used half of a virtqueue: where each request ends.
//!
//! I/O completes in whatever context the block layer has, without a switch to the worker: the status
//! byte is pinned and the ring is mapped, so the answer is written, published and signalled right
//! there. What must sleep is left to the worker.

use super::{
    in_flight::{
        Answered,
        Failure,
        InFlight,
        IoOwner, //
    },
    ready::VqWaker,
    ring_log::RingLog, //
};
use crate::sys::{
    io::{
        Completed,
        Completer,
        Io,
        IoList, //
    },
    lock::IrqLock,
    mapped_range::MappedRange,
    read_once,
    signal::Signal,
    task::{
        current_task,
        runs_in,
        sleep_until,
        sleep_until_killed,
        wait_for_completions, //
    },
};
use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
    task::Task, //
};
use vblk_core::{
    completions::{
        Completions,
        WakeUps, //
    },
    ring::{
        self,
        Base,
        Used, //
    },
    uapi::Stats, //
};

/// A ring whose parts are mapped.
pub(crate) type Ring = ring::Ring<MappedRange>;

/// Completed I/Os.
pub(super) type CompletedIos = IoList<Completed, UsedSide>;

/// The used half of a virtqueue. I/Os in flight keep it alive.
#[pin_data]
pub(crate) struct UsedSide {
    waker: VqWaker,
    /// Kicks so far.
    kicks: Atomic<u64>,
    /// The worker is in a turn of this queue, which ends with [`Self::end_turn`]. Changed by the worker
    /// only, and read by it and by what interrupts it.
    is_in_turn: Atomic<bool>,
    /// The worker answered requests without deciding on a signal. Changed by the worker only, and by
    /// the owner when there is no worker any more.
    unsignalled: Atomic<bool>,
    /// Taken in interrupt context, inside every other lock. Nothing is called under it.
    #[pin]
    state: IrqLock<State>,
}

struct State {
    ring: Arc<Ring>,
    used: Used,
    call: Option<Arc<Signal>>,
    completions: Completions,
    /// I/Os for the worker to use again.
    completed: CompletedIos,
    /// I/Os whose data the worker must copy before their requests can be answered.
    to_copy: CompletedIos,
    /// The thread that sleeps in [`UsedSide::sleep`].
    waiter: Option<ARef<Task>>,
    stats: Stats,
    /// Where writes to the ring are logged, if they are.
    log: Option<RingLog>,
}

impl State {
    /// Counts a request, and gives its chain back.
    #[inline(always)]
    fn add_used(&mut self, request: &Answered) {
        match request.result {
            Ok(()) => {
                let counts = &request.accounting;
                self.stats.bytes_read += u64::from(counts.read);
                self.stats.bytes_written += u64::from(counts.written);
                self.stats.flushes += u64::from(counts.flushes);
            }
            Err(Failure::DiskCannot | Failure::Disk) => self.stats.io_errors += 1,
            Err(Failure::Memory | Failure::Unsupported | Failure::Invalid) => (),
        }
        self.stats.requests += 1;
        self.used.add_used(&self.ring, request.head, request.len);
        if let Some(log) = &self.log {
            log.mark_answer(request.status_at);
        }
    }

    /// Decides on an interrupt. Returns the eventfd to signal outside the lock.
    #[inline]
    fn take_signal(&mut self) -> Option<Arc<Signal>> {
        // Without a call the debt stays, for the next one.
        let call = self.call.as_ref()?;
        if !self.used.should_interrupt(&self.ring) {
            return None;
        }
        let call = call.clone();
        self.stats.interrupts += 1;
        Some(call)
    }
}

impl UsedSide {
    /// Creates the used half of `ring`, which goes on where the ring stands, or from `base` if the
    /// ring does not tell.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        waker: VqWaker,
        ring: Arc<Ring>,
        base: Base,
        event_idx: bool,
        call: Option<Arc<Signal>>,
    ) -> Result<Arc<Self>> {
        let state = State {
            used: Used::new(&*ring, base, event_idx),
            ring,
            call,
            completions: Completions::default(),
            completed: IoList::new(),
            to_copy: IoList::new(),
            waiter: None,
            stats: Stats::default(),
            log: None,
        };
        Arc::pin_init(
            pin_init!(Self {
                waker,
                kicks: Atomic::new(0),
                is_in_turn: Atomic::new(false),
                unsignalled: Atomic::new(false),
                state <- IrqLock::new(state, c_str!("UsedSide::state"), static_lock_class!()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Counts a kick, and has the worker serve the queue. In any context.
    #[inline]
    pub(crate) fn kick(&self) {
        self.kicks.add(1, Relaxed);
        self.wake_worker();
    }

    /// Has the worker serve the queue. In any context.
    pub(crate) fn wake_worker(&self) {
        self.waker.wake();
    }

    /// Ends a request that has no I/O, or no more, in the worker or in the owner: may sleep. There
    /// [`Self::signal_used`] must follow.
    pub(crate) fn finish(&self, mut request: InFlight, result: Result<(), Failure>) {
        // Until after the signal: `set_call` waits for it.
        let reading = rcu::read_lock();
        self.end(Some(request.answer(result)), None);
        drop(reading);
        // What the answer left may be released by sleeping only.
        drop(request);
    }

    /// Ends an I/O that belongs to no request any more.
    pub(super) fn forget(&self, io: Io<Completed, Self>) {
        let _reading = rcu::read_lock();
        self.end(None, Some(io));
    }

    /// Ends a request whose status was written, an I/O, or both: releases the pins of the I/O, gives
    /// the chain back, counts, and wakes those who wait. All requests and all I/Os end here, in any
    /// context and in an RCU read-side section.
    #[inline(always)]
    fn end(&self, request: Option<Answered>, mut io: Option<Io<Completed, Self>>) {
        // A guest that sees the answer owns its memory again: the pins go before.
        let is_clean = io.as_mut().is_none_or(Io::try_release)
            && request.as_ref().is_none_or(|it| it.is_clean);
        // The worker decides once for all requests of a batch, if the batch is this queue's: a disk may
        // end one queue's I/O while it takes another's.
        let will_decide = || read_once(&self.is_in_turn) && runs_in(self.waker.worker());
        let decides = request
            .as_ref()
            .is_some_and(|it| it.is_last || !will_decide());
        let mut wake_ups = WakeUps::default();
        let mut signal = None;
        let mut waiter = None;
        {
            let state = &mut *self.state.lock();
            if let Some(request) = &request {
                state.add_used(request);
                if decides {
                    signal = state.take_signal();
                } else if !read_once(&self.unsignalled) {
                    self.unsignalled.store(true, Relaxed);
                }
            }
            if let Some(io) = io {
                wake_ups = state.completions.complete(io.generation());
                state.completed.push(io);
            }
            if wake_ups.waiter {
                waiter = state.waiter.take();
            }
        }
        if let Some(call) = signal {
            call.signal();
        }
        if let Some(waiter) = waiter {
            waiter.wake_up();
        }
        if wake_ups.worker || !is_clean {
            self.wake_worker();
        }
    }

    /// Completes an I/O that is not all of a request.
    #[cold]
    fn complete_part(&self, mut io: Io<Completed, Self>, result: Result<(), Failure>) {
        let request = match io.owner() {
            Some(IoOwner::CopyOut(..)) if result.is_ok() => return self.hand_to_worker(io),
            Some(_) => take_part(&mut io, result),
            None => None,
        };
        self.end(request, Some(io));
    }

    /// Begins a turn, in the worker.
    #[inline]
    pub(super) fn begin_turn(&self) {
        self.is_in_turn.store(true, Relaxed);
    }

    /// Ends a turn, in the worker. What interrupts it from here on decides for itself.
    #[inline]
    pub(super) fn end_turn(&self) {
        self.is_in_turn.store(false, Relaxed);
        self.signal_used();
    }

    /// Signals the driver for the requests that ended in the worker without a signal.
    #[inline]
    pub(crate) fn signal_used(&self) {
        if read_once(&self.unsignalled) {
            self.unsignalled.store(false, Relaxed);
            // Until after the signal: `set_call` waits for it.
            let _reading = rcu::read_lock();
            let signal = self.state.lock().take_signal();
            if let Some(call) = signal {
                call.signal();
            }
        }
    }

    /// Exchanges the eventfd to signal. When this returns, the old one is not signalled any more.
    /// Sleeps for a short time.
    pub(crate) fn set_call(&self, call: Option<Arc<Signal>>) {
        let old = core::mem::replace(&mut self.state.lock().call, call);
        if old.is_some() {
            wait_for_completions();
        }
    }

    /// Exchanges where writes to the ring are logged.
    pub(super) fn set_log(&self, log: Option<RingLog>) {
        let old = core::mem::replace(&mut self.state.lock().log, log);
        // Outside the lock, as everything that drops.
        drop(old);
    }

    /// Returns the position in the ring behind all answers so far.
    pub(crate) fn position(&self) -> u16 {
        self.state.lock().used.position()
    }

    /// Returns the counters so far.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.state.lock().stats;
        stats.kicks = read_once(&self.kicks);
        stats
    }

    /// Takes the I/Os whose data must be copied, and those that can be used again.
    #[inline]
    pub(super) fn take_completed(&self) -> (CompletedIos, CompletedIos) {
        let state = &mut *self.state.lock();
        (state.to_copy.take(), state.completed.take())
    }

    /// Notes that the worker has no free I/O, unless there is one to take. The next completion wakes
    /// it. Returns whether there is one.
    pub(super) fn starve(&self) -> bool {
        let state = &mut *self.state.lock();
        let is_there = !state.completed.is_empty() || !state.to_copy.is_empty();
        if !is_there {
            state.completions.starve();
        }
        is_there
    }

    /// Begins a generation of I/Os, after as many were `submitted` since the start. Returns its
    /// number.
    pub(super) fn begin_generation(&self, submitted: u64) -> u32 {
        self.state.lock().completions.begin_generation(submitted)
    }

    /// Sleeps until all of the I/Os that were `submitted` since the start have ended, or there is
    /// data to copy. Returns whether all have ended.
    pub(super) fn wait_for_all(&self, submitted: u64) -> bool {
        let mut have_ended = false;
        sleep_until(|| {
            self.wait_or(|state| {
                have_ended = state.completions.await_all(submitted);
                have_ended || !state.to_copy.is_empty()
            })
        });
        have_ended
    }

    /// Sleeps until all I/Os of earlier generations have ended.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn wait_for_earlier(&self) -> Result {
        sleep_until_killed(|| self.wait_or(|state| state.completions.await_earlier()))
    }

    /// Leaves an I/O whose data must be copied to the worker, or to the thread that waits.
    #[cold]
    fn hand_to_worker(&self, io: Io<Completed, Self>) {
        let waiter = {
            let state = &mut *self.state.lock();
            state.to_copy.push(io);
            state.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake_up();
        }
        self.wake_worker();
    }

    fn wait_or(&self, is_over: impl FnOnce(&mut State) -> bool) -> bool {
        let mut task = Some(current_task());
        let is_over = {
            let state = &mut *self.state.lock();
            let is_over = is_over(state);
            if !is_over {
                core::mem::swap(&mut state.waiter, &mut task);
            }
            is_over
        };
        // Outside the lock, as everything that drops.
        drop(task);
        is_over
    }
}

impl Completer for UsedSide {
    type Owner = IoOwner;

    fn complete(&self, mut io: Io<Completed, Self>) {
        let result = io.result().map_err(Failure::from);
        match io.owner() {
            Some(IoOwner::Request(request)) => {
                let request = request.answer(result);
                self.end(Some(request), Some(io));
            }
            _ => self.complete_part(io, result),
        }
    }
}

/// Completes a part of a request. Returns the answer if it was the last one.
fn take_part(io: &mut Io<Completed, UsedSide>, result: Result<(), Failure>) -> Option<Answered> {
    let shared = match io.owner().take()? {
        IoOwner::Part(shared) | IoOwner::CopyOut(shared, _) => shared,
        IoOwner::Request(_) => return None,
    };
    let (mut request, result) = shared.complete(result)?;
    let answered = request.answer(result);
    // What is left of it goes with the I/O.
    *io.owner() = Some(IoOwner::Request(request));
    Some(answered)
}

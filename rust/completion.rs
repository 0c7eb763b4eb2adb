// SPDX-License-Identifier: GPL-2.0

//! The completion half of a queue: what happens when I/O is done, in whatever context the block
//! layer finishes it.
//!
//! It runs without a switch back to the worker: the status byte is pinned and the ring is mapped,
//! so the answer is written, published and announced right here. What must sleep is left to the
//! worker.

use crate::{
    memory::{
        CurrentProcess,
        Table, //
    },
    pool::Kick,
    reply::{
        status,
        Failure,
        Job,
        Moved,
        Reply,
        Split,
        StatusByte, //
    },
    sys::{
        bio::{
            Completer,
            Done,
            Spent, //
        },
        eventfd::{
            EventSignal,
            Wake, //
        },
        lock::IrqLock,
        mapped_range::MappedRange,
        read_once,
        thread::{
            current_task,
            runs_in,
            sleep_until, //
        },
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
        Arc, //
    },
    task::Task, //
};
use vblk_core::{
    queue::Head,
    ring::{
        self,
        Base,
        Used, //
    },
    uapi::Stats, //
};

/// A ring whose parts are mapped.
pub(crate) type Ring = ring::Ring<MappedRange>;

/// The completion half of a queue.
///
/// I/Os keep it alive, and it keeps the memory of finished ones: [`Self::close`] ends that.
#[pin_data]
pub(crate) struct Completion {
    kick: Kick,
    /// Whether finished I/Os left something that only the worker can do.
    leftovers: Atomic<bool>,
    /// Whether the last I/O finished in the worker. A guess for the next one.
    in_worker: Atomic<bool>,
    /// Whether the worker published answers without deciding on an interrupt. Only the worker looks
    /// at it, and the owner when there is no worker any more.
    unannounced: Atomic<bool>,
    unanswerable: Atomic<u64>,
    /// How often the memory table was replaced.
    table: Atomic<u32>,
    /// `None` once closed. Taken in interrupt context; outside the lock of an eventfd, inside
    /// every other.
    #[pin]
    state: IrqLock<Option<State>>,
}

struct State {
    ring: Arc<Ring>,
    used: Used,
    call: Option<Arc<EventSignal>>,
    /// Finished I/Os. Has room for all that there are.
    returned: KVec<Spent<Completion>>,
    /// Requests that are done, but whose status only the worker can write. As much room.
    late: KVec<(Reply, Result<(), Failure>)>,
    /// I/Os that finished since the start.
    finished: u64,
    /// Who sleeps until something was returned.
    waiter: Option<ARef<Task>>,
    stats: Stats,
}

impl State {
    #[inline]
    fn publish(&mut self, head: Head, len: u32) {
        self.used.push(&self.ring, head, len);
        self.stats.requests += 1;
    }

    #[inline]
    fn announce(&mut self) {
        if self.used.should_interrupt(&self.ring) {
            if let Some(call) = &self.call {
                self.stats.interrupts += 1;
                call.signal();
            }
        }
    }

    #[inline]
    fn account(&mut self, moved: Moved, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.stats.bytes_read += u64::from(moved.read);
                self.stats.bytes_written += u64::from(moved.written);
                self.stats.flushes += u64::from(moved.flushes);
            }
            Err(Failure::NotSupported | Failure::Disk) => self.stats.io_errors += 1,
            Err(Failure::Memory) => (),
        }
    }
}

impl Completion {
    /// Begins to answer through `ring`, where it stands or from `base` on if it does not tell, for
    /// up to `units` I/Os at a time.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        kick: Kick,
        ring: Arc<Ring>,
        base: Base,
        event_idx: bool,
        call: Option<Arc<EventSignal>>,
        units: usize,
    ) -> Result<Arc<Self>> {
        let state = State {
            used: Used::new(&*ring, base, event_idx),
            ring,
            call,
            returned: KVec::with_capacity(units, GFP_KERNEL_ACCOUNT)?,
            late: KVec::with_capacity(units, GFP_KERNEL_ACCOUNT)?,
            finished: 0,
            waiter: None,
            stats: Stats::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                kick,
                leftovers: Atomic::new(false),
                in_worker: Atomic::new(false),
                unannounced: Atomic::new(false),
                table: Atomic::new(0),
                unanswerable: Atomic::new(0),
                state <- IrqLock::new(
                    Some(state),
                    c_str!("Completion::state"),
                    static_lock_class!(),
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Does something under the lock, unless closed.
    #[inline]
    fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        (*self.state.lock()).as_mut().map(f)
    }

    /// Gives a chain back at once, in the worker. [`Self::announce`] must follow.
    pub(crate) fn give_back(&self, head: Head, len: u32) {
        self.with_state(|state| state.publish(head, len));
        self.unannounced.store(true, Relaxed);
    }

    /// Notes that the memory table is replaced: what lay where by the old one no longer counts. The
    /// worker must not be using the queue.
    pub(crate) fn forget_table(&self) {
        self.table.add(1, Relaxed);
    }

    /// The number of the memory table that is in force. In the worker.
    pub(crate) fn table(&self) -> u32 {
        read_once(&self.table)
    }

    /// Whether I/O seems to finish where it is submitted.
    pub(crate) fn finishes_in_worker(&self) -> bool {
        read_once(&self.in_worker)
    }

    /// Answers a request, in the worker or in the owner. [`Self::announce`] must follow.
    pub(crate) fn answer(&self, reply: Reply, result: Result<(), Failure>) {
        let len = reply.len(result);
        let written = match reply.status {
            StatusByte::Pinned(byte) => {
                byte.write(status(result) as u8);
                // Before the answer is seen: from then on the guest owns the page. May sleep.
                drop(byte);
                true
            }
            StatusByte::At { host, .. } => CurrentProcess
                .copy_out(&[status(result) as u8], host)
                .is_ok(),
            StatusByte::Released => false,
        };
        if !written {
            self.unanswerable.add(1, Relaxed);
        }
        let len = if written { len } else { 0 };
        self.with_state(|state| {
            state.account(reply.moved, result);
            state.publish(reply.head, len);
        });
        self.unannounced.store(true, Relaxed);
    }

    /// Answers the requests that finished where their status could not be written, in the worker or
    /// in the owner. It goes where `table` says now: the owner may use what was there before for
    /// something else.
    pub(crate) fn answer_late(&self, table: &Table) {
        // Ends: nothing is submitted meanwhile.
        while let Some(Some((mut reply, result))) = self.with_state(|state| state.late.pop()) {
            if let StatusByte::At { guest, host, .. } = &mut reply.status {
                match table.host(*guest) {
                    Ok(now) => *host = now,
                    Err(_) => reply.status = StatusByte::Released,
                }
            }
            self.answer(reply, result);
        }
        self.announce();
    }

    /// How many requests had no place for their status.
    pub(crate) fn unanswerable(&self) -> u64 {
        read_once(&self.unanswerable)
    }

    /// Lets go of a request of several I/Os, and answers if that was the last of them. In the
    /// worker. [`Self::announce`] must follow.
    pub(crate) fn release(&self, split: Arc<Split>) {
        if let Some((reply, result)) = split.release() {
            self.answer(reply, result);
        }
    }

    /// Decides on an interrupt for what the worker answered.
    #[inline]
    pub(crate) fn announce(&self) {
        if read_once(&self.unannounced) {
            self.unannounced.store(false, Relaxed);
            self.with_state(State::announce);
        }
    }

    /// Exchanges the eventfd to signal.
    pub(crate) fn set_call(&self, call: Option<Arc<EventSignal>>) {
        let old = self.with_state(|state| core::mem::replace(&mut state.call, call));
        // Outside the lock.
        drop(old);
    }

    /// The position in the ring behind all answers so far; 0 once closed.
    pub(crate) fn position(&self) -> u16 {
        self.with_state(|state| state.used.position()).unwrap_or(0)
    }

    /// The counters so far.
    pub(crate) fn stats(&self) -> Stats {
        self.with_state(|state| state.stats).unwrap_or_default()
    }

    /// Whether some I/O was left with pins since the last call.
    pub(crate) fn take_leftovers(&self) -> bool {
        // Not one exchange: a lost race is seen at the next turn, which was asked for.
        read_once(&self.leftovers) && {
            self.leftovers.store(false, Relaxed);
            true
        }
    }

    /// Exchanges the finished I/Os for `empty`, which has as much room.
    pub(crate) fn collect(&self, empty: &mut KVec<Spent<Self>>) {
        self.with_state(|state| core::mem::swap(&mut state.returned, empty));
    }

    /// As [`Self::collect`], after sleeping until there are any.
    pub(crate) fn collect_some(&self, empty: &mut KVec<Spent<Self>>) {
        let task = current_task();
        sleep_until(|| {
            let collected = self.with_state(|state| {
                if state.returned.is_empty() {
                    state.waiter = Some(task.clone());
                    return None;
                }
                state.waiter = None;
                core::mem::swap(&mut state.returned, empty);
                Some(())
            });
            // Once closed there is nothing to wait for.
            collected.unwrap_or(Some(()))
        });
    }

    /// Sleeps until as many I/Os finished as were `submitted`.
    ///
    /// The worker must not be using the queue any more.
    pub(crate) fn wait(&self, submitted: u64) {
        let task = current_task();
        sleep_until(|| {
            let finished = self.with_state(|state| {
                state.waiter = Some(task.clone());
                state.finished == submitted
            });
            (finished != Some(false)).then_some(())
        });
    }

    /// Stops, after [`Self::wait`]: nothing is answered from here on. Returns the counters.
    pub(crate) fn close(&self) -> Stats {
        let state = (*self.state.lock()).take();
        // Dropped outside the lock: the finished I/Os refer back to this value, and the ring is
        // unmapped with its last user.
        state.map_or_else(Stats::default, |state| state.stats)
    }
}

impl Completer for Completion {
    type Job = Job;

    fn complete(&self, mut done: Done<Self>) {
        let mut result = done.result().map_err(Failure::from);
        let in_worker = runs_in(self.kick.worker());
        if read_once(&self.in_worker) != in_worker {
            self.in_worker.store(in_worker, Relaxed);
        }
        if let Some(Job::Part(_)) = done.job() {
            // The last part brings the request back.
            if let Some(Job::Part(split)) = done.job().take() {
                split.record(result);
                if let Some((reply, worst)) = split.release() {
                    result = worst;
                    *done.job() = Some(Job::Whole(reply));
                }
            }
        }
        // A request that can be answered here and now, or else one for the worker.
        let mut written = false;
        let mut late = None;
        if let Some(Job::Whole(reply)) = done.job() {
            let table = in_worker.then(|| read_once(&self.table));
            written = reply.try_write(result, table);
            if !written {
                late = done.job().take();
            }
        }
        let (spent, clean) = done.try_release();

        self.with_state(|state| {
            state.finished += 1;
            if let (true, Some(Job::Whole(reply))) = (written, spent.job()) {
                state.account(reply.moved, result);
                state.publish(reply.head, reply.len(result));
                // The worker decides once for all that it submits in a row.
                if reply.alone || !in_worker {
                    state.announce();
                } else {
                    self.unannounced.store(true, Relaxed);
                }
            }
            // There is room for all I/Os that exist.
            let _ = state.returned.push_within_capacity(spent);
            let clean = clean && late.is_none();
            if let Some(Job::Whole(reply)) = late {
                let _ = state.late.push_within_capacity((reply, result));
            }
            if let Some(waiter) = &state.waiter {
                waiter.wake_up();
            }
            if !clean {
                self.leftovers.store(true, Relaxed);
                self.kick.wake();
            }
        });
    }
}

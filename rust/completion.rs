// SPDX-License-Identifier: GPL-2.0

//! The completion half of a queue: what happens when I/O is done, in whatever context the block
//! layer finishes it.
//!
//! It runs without a switch back to the worker: the status byte is pinned and the ring is mapped,
//! so the answer is written, published and announced right here. What must sleep is left to the
//! worker.

use crate::{
    memory::CurrentProcess,
    pool::Kick,
    sys::{
        bio::{
            Completer,
            DeviceFailure,
            Done,
            Spent, //
        },
        eventfd::{
            EventSignal,
            Wake, //
        },
        lock::IrqLock,
        mapped_range::MappedRange,
        pin::PinnedByte,
        store_byte_nofault,
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
    addr::HostAddr,
    queue::Head,
    request::Status,
    ring::{
        self,
        Base,
        Used, //
    },
    uapi::Stats, //
};

/// A ring whose parts are mapped.
pub(crate) type Ring = ring::Ring<MappedRange>;

/// What a request moves, for the statistics.
#[derive(Clone, Copy)]
pub(crate) enum Moved {
    /// Bytes from the disk to the guest.
    Read(u32),
    /// Bytes from the guest to the disk.
    Written(u32),
    /// Nothing: a flush.
    Flushed,
    /// Nothing: a request about ranges.
    Nothing,
}

/// Where the status of a request goes.
pub(crate) enum StatusByte {
    /// Can be written in any context.
    Pinned(PinnedByte),
    /// Must be written by the worker. Costs no pin: for disks that finish I/O right where it is
    /// submitted.
    At(HostAddr),
}

/// How to answer a request once its I/O is done.
pub(crate) struct Reply {
    /// The chain to give back.
    pub(crate) head: Head,
    /// Where the status goes.
    pub(crate) status: StatusByte,
    /// Bytes written to the chain if all goes well.
    pub(crate) len: u32,
    /// And if not.
    pub(crate) failed_len: u32,
    /// What is moved if all goes well.
    pub(crate) moved: Moved,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Failure {
    /// The disk can't do this.
    NotSupported = 1,
    /// The disk failed.
    Disk = 2,
    /// The guest's buffers can't be reached, or there is no memory for the I/O.
    Memory = 3,
}

impl Failure {
    fn status(self) -> Status {
        match self {
            Self::NotSupported => Status::Unsupported,
            Self::Disk | Self::Memory => Status::IoError,
        }
    }
}

impl From<DeviceFailure> for Failure {
    fn from(failure: DeviceFailure) -> Self {
        match failure {
            DeviceFailure::NotSupported => Self::NotSupported,
            DeviceFailure::Failed => Self::Disk,
        }
    }
}

/// A request that takes several I/Os. The last one to let go of it answers.
pub(crate) struct Split {
    /// Taken by the last one.
    reply: Option<Reply>,
    /// A [`Failure`], or 0.
    failure: Atomic<u32>,
}

impl Split {
    /// A request that went well so far.
    pub(crate) fn new(reply: Reply) -> Self {
        Self {
            reply: Some(reply),
            failure: Atomic::new(0),
        }
    }

    /// Notes how one of the I/Os ended.
    pub(crate) fn record(&self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            // Relaxed: the reference count orders this before the last one's load.
            self.failure.store(failure as u32, Relaxed);
        }
    }

    fn result(&self) -> Result<(), Failure> {
        let failed = [Failure::NotSupported, Failure::Disk, Failure::Memory];
        let code = self.failure.load(Relaxed);
        match failed.into_iter().find(|failure| *failure as u32 == code) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// What an I/O is for.
pub(crate) enum Job {
    /// All of a request.
    Whole(Reply),
    /// A part of one.
    Part(Arc<Split>),
}

fn status(result: Result<(), Failure>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(failure) => failure.status(),
    }
}

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
    unanswerable: Atomic<u64>,
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
    /// Whether answers were published without deciding on an interrupt.
    unannounced: bool,
    /// Who sleeps until something was returned.
    waiter: Option<ARef<Task>>,
    stats: Stats,
}

impl State {
    fn publish(&mut self, head: Head, len: u32) {
        self.used.push(&self.ring, head, len);
        self.stats.requests += 1;
    }

    fn announce(&mut self) {
        self.unannounced = false;
        if self.used.should_interrupt(&self.ring) {
            if let Some(call) = &self.call {
                self.stats.interrupts += 1;
                call.signal();
            }
        }
    }

    fn account(&mut self, moved: Moved, result: Result<(), Failure>) {
        match (result, moved) {
            (Ok(()), Moved::Read(bytes)) => self.stats.bytes_read += u64::from(bytes),
            (Ok(()), Moved::Written(bytes)) => self.stats.bytes_written += u64::from(bytes),
            (Ok(()), Moved::Flushed) => self.stats.flushes += 1,
            (Ok(()), Moved::Nothing) => (),
            (Err(Failure::NotSupported | Failure::Disk), _) => self.stats.io_errors += 1,
            (Err(Failure::Memory), _) => (),
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
            unannounced: false,
            waiter: None,
            stats: Stats::default(),
        };
        Arc::pin_init(
            pin_init!(Self {
                kick,
                leftovers: Atomic::new(false),
                in_worker: Atomic::new(false),
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
        self.with_state(|state| {
            state.publish(head, len);
            state.unannounced = true;
        });
    }

    /// Whether I/O seems to finish where it is submitted.
    pub(crate) fn finishes_in_worker(&self) -> bool {
        self.in_worker.load(Relaxed)
    }

    /// Answers a request, in the worker or in the owner. [`Self::announce`] must follow.
    pub(crate) fn answer(&self, reply: Reply, result: Result<(), Failure>) {
        let code = status(result) as u8;
        let written = match reply.status {
            StatusByte::Pinned(byte) => {
                byte.write(code);
                // Before the answer is seen: from then on the guest owns the page. May sleep.
                drop(byte);
                true
            }
            StatusByte::At(at) => CurrentProcess.copy_out(&[code], at).is_ok(),
        };
        if !written {
            self.unanswerable.add(1, Relaxed);
        }
        let len = match result {
            _ if !written => 0,
            Ok(()) => reply.len,
            Err(_) => reply.failed_len,
        };
        self.with_state(|state| {
            state.account(reply.moved, result);
            state.publish(reply.head, len);
            state.unannounced = true;
        });
    }

    /// Answers the requests that finished where their status could not be written, in the worker or
    /// in the owner.
    pub(crate) fn answer_late(&self) {
        // Ends: nothing is submitted meanwhile.
        while let Some(Some((reply, result))) = self.with_state(|state| state.late.pop()) {
            self.answer(reply, result);
        }
        self.announce();
    }

    /// How many requests had no place for their status.
    pub(crate) fn unanswerable(&self) -> u64 {
        self.unanswerable.load(Relaxed)
    }

    /// Lets go of a request of several I/Os, and answers if that was the last of them. In the
    /// worker. [`Self::announce`] must follow.
    pub(crate) fn release(&self, split: Arc<Split>) {
        if let Some((reply, result)) = last_of(split) {
            self.answer(reply, result);
        }
    }

    /// Decides on an interrupt for what the worker answered.
    pub(crate) fn announce(&self) {
        self.with_state(|state| {
            if state.unannounced {
                state.announce();
            }
        });
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
        self.leftovers.load(Relaxed) && {
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

/// Lets go of `split`. Returns its reply and its result if that was the last reference.
fn last_of(split: Arc<Split>) -> Option<(Reply, Result<(), Failure>)> {
    let mut split = Arc::into_unique_or_drop(split)?;
    let result = split.result();
    let reply = split.as_mut().get_mut().reply.take()?;
    Some((reply, result))
}

/// Writes a status where an I/O finished. Returns a pin that could not be given up there.
///
/// # Errors
///
/// The place itself, when only the worker can write to it, later.
fn write_status(
    place: StatusByte,
    status: Status,
    in_worker: bool,
) -> Result<Option<PinnedByte>, StatusByte> {
    match place {
        StatusByte::Pinned(byte) => {
            byte.write(status as u8);
            Ok(byte.try_release().err())
        }
        StatusByte::At(at) if in_worker && store_byte_nofault(at, status as u8) => Ok(None),
        at => Err(at),
    }
}

impl Completer for Completion {
    type Job = Job;

    fn complete(&self, done: Done<Self>) {
        let result = done.result().map_err(Failure::from);
        let (job, mut spent) = done.into_parts();
        let ended = match job {
            Some(Job::Whole(reply)) => Some((reply, result)),
            Some(Job::Part(split)) => {
                split.record(result);
                last_of(split)
            }
            None => None,
        };
        let in_worker = runs_in(self.kick.worker());
        if self.in_worker.load(Relaxed) != in_worker {
            self.in_worker.store(in_worker, Relaxed);
        }
        // A request that can be answered here and now, or else one for the worker.
        let (answered, late) = match ended {
            Some((reply, result)) => match write_status(reply.status, status(result), in_worker) {
                Ok(pin) => {
                    if let Some(byte) = pin {
                        spent.keep(byte);
                    }
                    let len = if result.is_ok() {
                        reply.len
                    } else {
                        reply.failed_len
                    };
                    (Some((reply.head, len, reply.moved, result)), None)
                }
                Err(status) => (None, Some((Reply { status, ..reply }, result))),
            },
            None => (None, None),
        };
        let clean = spent.try_release() && late.is_none();

        self.with_state(|state| {
            // There is room for all I/Os that exist.
            let _ = state.returned.push_within_capacity(spent);
            state.finished += 1;
            if let Some((head, len, moved, result)) = answered {
                state.account(moved, result);
                state.publish(head, len);
                // The worker decides once for all that it submits in a row.
                if in_worker {
                    state.unannounced = true;
                } else {
                    state.announce();
                }
            }
            if let Some(late) = late {
                let _ = state.late.push_within_capacity(late);
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

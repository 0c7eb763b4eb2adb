// SPDX-License-Identifier: GPL-2.0

//! What a worker thread serves: the queues, and which of them want to be served.

use crate::{
    server::Server,
    sys::{
        eventfd::Wake,
        lock::lock_killable,
        read_once,
        thread::Work, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full, //
        },
        Arc,
        Mutex, //
    },
    task::Task, //
};

/// Queues that a device can have.
pub(crate) const MAX_QUEUES: usize = 256;

const WORD_BITS: usize = u64::BITS as usize;

/// The queues of a worker.
#[pin_data]
pub(crate) struct Pool {
    /// A bit for each word of `ready` that may have any.
    pending: Atomic<u64>,
    /// A bit for each queue that wants a turn.
    ready: [Atomic<u64>; MAX_QUEUES / WORD_BITS],
    /// Held while a queue has its turn. Whoever holds it knows that none has.
    #[pin]
    servers: Mutex<KVec<Option<Server>>>,
}

impl Pool {
    /// A pool without queues.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            pending: Atomic::new(0),
            ready: [const { Atomic::new(0) }; MAX_QUEUES / WORD_BITS],
            servers <- new_mutex!(KVec::new(), "Pool::servers"),
        })
    }

    /// Makes it serve a queue.
    ///
    /// # Errors
    ///
    /// ENOMEM; EINTR when the current task is being killed.
    pub(crate) fn insert(&self, index: usize, server: Server) -> Result {
        let mut servers = lock_killable(&self.servers)?;
        while servers.len() <= index {
            servers.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        *servers.get_mut(index).ok_or(EINVAL)? = Some(server);
        Ok(())
    }

    /// Ends the service of all queues: afterwards the worker does not touch them any more.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed: a turn of the worker takes as long as the disk
    /// and the owner's memory let it.
    pub(crate) fn take_all(&self) -> Result<KVec<Option<Server>>> {
        Ok(core::mem::take(&mut *lock_killable(&self.servers)?))
    }

    /// As [`Self::take_all`], however long it takes.
    pub(crate) fn take_all_patiently(&self) -> KVec<Option<Server>> {
        core::mem::take(&mut *self.servers.lock())
    }

    /// Does something with a queue, if it is served, while the worker does not.
    ///
    /// # Errors
    ///
    /// EINTR as for [`Self::take_all`].
    pub(crate) fn with<R>(
        &self,
        index: usize,
        f: impl FnOnce(&mut Server) -> R,
    ) -> Result<Option<R>> {
        let mut servers = lock_killable(&self.servers)?;
        Ok(servers.get_mut(index).and_then(Option::as_mut).map(f))
    }

    /// Marks a queue, to be followed by a wake-up of the worker. Returns whether it was not marked.
    #[inline]
    fn mark(&self, place: Place) -> bool {
        let Some(word) = self.ready.get(place.word) else {
            return false;
        };
        // In this order: who finds a word marked finds the queue too.
        set(word, place.bit) && {
            set(&self.pending, place.word_bit);
            true
        }
    }
}

/// Where a queue is marked.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    bit: u64,
    word_bit: u64,
}

impl Place {
    fn of(index: usize) -> Self {
        let word = index / WORD_BITS;
        Self {
            word,
            bit: 1 << (index % WORD_BITS),
            word_bit: 1 << (word % WORD_BITS),
        }
    }
}

/// Sets a bit. Returns whether it was not set.
#[inline]
fn set(word: &Atomic<u64>, bit: u64) -> bool {
    let mut seen = read_once(word);
    // Ends: each turn sees a change that another CPU made.
    loop {
        if seen & bit != 0 {
            return false;
        }
        // Full: whatever came before it is visible to who takes the bit.
        match word.cmpxchg(seen, seen | bit, Full) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
}

/// Takes all bits of a word; their numbers.
#[inline]
fn take(word: &Atomic<u64>) -> impl Iterator<Item = usize> {
    // Full: pairs with `set`.
    let mut bits = word.xchg(0, Full);
    core::iter::from_fn(move || {
        let first = bits.trailing_zeros() as usize;
        (bits != 0).then(|| {
            bits &= bits - 1;
            first
        })
    })
}

impl Work for Pool {
    fn pending(&self) -> bool {
        read_once(&self.pending) != 0
    }

    #[inline]
    fn run(&self) {
        for number in take(&self.pending) {
            let Some(word) = self.ready.get(number) else {
                continue;
            };
            for bit in take(word) {
                let index = number * WORD_BITS + bit;
                // Between two turns others have theirs: nobody waits for all queues.
                let mut servers = self.servers.lock();
                if let Some(Some(server)) = servers.get_mut(index) {
                    if server.turn() {
                        // It is this thread that looks for marks: nobody to wake.
                        self.mark(Place::of(index));
                    }
                }
            }
        }
    }
}

/// Gives a queue a turn.
#[derive(Clone)]
pub(crate) struct Kick {
    pool: Arc<Pool>,
    worker: ARef<Task>,
    place: Place,
}

impl Kick {
    /// For the queue `index` of `pool`, which `worker` works on.
    pub(crate) fn new(pool: Arc<Pool>, worker: ARef<Task>, index: usize) -> Self {
        Self {
            pool,
            worker,
            place: Place::of(index),
        }
    }

    /// The worker.
    pub(crate) fn worker(&self) -> &Task {
        &self.worker
    }
}

impl Wake for Kick {
    #[inline]
    fn wake(&self) {
        if self.pool.mark(self.place) {
            self.worker.wake_up();
        }
    }
}

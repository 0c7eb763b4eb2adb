// SPDX-License-Identifier: GPL-2.0

//! Completions against those who wait for them: a detach, a replacement of guest memory, a worker
//! without a free I/O. Nothing waits for ever, and nothing is touched after a wait returned.
//!
//! The real [`Completions`] are under a lock together with a list of completed I/Os, as their
//! documentation asks.

use crate::{
    model,
    task::Task,
    worker::Worker, //
};
use loom::{
    sync::{
        atomic::{
            AtomicU32,
            Ordering::Relaxed, //
        },
        Arc,
        Mutex, //
    },
    thread,
};
use vblk_core::completions::Completions;

/// The two sizes of I/Os.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// An I/O in flight. It keeps the used side alive, and goes to the list there.
struct Io {
    used: Arc<UsedSide>,
    size: Size,
    generation: u32,
    /// Its place in guest memory.
    slot: usize,
}

struct State {
    completions: Completions,
    completed: Vec<Size>,
    waiter: Option<Arc<Task>>,
}

/// The state of a queue that the worker, completing threads and waiting threads share.
struct UsedSide {
    worker: Arc<Worker>,
    guest: Arc<Guest>,
    state: Mutex<State>,
}

impl UsedSide {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            worker: Worker::new(),
            guest: Guest::new(),
            state: Mutex::new(State {
                completions: Completions::default(),
                completed: Vec::new(),
                waiter: None,
            }),
        })
    }

    fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().expect("not poisoned"))
    }

    fn await_all(&self, submitted: u64, task: &Arc<Task>) {
        task.sleep_until(|| self.wait_or(task, |completions| completions.await_all(submitted)));
    }

    fn await_earlier(&self, task: &Arc<Task>) {
        task.sleep_until(|| self.wait_or(task, Completions::await_earlier));
    }

    fn wait_or(&self, task: &Arc<Task>, is_over: impl FnOnce(&mut Completions) -> bool) -> bool {
        self.with_state(|state| {
            let is_over = is_over(&mut state.completions);
            if !is_over {
                state.waiter = Some(task.clone());
            }
            is_over
        })
    }

    /// Notes that the worker has no free I/O, unless there is one to take. Returns whether there is
    /// one.
    fn starve(&self) -> bool {
        self.with_state(|state| {
            if state.completed.is_empty() {
                state.completions.starve();
            }
            !state.completed.is_empty()
        })
    }
}

impl Io {
    fn new(used: &Arc<UsedSide>, size: Size, generation: u32, slot: usize) -> Self {
        Self {
            used: used.clone(),
            size,
            generation,
            slot,
        }
    }

    /// Has a thread of its own complete the I/O.
    fn submit(self) -> thread::JoinHandle<()> {
        thread::spawn(move || self.complete())
    }

    /// Answers, counts, and wakes whom it must.
    fn complete(self) {
        let Self {
            used,
            size,
            generation,
            slot,
        } = self;
        used.guest.write_status(slot);
        let (wake_ups, waiter) = used.with_state(|state| {
            used.guest.publish();
            let wake_ups = state.completions.complete(generation);
            state.completed.push(size);
            let waiter = state.waiter.take_if(|_| wake_ups.waiter);
            (wake_ups, waiter)
        });
        if let Some(waiter) = waiter {
            waiter.wake_up();
        }
        if wake_ups.worker {
            used.worker.wake(0);
        }
    }
}

/// Guest memory: status bytes and the used index. Without an order of its own, so that loom gives
/// old values wherever nothing else orders the accesses.
struct Guest {
    statuses: [AtomicU32; IOS],
    used_index: AtomicU32,
}

const IOS: usize = 2;
const UNWRITTEN: u32 = 0xFF;
const OK: u32 = 0;
/// The value of memory that is used for something else afterwards.
const OTHER: u32 = 0x5A;

impl Guest {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            statuses: core::array::from_fn(|_| AtomicU32::new(UNWRITTEN)),
            used_index: AtomicU32::new(0),
        })
    }

    fn write_status(&self, slot: usize) {
        self.statuses[slot].store(OK, Relaxed);
    }

    /// Moves the used index, under the lock of the used side.
    fn publish(&self) {
        let index = self.used_index.load(Relaxed);
        self.used_index.store(index + 1, Relaxed);
    }

    /// Looks that all I/Os are answered, and uses the memory for something else.
    fn reuse(&self) {
        for status in &self.statuses {
            assert_eq!(status.load(Relaxed), OK);
            status.store(OTHER, Relaxed);
        }
        assert_eq!(self.used_index.load(Relaxed), IOS as u32);
        self.used_index.store(OTHER, Relaxed);
    }

    fn assert_untouched(&self) {
        for word in self.statuses.iter().chain([&self.used_index]) {
            assert_eq!(word.load(Relaxed), OTHER);
        }
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("an I/O ends");
    }
}

#[test]
fn detach_returns_when_all_is_answered_and_nothing_is_touched_afterwards() {
    model(|| {
        let used = UsedSide::new();
        let guest = used.guest.clone();
        let disk = [0, 1].map(|slot| Io::new(&used, Size::Small, 0, slot).submit());

        used.await_all(IOS as u64, &Task::new());
        // The I/Os alone keep it alive now; loom looks whether something is left over.
        drop(used);
        guest.reuse();
        join(disk);
        guest.assert_untouched();
    });
}

#[test]
fn detach_takes_the_place_of_a_waiter_that_gave_up() {
    model(|| {
        let used = UsedSide::new();
        let guest = used.guest.clone();
        let disk = [0, 1].map(|slot| Io::new(&used, Size::Small, 0, slot).submit());

        used.with_state(|state| state.completions.begin_generation(IOS as u64));
        // Killed before it could sleep.
        used.wait_or(&Task::new(), Completions::await_earlier);
        used.await_all(IOS as u64, &Task::new());
        guest.reuse();
        join(disk);
        guest.assert_untouched();
    });
}

#[test]
fn a_later_generation_is_not_waited_for() {
    model(|| {
        let used = UsedSide::new();
        let earlier = Io::new(&used, Size::Small, 0, 0).submit();
        let generation = used.with_state(|state| state.completions.begin_generation(1));
        let later = Io::new(&used, Size::Small, generation, 1);

        used.await_earlier(&Task::new());
        assert_eq!(used.guest.statuses[0].load(Relaxed), OK);
        // It ends only now: a wait for it would have no end.
        later.complete();
        join([earlier]);
    });
}

#[test]
fn an_earlier_generation_is_waited_for_while_a_later_one_completes() {
    model(|| {
        let used = UsedSide::new();
        let guest = used.guest.clone();
        let earlier = Io::new(&used, Size::Small, 0, 0).submit();
        let generation = used.with_state(|state| state.completions.begin_generation(1));
        let later = Io::new(&used, Size::Small, generation, 1).submit();

        let task = Task::new();
        used.await_earlier(&task);
        // The memory of the earlier generation is let go.
        assert_eq!(guest.statuses[0].swap(OTHER, Relaxed), OK);
        used.await_all(IOS as u64, &task);
        assert_eq!(guest.statuses[0].swap(OK, Relaxed), OTHER);
        drop(used);
        guest.reuse();
        join([earlier, later]);
        guest.assert_untouched();
    });
}

/// The worker needs a small I/O, has none, and leaves its request for when one has completed.
/// I/Os of these sizes are in flight.
fn starvation(sizes: &'static [Size]) {
    model(move || {
        let used = UsedSide::new();
        used.worker.mark(0);
        let disk: Vec<_> = (0..)
            .zip(sizes)
            .map(|(slot, size)| Io::new(&used, *size, 0, slot).submit())
            .collect();

        let mut free = Vec::new();
        while !free.contains(&Size::Small) {
            used.worker.serve_marked(|_| loop {
                used.with_state(|state| free.append(&mut state.completed));
                // What completed in between may be large: look until there is nothing.
                if free.contains(&Size::Small) || !used.starve() {
                    break;
                }
            });
        }
        join(disk);
    });
}

#[test]
fn a_completion_wakes_a_worker_that_starves() {
    starvation(&[Size::Small]);
}

#[test]
fn a_worker_starves_on_when_an_io_of_the_wrong_size_completes() {
    starvation(&[Size::Large, Size::Small]);
}

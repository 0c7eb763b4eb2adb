// SPDX-License-Identifier: GPL-2.0

//! Detaching a disk while its I/Os finish: nothing is touched after detach returned, nothing waits
//! for ever, and nothing is left over.
//!
//! This is a model, since the code itself is made of the kernel's locks and tasks. It mirrors, line
//! by line as far as threads meet there:
//!
//! - [`sleep_until`], [`Task`]: `sleep_until` of `rust/sys/thread.rs`, with `set_current_state`,
//!   `schedule` and `wake_up_process` as they order memory;
//! - [`end_io`]: the function of that name in `rust/sys/bio.rs`;
//! - [`Completion`]: `complete`, `collect_some`, `wait` and `close` of `rust/completion.rs`;
//! - [`detach`]: `Attached::end` of `rust/attached.rs`.

use crate::model;
use loom::{
    sync::{
        atomic::{
            fence, AtomicBool, AtomicU32,
            Ordering::{
                Relaxed,
                SeqCst, //
            },
        },
        Arc,
        Condvar,
        Mutex, //
    },
    thread,
};

/// A thread of the kernel, as far as sleeping goes.
struct Task {
    sleeping: AtomicBool,
    run_queue: Mutex<()>,
    woken: Condvar,
}

impl Task {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sleeping: AtomicBool::new(false),
            run_queue: Mutex::new(()),
            woken: Condvar::new(),
        })
    }

    /// `set_current_state`.
    fn set_sleeping(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Relaxed);
        fence(SeqCst);
    }

    /// `schedule`: goes on at once if somebody undid the state.
    fn schedule(&self) {
        let mut run_queue = self.run_queue.lock().expect("not poisoned");
        while self.sleeping.load(Relaxed) {
            run_queue = self.woken.wait(run_queue).expect("not poisoned");
        }
    }

    /// `wake_up_process`.
    fn wake_up(&self) {
        fence(SeqCst);
        let _run_queue = self.run_queue.lock().expect("not poisoned");
        if self.sleeping.load(Relaxed) {
            self.sleeping.store(false, Relaxed);
            self.woken.notify_one();
        }
    }
}

fn sleep_until(task: &Task, mut ready: impl FnMut() -> bool) {
    loop {
        task.set_sleeping(true);
        if ready() {
            task.set_sleeping(false);
            return;
        }
        task.schedule();
    }
}

/// The memory of an I/O. It keeps the completion alive.
struct Unit {
    owner: Arc<Completion>,
}

struct State {
    /// Keeps them alive in turn, until `close`.
    returned: Vec<Unit>,
    finished: usize,
    waiter: Option<Arc<Task>>,
}

/// The completion half of a queue.
struct Completion {
    state: Mutex<Option<State>>,
}

impl Completion {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Some(State {
                returned: Vec::new(),
                finished: 0,
                waiter: None,
            })),
        })
    }

    fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        self.state.lock().expect("not poisoned").as_mut().map(f)
    }

    /// An I/O is done: writes its status, then counts and wakes under one hold of the lock.
    fn complete(&self, unit: Unit, guest: &Guest, slot: usize) {
        guest.write_status(slot);
        let counted = self.with_state(|state| {
            state.returned.push(unit);
            state.finished += 1;
            guest.publish();
            if let Some(waiter) = &state.waiter {
                waiter.wake_up();
            }
        });
        assert!(counted.is_some(), "an I/O that nobody waited for");
    }

    fn wait(&self, submitted: usize, task: &Arc<Task>) {
        sleep_until(task, || {
            let finished = self.with_state(|state| {
                state.waiter = Some(task.clone());
                state.finished == submitted
            });
            finished != Some(false)
        });
    }

    fn collect_some(&self, task: &Arc<Task>) -> Vec<Unit> {
        let mut units = Vec::new();
        sleep_until(task, || {
            let collected = self.with_state(|state| {
                if state.returned.is_empty() {
                    state.waiter = Some(task.clone());
                    return false;
                }
                state.waiter = None;
                core::mem::swap(&mut state.returned, &mut units);
                true
            });
            collected != Some(false)
        });
        units
    }

    fn close(&self) {
        let state = self.state.lock().expect("not poisoned").take();
        // Outside of the lock.
        drop(state);
    }
}

/// What belongs to the owner alone once detach returned: status bytes and the used index. Without
/// an order of its own, so that loom gives old values wherever nothing else orders the accesses.
struct Guest {
    statuses: [AtomicU32; IOS],
    used_index: AtomicU32,
}

const UNWRITTEN: u32 = 0xFF;
const OK: u32 = 0;
/// What the owner uses the memory for afterwards.
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

    /// Under the lock of the completion.
    fn publish(&self) {
        let index = self.used_index.load(Relaxed);
        self.used_index.store(index + 1, Relaxed);
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU32> {
        self.statuses.iter().chain([&self.used_index])
    }
}

/// Called by the block layer, in some thread.
fn end_io(unit: Unit, guest: &Guest, slot: usize) {
    // The unit goes away with what `close` drops, as soon as this lets go of the lock.
    let owner = unit.owner.clone();
    owner.complete(unit, guest, slot);
}

/// After the worker gave up the queue, so that nothing more is submitted.
fn detach(completion: &Completion, submitted: usize, task: &Arc<Task>) {
    completion.wait(submitted, task);
    completion.close();
}

/// I/Os that finish while the disk is detached, each in a thread of its own.
const IOS: usize = 2;

#[test]
fn detach_returns_when_all_is_answered_and_nothing_is_touched_afterwards() {
    model(|| {
        let (completion, guest, task) = (Completion::new(), Guest::new(), Task::new());
        let disk: Vec<_> = (0..IOS)
            .map(|slot| {
                let (owner, guest) = (completion.clone(), guest.clone());
                thread::spawn(move || end_io(Unit { owner }, &guest, slot))
            })
            .collect();

        detach(&completion, IOS, &task);
        drop(completion);
        assert!(guest
            .statuses
            .iter()
            .all(|status| status.load(Relaxed) == OK));
        assert_eq!(guest.used_index.load(Relaxed), IOS as u32);
        guest.all().for_each(|word| word.store(OTHER, Relaxed));
        for thread in disk {
            thread.join().expect("an I/O ends");
        }
        assert!(guest.all().all(|word| word.load(Relaxed) == OTHER));
        // Loom looks whether a completion or a unit was left over.
    });
}

/// A worker that waits for an I/O to come back takes its place in the list of who is to be woken;
/// detach, which follows in another thread, takes it over.
#[test]
fn who_waits_for_a_unit_is_woken_and_so_is_who_detaches_then() {
    model(|| {
        let (completion, guest) = (Completion::new(), Guest::new());
        let disk: Vec<_> = (0..IOS)
            .map(|slot| {
                let (owner, guest) = (completion.clone(), guest.clone());
                thread::spawn(move || end_io(Unit { owner }, &guest, slot))
            })
            .collect();

        // The worker, which then lets go of the queue.
        let spent = completion.collect_some(&Task::new());
        assert!((1..=IOS).contains(&spent.len()));
        drop(spent);
        detach(&completion, IOS, &Task::new());
        for thread in disk {
            thread.join().expect("an I/O ends");
        }
    });
}

// SPDX-License-Identifier: GPL-2.0

//! How threads sleep and wake each other.

use loom::sync::{
    atomic::{
        fence, AtomicBool,
        Ordering::{
            Relaxed,
            SeqCst, //
        },
    },
    Arc,
    Condvar,
    Mutex, //
};

/// A thread, as far as sleeping goes. A wake-up is not stored: it only undoes what the thread said
/// about itself before it looked at its condition. So the condition must be found by one of both.
pub struct Task {
    is_sleeping: AtomicBool,
    run_queue: Mutex<()>,
    woken: Condvar,
}

impl Task {
    /// Creates a task that is awake.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            is_sleeping: AtomicBool::new(false),
            run_queue: Mutex::new(()),
            woken: Condvar::new(),
        })
    }

    /// Sleeps until `is_over`, which is called again after each wake-up.
    pub fn sleep_until(&self, mut is_over: impl FnMut() -> bool) {
        loop {
            self.set_sleeping(true);
            if is_over() {
                self.set_sleeping(false);
                return;
            }
            self.schedule();
        }
    }

    /// Wakes the task, if it sleeps or is about to.
    pub fn wake_up(&self) {
        // Pairs with the fence in `set_sleeping`.
        fence(SeqCst);
        let _run_queue = self.run_queue.lock().expect("not poisoned");
        if self.is_sleeping.load(Relaxed) {
            self.is_sleeping.store(false, Relaxed);
            self.woken.notify_one();
        }
    }

    fn set_sleeping(&self, is_sleeping: bool) {
        self.is_sleeping.store(is_sleeping, Relaxed);
        fence(SeqCst);
    }

    /// Sleeps, unless a wake-up came since the task said so.
    fn schedule(&self) {
        let mut run_queue = self.run_queue.lock().expect("not poisoned");
        while self.is_sleeping.load(Relaxed) {
            run_queue = self.woken.wait(run_queue).expect("not poisoned");
        }
    }
}

/// An eventfd.
pub struct Event {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Event {
    /// Creates an event that was not signalled.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            count: Mutex::new(0),
            changed: Condvar::new(),
        })
    }

    /// Adds one.
    pub fn signal(&self) {
        *self.count.lock().expect("not poisoned") += 1;
        self.changed.notify_one();
    }

    /// Sleeps until the event was signalled, and resets it.
    pub fn wait(&self) {
        let mut count = self.count.lock().expect("not poisoned");
        while *count == 0 {
            count = self.changed.wait(count).expect("not poisoned");
        }
        *count = 0;
    }
}

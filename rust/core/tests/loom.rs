// SPDX-License-Identifier: GPL-2.0

//! Models of the two places where a side of the ring goes to sleep while the other makes
//! progress: kick against sleep, completion against interrupt suppression. The device's side is
//! the real [`Avail`] and [`Used`], the driver's is the model in `vblk_core::testing`, and loom
//! goes through every interleaving and every value that an atomic load may give. A lost wake-up
//! is a deadlock, which loom reports.
//!
//! Run with: `RUSTFLAGS="--cfg loom" cargo test -p vblk_core --features testing --test loom
//! --release`

#![cfg(loom)]

use loom::{
    sync::{
        atomic::{
            fence,
            AtomicU16,
            AtomicU32,
            Ordering, //
        },
        Condvar,
        Mutex, //
    },
    thread,
};
use std::sync::Arc;
use vblk_core::{
    addr::GuestAddr,
    memory::SharedMemory,
    split::{
        Avail,
        Head,
        Popped,
        SplitRing,
        Used, //
    },
    testing::{
        Driver,
        DriverMemory,
        Layout, //
    },
};

const SIZE: u32 = 4;
/// Entries that go through the ring while both sides run.
const ENTRIES: u16 = 3;

/// One part of a ring. Entries of the used ring are words, all else are half-words.
struct Part {
    halves: Vec<AtomicU16>,
    words: Vec<AtomicU32>,
}

impl Part {
    fn new(bytes: usize) -> Self {
        Self {
            halves: (0..bytes / 2).map(|_| AtomicU16::new(0)).collect(),
            words: (0..bytes / 4).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

/// The available and the used ring. Nobody looks at descriptors here.
struct Memory {
    layout: Layout,
    avail: Part,
    used: Part,
}

impl Memory {
    fn new(layout: Layout) -> Arc<Self> {
        Arc::new(Self {
            layout,
            avail: Part::new(layout.size.avail_bytes()),
            used: Part::new(layout.size.used_bytes()),
        })
    }

    fn ring(self: &Arc<Self>) -> SplitRing<View> {
        let view = |part: fn(&Memory) -> Option<&Part>| View(self.clone(), part);
        SplitRing::new(
            self.layout.size,
            view(|_| None),
            view(|memory| Some(&memory.avail)),
            view(|memory| Some(&memory.used)),
        )
    }

    /// The part that an address is in, and how far.
    fn find(&self, at: GuestAddr) -> Option<(&Part, usize)> {
        if at >= self.layout.used {
            Some((&self.used, (at.0 - self.layout.used.0) as usize))
        } else if at >= self.layout.avail {
            Some((&self.avail, (at.0 - self.layout.avail.0) as usize))
        } else {
            None
        }
    }

    fn half(&self, at: GuestAddr) -> &AtomicU16 {
        let (part, offset) = self.find(at).expect("a part of the ring");
        &part.halves[offset / 2]
    }
}

impl DriverMemory for Memory {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        let (part, offset) = self.find(from).expect("a part of the ring");
        for (index, bytes) in to.chunks_mut(4).enumerate() {
            let word = part.words[offset / 4 + index].load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }

    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        let Some((part, offset)) = self.find(to) else {
            return;
        };
        for (index, bytes) in bytes.chunks(2).enumerate() {
            let half = u16::from_ne_bytes(bytes.try_into().expect("whole half-words"));
            part.halves[offset / 2 + index].store(half, Ordering::Relaxed);
        }
    }

    fn load_u16(&self, at: GuestAddr) -> u16 {
        self.half(at).load(Ordering::Relaxed)
    }

    fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
        self.half(at).load(Ordering::Acquire)
    }

    fn store_u16(&self, at: GuestAddr, value: u16) {
        self.half(at).store(value, Ordering::Relaxed);
    }

    fn store_release_u16(&self, at: GuestAddr, value: u16) {
        self.half(at).store(value, Ordering::Release);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// The device's view of a part.
struct View(Arc<Memory>, fn(&Memory) -> Option<&Part>);

impl View {
    fn half(&self, offset: usize) -> &AtomicU16 {
        let part = self.1(&self.0).expect("no descriptor is read");
        &part.halves[offset / 2]
    }
}

impl SharedMemory for View {
    fn load_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Relaxed)
    }

    fn load_u64(&self, _: usize) -> u64 {
        unreachable!("no descriptor is read")
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Acquire)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        self.half(offset).store(value, Ordering::Relaxed);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let part = self.1(&self.0).expect("descriptors are not written");
        part.words[offset / 4].store(value, Ordering::Relaxed);
    }

    fn store_release_u16(&self, offset: usize, value: u16) {
        self.half(offset).store(value, Ordering::Release);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// An eventfd.
struct Event {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Event {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            count: Mutex::new(0),
            changed: Condvar::new(),
        })
    }

    fn signal(&self) {
        *self.count.lock().expect("not poisoned") += 1;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut count = self.count.lock().expect("not poisoned");
        while *count == 0 {
            count = self.changed.wait(count).expect("not poisoned");
        }
        *count = 0;
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Enough for every wake-up that two threads can lose, and done within seconds.
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// The driver adds entries while the worker drains the ring and goes to sleep.
fn kick_against_sleep(event_idx: bool, start: u16) {
    model(move || {
        let layout = Layout::with_size(SIZE, GuestAddr(0));
        let memory = Memory::new(layout);
        let mut driver = Driver::starting_at(memory.clone(), layout, event_idx, start);
        let kick = Event::new();

        let worker = {
            let (ring, kick) = (memory.ring(), kick.clone());
            thread::spawn(move || {
                let mut avail = Avail::new(start, event_idx);
                let mut taken = 0;
                loop {
                    avail.disable_notify(&ring);
                    while let Popped::Chain(head) = avail.pop(&ring).expect("a possible index") {
                        // What the index covers is there: not an entry from before.
                        assert_eq!(head.index(), 1 - taken % 2);
                        taken += 1;
                    }
                    if taken == ENTRIES {
                        break;
                    }
                    if !avail.enable_notify(&ring).expect("a possible index") {
                        kick.wait();
                    }
                }
            })
        };
        for entry in 0..ENTRIES {
            driver.post(1 - entry % 2);
            if driver.publish_needs_kick() {
                kick.signal();
            }
        }
        worker.join().expect("all entries were taken");
    });
}

/// The device gives chains back while the driver looks for them and goes to sleep.
fn completion_against_suppression(event_idx: bool, start: u16) {
    model(move || {
        let layout = Layout::with_size(SIZE, GuestAddr(0));
        let memory = Memory::new(layout);
        let mut driver = Driver::starting_at(memory.clone(), layout, event_idx, start);
        let ring = memory.ring();
        let mut used = Used::new(&ring, event_idx);
        let heads = heads(&mut driver, &ring, start, event_idx);
        // The first decision is to interrupt in any case; it is not the one to look at.
        used.should_interrupt(&ring);
        let interrupt = Event::new();

        let device = {
            let interrupt = interrupt.clone();
            thread::spawn(move || {
                for (head, len) in heads.into_iter().zip(5..) {
                    used.push(&ring, head, len);
                    if used.should_interrupt(&ring) {
                        interrupt.signal();
                    }
                }
            })
        };
        let mut given = 0;
        loop {
            driver.disable_interrupt();
            while let Some(entry) = driver.poll_used() {
                // What the index covers is there: not an entry from before.
                assert_eq!((entry.id, entry.len), (1 - given % 2, 5 + given));
                given += 1;
            }
            if given == u32::from(ENTRIES) {
                break;
            }
            if !driver.enable_interrupt() {
                interrupt.wait();
            }
        }
        device.join().expect("all chains were given back");
    });
}

/// Chains in the hands of the device: 1, 0, 1, …
fn heads(
    driver: &mut Driver<Arc<Memory>>,
    ring: &SplitRing<View>,
    start: u16,
    event_idx: bool,
) -> Vec<Head> {
    let mut avail = Avail::new(start, event_idx);
    let take = |entry| {
        driver.post(1 - entry % 2);
        driver.publish();
        match avail.pop(ring) {
            Ok(Popped::Chain(head)) => head,
            other => panic!("a chain should be there, not {other:?}"),
        }
    };
    (0..ENTRIES).map(take).collect()
}

#[test]
fn no_kick_is_lost_with_flags() {
    kick_against_sleep(false, 0);
}

#[test]
fn no_kick_is_lost_with_event_index() {
    kick_against_sleep(true, 0);
}

#[test]
fn no_kick_is_lost_at_the_wrap() {
    kick_against_sleep(true, u16::MAX);
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    completion_against_suppression(false, 0);
}

#[test]
fn no_interrupt_is_lost_with_event_index() {
    completion_against_suppression(true, 0);
}

#[test]
fn no_interrupt_is_lost_at_the_wrap() {
    completion_against_suppression(true, u16::MAX);
}

// SPDX-License-Identifier: GPL-2.0

//! The two places where a side of the ring goes to sleep while the other makes progress: kick
//! against sleep, completion against interrupt suppression. The device's side is the real [`Avail`]
//! and [`Used`], the driver's is the model in `vblk_core::testing`.

use crate::model;
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
    queue::{
        Head,
        Parts,
        Popped,
        QueueSize, //
    },
    ring::{
        Avail,
        Base,
        Format,
        Ring,
        Used, //
    },
    testing::{
        Buf,
        Driver,
        DriverMemory,
        Layout, //
    },
};

const SIZE: u32 = 4;
/// Entries that go through the ring while both sides run.
const ENTRIES: u16 = 3;

/// One part of a ring. What the device tells of a chain is in words, but for ids of packed rings;
/// all else are half-words.
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

/// The parts of a ring. Nobody looks at buffers here.
struct Memory {
    layout: Layout,
    desc: Part,
    avail: Part,
    used: Part,
}

impl Memory {
    fn new(layout: Layout) -> Arc<Self> {
        let parts = layout.format.parts(layout.size);
        // Only a packed ring has more than buffers there.
        let desc = match layout.format {
            Format::Split => 0,
            Format::Packed => parts.desc.bytes,
        };
        Arc::new(Self {
            layout,
            desc: Part::new(desc),
            avail: Part::new(parts.driver.bytes),
            used: Part::new(parts.device.bytes),
        })
    }

    fn ring(self: &Arc<Self>) -> Ring<View> {
        let view = |part: fn(&Memory) -> &Part| View(self.clone(), part);
        let parts = Parts {
            desc: view(|memory| &memory.desc),
            driver: view(|memory| &memory.avail),
            device: view(|memory| &memory.used),
        };
        Ring::new(self.layout.format, self.layout.size, parts)
    }

    /// The part that an address is in, and how far.
    fn find(&self, at: GuestAddr) -> (&Part, usize) {
        let (part, start) = if at >= self.layout.used {
            (&self.used, self.layout.used)
        } else if at >= self.layout.avail {
            (&self.avail, self.layout.avail)
        } else {
            (&self.desc, self.layout.desc)
        };
        (part, (at.0 - start.0) as usize)
    }

    fn half(&self, at: GuestAddr) -> &AtomicU16 {
        let (part, offset) = self.find(at);
        &part.halves[offset / 2]
    }
}

impl DriverMemory for Memory {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        let (part, offset) = self.find(from);
        for (index, bytes) in to.chunks_mut(4).enumerate() {
            let word = part.words[offset / 4 + index].load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// Writes half-words, but no descriptors.
    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        if to < self.layout.avail {
            return;
        }
        let (part, offset) = self.find(to);
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
struct View(Arc<Memory>, fn(&Memory) -> &Part);

impl View {
    fn half(&self, offset: usize) -> &AtomicU16 {
        &self.1(&self.0).halves[offset / 2]
    }
}

impl SharedMemory for View {
    fn load_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Relaxed)
    }

    fn load_u64(&self, _: usize) -> u64 {
        unreachable!("no buffer is looked at")
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Acquire)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        self.half(offset).store(value, Ordering::Relaxed);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let words = &self.1(&self.0).words;
        words[offset / 4].store(value, Ordering::Relaxed);
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

/// What a model runs with.
#[derive(Clone, Copy)]
struct Setup {
    format: Format,
    event_idx: bool,
    start: u16,
}

impl Setup {
    fn queue(self) -> (Arc<Memory>, Driver<Arc<Memory>>, Base) {
        let size = QueueSize::new(SIZE).expect("a size");
        let layout = Layout::new(self.format, size, GuestAddr(0));
        let memory = Memory::new(layout);
        let driver = Driver::starting_at(memory.clone(), layout, self.event_idx, self.start);
        let base = Base {
            avail: self.start,
            used: self.start,
        };
        (memory, driver, base)
    }
}

/// Adds a chain of one buffer, without making it visible.
fn add(driver: &mut Driver<Arc<Memory>>) -> u16 {
    let buf = Buf::readable(GuestAddr(0), 1);
    driver.add(&[buf]).expect("a free descriptor")
}

/// The ids of the chains, in order: what the driver gives them when it has them all.
fn ids(format: Format) -> [u16; ENTRIES as usize] {
    match format {
        Format::Split => [0, 1, 2],
        Format::Packed => [3, 2, 1],
    }
}

/// The driver adds entries while the worker drains the ring and goes to sleep.
fn kick_against_sleep(setup: Setup) {
    model(move || {
        let (memory, mut driver, base) = setup.queue();
        let kick = Event::new();

        let worker = {
            let (ring, kick) = (memory.ring(), kick.clone());
            thread::spawn(move || {
                let mut avail = Avail::new(&ring, base, setup.event_idx);
                let mut taken = 0;
                loop {
                    avail.disable_notify(&ring);
                    // Nothing is given back.
                    let pop = |avail: &mut Avail| avail.pop(&ring, || base.used);
                    while let Popped::Chain(head) = pop(&mut avail).expect("a possible ring") {
                        // All of it is there: not an entry from before.
                        assert_eq!((head.id(), head.count()), (ids(setup.format)[taken], 1));
                        taken += 1;
                    }
                    if taken == usize::from(ENTRIES) {
                        break;
                    }
                    if !avail.enable_notify(&ring).expect("a possible ring") {
                        kick.wait();
                    }
                }
            })
        };
        for _ in 0..ENTRIES {
            add(&mut driver);
            if driver.publish_needs_kick() {
                kick.signal();
            }
        }
        worker.join().expect("all entries were taken");
    });
}

/// The device gives chains back while the driver looks for them and goes to sleep.
fn completion_against_suppression(setup: Setup) {
    model(move || {
        let (memory, mut driver, base) = setup.queue();
        let ring = memory.ring();
        let mut used = Used::new(&ring, base, setup.event_idx);
        let heads = heads(&mut driver, &ring, base);
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
                // All of it is there: not an entry from before.
                let id = u32::from(ids(setup.format)[given as usize]);
                assert_eq!((entry.id, entry.len), (id, 5 + given));
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

/// Chains in the hands of the device.
fn heads(driver: &mut Driver<Arc<Memory>>, ring: &Ring<View>, base: Base) -> Vec<Head> {
    let mut avail = Avail::new(ring, base, false);
    let take = |_| {
        add(driver);
        driver.publish();
        match avail.pop(ring, || base.used) {
            Ok(Popped::Chain(head)) => head,
            other => panic!("a chain should be there, not {other:?}"),
        }
    };
    (0..ENTRIES).map(take).collect()
}

/// Both models with one setup.
macro_rules! models {
    ($($name:ident: $format:ident, $event_idx:literal, $start:expr;)*) => { $(
        mod $name {
            use super::*;

            const SETUP: Setup = Setup {
                format: Format::$format,
                event_idx: $event_idx,
                start: $start,
            };

            #[test]
            fn no_kick_is_lost() {
                kick_against_sleep(SETUP);
            }

            #[test]
            fn no_interrupt_is_lost() {
                completion_against_suppression(SETUP);
            }
        }
    )* };
}

models! {
    split_with_flags: Split, false, 0;
    split_with_event_index: Split, true, 0;
    split_at_the_wrap: Split, true, u16::MAX;
    packed_with_flags: Packed, false, 0;
    packed_with_event_index: Packed, true, 0;
    packed_at_the_wrap: Packed, true, 2;
    packed_with_flags_at_the_wrap: Packed, false, u16::MAX;
}

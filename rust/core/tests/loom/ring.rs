// SPDX-License-Identifier: GPL-2.0

//! The two places where a side of the ring goes to sleep while the other makes progress: kick
//! against sleep, completion against interrupt suppression. The device's side is the real [`drain`]
//! and [`Used`], the driver's is the model in `vblk_core::testing`.

use crate::{
    memory::{
        Memory,
        View, //
    },
    model,
    task::Event, //
};
use loom::{
    sync::Mutex,
    thread, //
};
use std::sync::Arc;
use vblk_core::{
    addr::GuestAddr,
    drain::{
        drain,
        poll,
        HandleChain,
        Handled,
        Next,
        Polled, //
    },
    queue::{
        Head,
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
        Layout, //
    },
};

const SIZE: u32 = 4;
/// Entries that go through the ring while both sides run.
const ENTRIES: u16 = 3;

/// Parameters of a model.
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

/// Takes chains, and gives none back.
struct Taker {
    setup: Setup,
    taken: usize,
}

impl HandleChain<View> for Taker {
    fn is_ready(&mut self) -> bool {
        true
    }

    fn handle(&mut self, _: &Ring<View>, head: Head, _: bool) -> Handled {
        // All of it is there: not an entry from before.
        let id = ids(self.setup.format)[self.taken];
        assert_eq!((head.id(), head.count()), (id, 1));
        self.taken += 1;
        Handled::Taken(0)
    }

    fn skip_entry(&mut self) {
        panic!("an entry from before");
    }

    fn in_batch<R>(&mut self, _: u16, submit: impl FnOnce(&mut Self) -> R) -> R {
        submit(self)
    }

    fn refresh(&mut self) {}

    fn used_position(&self) -> u16 {
        self.setup.start
    }

    fn signal_used(&mut self) {}
}

/// The driver adds entries, and kicks only when asked, while the worker drains the ring, looks at it a
/// few times when it is empty, and goes to sleep.
fn kick_against_sleep(setup: Setup, looks: usize) {
    model(move || {
        let (memory, mut driver, base) = setup.queue();
        let kick = Event::new();

        let worker = {
            let (ring, kick) = (memory.ring(), kick.clone());
            let mut avail = Avail::new(&ring, base, setup.event_idx);
            let mut taker = Taker { setup, taken: 0 };
            // What a driver is told before that is not known, and may be to kick in any case.
            assert_eq!(drain(&ring, &mut avail, &mut taker, false), Ok(Next::Kick));
            thread::spawn(move || {
                while taker.taken < usize::from(ENTRIES) {
                    match drain(&ring, &mut avail, &mut taker, looks != 0).expect("a possible ring")
                    {
                        Next::Kick if taker.taken < usize::from(ENTRIES) => kick.wait(),
                        Next::Poll if taker.taken < usize::from(ENTRIES) => {
                            let mut left = looks;
                            // Ends: what is looked for comes, or there are no looks left.
                            let polled = loop {
                                left -= 1;
                                match poll(&ring, &mut avail, left != 0) {
                                    Polled::Nothing => thread::yield_now(),
                                    polled => break polled,
                                }
                            };
                            if polled == Polled::Over {
                                kick.wait();
                            }
                        }
                        Next::Kick | Next::Poll | Next::Soon => (),
                        other => panic!("{other:?} without a reason"),
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
                    used.add_used(&ring, head, len);
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

/// Two threads give chains back under one lock, each with its own decision, while the driver looks
/// for them and goes to sleep.
fn completions_against_suppression(setup: Setup) {
    const THREADS: usize = 2;
    model(move || {
        let (memory, mut driver, base) = setup.queue();
        let ring = memory.ring();
        let mut used = Used::new(&ring, base, setup.event_idx);
        let heads = heads(&mut driver, &ring, base);
        used.should_interrupt(&ring);
        let used = Arc::new(Mutex::new((used, ring)));
        let interrupt = Event::new();

        let completers = heads.into_iter().take(THREADS).map(|head| {
            let (used, interrupt) = (used.clone(), interrupt.clone());
            thread::spawn(move || {
                let must_signal = {
                    let (used, ring) = &mut *used.lock().expect("not poisoned");
                    used.add_used(ring, head, 5);
                    used.should_interrupt(ring)
                };
                if must_signal {
                    interrupt.signal();
                }
            })
        });
        let completers: Vec<_> = completers.collect();
        let mut given = 0;
        loop {
            driver.disable_interrupt();
            while let Some(entry) = driver.poll_used() {
                assert_eq!(entry.len, 5);
                given += 1;
            }
            if given == THREADS {
                break;
            }
            if !driver.enable_interrupt() {
                interrupt.wait();
            }
        }
        for completer in completers {
            completer.join().expect("a completion ends");
        }
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

/// The models with one setup.
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
                kick_against_sleep(SETUP, 0);
            }

            #[test]
            fn no_kick_is_lost_when_polling_ends() {
                kick_against_sleep(SETUP, 2);
            }

            #[test]
            fn no_interrupt_is_lost() {
                completion_against_suppression(SETUP);
            }

            #[test]
            fn no_interrupt_of_two_threads_is_lost() {
                completions_against_suppression(SETUP);
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

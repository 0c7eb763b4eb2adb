// SPDX-License-Identifier: GPL-2.0

//! A handler that records what it is asked to do, and answers each chain at once.

use std::collections::VecDeque;
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
        QueueSize,
        RingError, //
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
        Layout,
        Ram,
        RamPart, //
    },
};

/// A call of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A chain, counted from the first, and whether it is the last that is known.
    Handle(u32, bool),
    SkipEntry,
    /// With the number of chains that are expected.
    BeginBatch(u16),
    EndBatch,
    Refresh,
    SignalUsed,
}

/// An act of the driver during a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    /// Adds a chain.
    Adds,
    /// Ruins the ring.
    Ruins,
}

/// A queue with its driver, its device and a handler.
pub struct Queue<'a> {
    avail: Avail,
    ring: Ring<RamPart<'a>>,
    pub handler: Recorder<'a>,
}

/// Memory of a queue.
pub fn ram() -> Ram {
    Ram::new(0x8000)
}

/// The formats, each without and with the event index.
pub const SETUPS: [(Format, bool); 4] = [
    (Format::Split, false),
    (Format::Split, true),
    (Format::Packed, false),
    (Format::Packed, true),
];

impl<'a> Queue<'a> {
    /// A queue of 512 entries, close to the wrap.
    pub fn new(ram: &'a Ram, (format, event_idx): (Format, bool)) -> Self {
        let size = QueueSize::new(512).expect("a size");
        let layout = Layout::new(format, size, GuestAddr(0x100));
        let driver = Driver::starting_at(ram, layout, event_idx, 65500);
        let base = Base {
            avail: 65500,
            used: 65500,
        };
        let ring = ram.ring(&layout);
        let mut queue = Self {
            avail: Avail::new(&ring, base, event_idx),
            handler: Recorder {
                used: Used::new(&ring, base, event_idx),
                driver,
                calls: Vec::new(),
                handled: 0,
                results: VecDeque::new(),
                ready: VecDeque::new(),
                on_handle: VecDeque::new(),
                on_signal: VecDeque::new(),
            },
            ring,
        };
        // What a driver is told before the first drain is not known.
        assert_eq!(queue.drain(), Ok(Next::Kick));
        queue.handler.calls.clear();
        queue
    }

    /// As [`Self::new`], with so many chains.
    pub fn with_chains(ram: &'a Ram, setup: (Format, bool), chains: u32) -> Self {
        let mut queue = Self::new(ram, setup);
        queue.handler.add(chains);
        queue
    }

    pub fn drain(&mut self) -> Result<Next, RingError> {
        drain(&self.ring, &mut self.avail, &mut self.handler, false)
    }

    /// Drains, to be polled afterwards.
    pub fn drain_to_poll(&mut self) -> Result<Next, RingError> {
        drain(&self.ring, &mut self.avail, &mut self.handler, true)
    }

    pub fn poll(&mut self, goes_on: bool) -> Polled {
        poll(&self.ring, &mut self.avail, goes_on)
    }

    /// The calls since the last time.
    pub fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.handler.calls)
    }

    /// The number of chains that were handled since the last time, and of signals.
    pub fn counts(&mut self) -> (usize, usize) {
        let calls = self.calls();
        let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
        (
            count(|call| matches!(call, Call::Handle(..))),
            count(|call| *call == Call::SignalUsed),
        )
    }
}

pub struct Recorder<'a> {
    used: Used,
    pub driver: Driver<&'a Ram>,
    pub calls: Vec<Call>,
    handled: u32,
    /// Results for the next chains, then `Taken(0)`.
    pub results: VecDeque<Handled>,
    /// Answers to the next questions whether a request can be taken, then `true`.
    pub ready: VecDeque<bool>,
    /// Acts of the driver while the next chains are handled; it is idle afterwards.
    pub on_handle: VecDeque<Meanwhile>,
    /// Acts of the driver at the next signals; it is idle afterwards.
    pub on_signal: VecDeque<Meanwhile>,
}

impl Recorder<'_> {
    /// Makes chains of one buffer available.
    pub fn add(&mut self, chains: u32) {
        for _ in 0..chains {
            let buf = Buf::readable(GuestAddr(0), 1);
            self.driver.add(&[buf]).expect("a free descriptor");
        }
        self.driver.publish();
    }

    fn meanwhile(&mut self, what: Option<Meanwhile>) {
        match what {
            None | Some(Meanwhile::Nothing) => (),
            Some(Meanwhile::Adds) => self.add(1),
            Some(Meanwhile::Ruins) => match &mut self.driver {
                Driver::Split(driver) => {
                    driver.write_avail_index(driver.next_avail().wrapping_add(600))
                }
                // All descriptors go on, so that no chain has an end.
                Driver::Packed(driver) => {
                    for position in 0..512 {
                        let position = driver.next_avail().wrapping_add(position);
                        driver.write_flags(position, driver.avail_flags(position) | 1);
                    }
                }
            },
        }
    }
}

impl<'a> HandleChain<RamPart<'a>> for Recorder<'a> {
    fn is_ready(&mut self) -> bool {
        self.ready.pop_front().unwrap_or(true)
    }

    fn handle(&mut self, ring: &Ring<RamPart<'a>>, head: Head, is_last: bool) -> Handled {
        assert!(!self.driver.device_waits(), "kicks are asked for");
        self.calls.push(Call::Handle(self.handled, is_last));
        self.handled += 1;
        let result = self.results.pop_front().unwrap_or(Handled::Taken(0));
        if matches!(result, Handled::Taken(_)) {
            self.used.add_used(ring, head, 0);
            self.driver.poll_used().expect("an answer");
        }
        let what = self.on_handle.pop_front();
        self.meanwhile(what);
        result
    }

    fn skip_entry(&mut self) {
        self.calls.push(Call::SkipEntry);
    }

    fn in_batch<R>(&mut self, chains: u16, submit: impl FnOnce(&mut Self) -> R) -> R {
        self.calls.push(Call::BeginBatch(chains));
        let result = submit(self);
        self.calls.push(Call::EndBatch);
        result
    }

    fn refresh(&mut self) {
        self.calls.push(Call::Refresh);
    }

    fn used_position(&self) -> u16 {
        self.used.position()
    }

    fn signal_used(&mut self) {
        self.calls.push(Call::SignalUsed);
        let what = self.on_signal.pop_front();
        self.meanwhile(what);
    }
}

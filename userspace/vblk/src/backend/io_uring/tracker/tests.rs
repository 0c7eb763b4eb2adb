// SPDX-License-Identifier: GPL-2.0

//! Processes that are killed after any store to the notes or the ring, and others that go on.

use super::{super::memory::RingPart, BadNotes, Taken, Tracker};
use crate::{
    backend::{queue_bytes, tracking::killed, TrackingMemory},
    memory::Memory,
    testing::Guest,
};
use std::{
    collections::HashMap,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::Arc,
};
use vblk_core::{
    addr::GuestAddr,
    chain::{max_segments, Segment},
    memory::{Fault, ReadGuest},
    queue::{Parts, Popped, QueueSize},
    ring::{Avail, Base, Format, Ring, Used},
    testing::{Buf, Driver, Layout},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion};

const ENTRIES: u32 = 16;
const BYTES: usize = 1 << 16;

/// A generator of random numbers (xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// There are no indirect tables here.
struct Nothing;

impl ReadGuest for Nothing {
    fn read(&self, _: GuestAddr, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::OutsideTable)
    }
}

/// A driver, and what it knows of each chain that it has not back: its buffers, and when it was last
/// taken.
struct World {
    memory: Memory,
    notes: Arc<MmapRegion>,
    driver: Driver<Guest>,
    chains: HashMap<u32, (Vec<Buf>, u64)>,
    rng: Rng,
    clock: u64,
}

impl World {
    fn new(format: Format, seed: u64) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), BYTES)]);
        let memory = Memory::new(memory.expect("memory"));
        let size = QueueSize::new(ENTRIES).expect("a size");
        let layout = Layout::new(format, size, GuestAddr(0));
        let notes = MmapRegion::new(queue_bytes(format, size)).expect("memory");
        Self {
            driver: Driver::new(Guest(memory.clone()), layout, false),
            memory,
            notes: Arc::new(notes),
            chains: HashMap::new(),
            rng: Rng(seed * 2 + 1),
            clock: 0,
        }
    }

    fn notes(&self) -> TrackingMemory {
        let layout = self.driver.layout();
        TrackingMemory::of_queue(&self.notes, layout.format, layout.size, 0).expect("room")
    }

    /// Puts a chain into the ring that no other is like.
    fn add(&mut self) {
        self.clock += 1;
        let bufs: Vec<_> = (0..=self.rng.below(3))
            .map(|part| Buf::readable(GuestAddr(self.clock << 8 | part), 1 + part as u32))
            .collect();
        if let Some(id) = self.driver.add(&bufs) {
            self.driver.publish();
            let earlier = self.chains.insert(id.into(), (bufs, 0));
            assert!(earlier.is_none());
        }
    }

    /// Takes what was given back, each once.
    fn poll(&mut self) {
        while let Some(used) = self.driver.poll_used() {
            self.chains.remove(&used.id).expect("a chain that is out");
        }
    }
}

/// A process that serves the ring.
struct Process<'m> {
    ring: Ring<RingPart<'m>>,
    avail: Avail,
    used: Used,
    tracker: Tracker,
    held: Vec<Taken>,
}

impl<'m> Process<'m> {
    /// `told` is what a front-end believes that has lost the process before.
    fn begin(
        memory: &'m Memory,
        layout: &Layout,
        notes: TrackingMemory,
        told: Base,
    ) -> Result<Self, BadNotes> {
        let parts = layout.format.parts(layout.size);
        let part = |at: GuestAddr, bytes| {
            let slice = memory.get_slice(GuestAddress(at.0), bytes);
            RingPart(slice.expect("memory"))
        };
        let parts = Parts {
            desc: part(layout.desc, parts.desc.bytes),
            driver: part(layout.avail, parts.driver.bytes),
            device: part(layout.used, parts.device.bytes),
        };
        let ring = Ring::new(layout.format, layout.size, parts);
        let used = Used::new(&ring, told, false).position();
        let (tracker, recovered) = Tracker::begin(Some(notes), &ring, told, used)?;
        Ok(Self {
            avail: Avail::new(&ring, recovered.base, false),
            used: Used::new(&ring, recovered.base, false),
            ring,
            tracker,
            held: recovered.chains,
        })
    }

    /// Takes a chain, if there is one.
    fn take(&mut self, world: &mut World) -> bool {
        let popped = self.avail.pop(&self.ring, || self.used.position());
        let Popped::Chain(head) = popped.expect("a good ring") else {
            return false;
        };
        world.clock += 1;
        let id = u32::from(head.id());
        world.chains.get_mut(&id).expect("a chain that is out").1 = world.clock;
        let taken = self.tracker.take(&self.ring, head);
        self.held.push(taken);
        true
    }

    fn give_back(&mut self, at: usize) {
        let chain = self.held.swap_remove(at);
        let (used, ring) = (&mut self.used, &self.ring);
        self.tracker.give_back(chain, || {
            killed::may_be();
            used.add_used(ring, chain.head, 0);
            killed::may_be();
        });
    }

    /// Looks whether what was found is what was taken, in that order.
    fn check(&self, world: &World) {
        let mut before = 0;
        for chain in &self.held {
            let known = world.chains.get(&chain.head.id().into());
            let (bufs, taken_at) = known.expect("a chain that is out");
            assert!(*taken_at > before, "not in order");
            before = *taken_at;
            let mut segments = vec![Segment::default(); max_segments(self.ring.size())];
            let walked = self
                .tracker
                .walk(&self.ring, *chain, false, &Nothing, &mut segments)
                .expect("a good chain");
            let found: Vec<_> = walked
                .readable()
                .iter()
                .map(|it| (it.addr, it.len))
                .collect();
            let wanted: Vec<_> = bufs.iter().map(|buf| (buf.addr, buf.len)).collect();
            assert_eq!(found, wanted);
        }
    }

    /// Does something at random, again and again, or until it is killed.
    fn run(&mut self, world: &mut World, steps: u64) {
        for _ in 0..steps {
            match world.rng.below(4) {
                0 | 1 => {
                    world.add();
                    self.take(world);
                }
                2 if !self.held.is_empty() => {
                    let at = world.rng.below(self.held.len() as u64);
                    self.give_back(at as usize);
                }
                _ => world.poll(),
            }
        }
    }

    /// Gives everything back.
    fn finish(&mut self, world: &mut World) {
        while self.take(world) {}
        while !self.held.is_empty() {
            self.give_back(0);
        }
        world.poll();
        assert!(world.chains.is_empty(), "{:?} were lost", world.chains);
    }
}

fn outlive(format: Format, seed: u64) {
    let mut world = World::new(format, seed);
    let (memory, layout) = (world.memory.clone(), *world.driver.layout());
    let initial = Base::decode(format, layout.size, format.initial_base()).expect("a base");
    for _ in 0..20 {
        // What QEMU tells: of a split ring its used index, of a packed one something old.
        let told = match format {
            Format::Split => Base {
                avail: world.driver.used_index(),
                used: 0,
            },
            Format::Packed => initial,
        };
        let process = Process::begin(&memory, &layout, world.notes(), told);
        let mut process = process.expect("good notes");
        process.check(&world);
        let lives = world.rng.below(200);
        let ended = killed::after(lives, || {
            catch_unwind(AssertUnwindSafe(|| process.run(&mut world, 60)))
        });
        if ended.is_ok() && world.rng.below(2) == 0 {
            process.finish(&mut world);
        }
    }
    let told = Base {
        avail: world.driver.used_index(),
        used: 0,
    };
    let process = Process::begin(&memory, &layout, world.notes(), told);
    process.expect("good notes").finish(&mut world);
}

#[test]
fn nothing_is_lost_or_given_back_twice_by_a_killed_process() {
    for seed in 0..500 {
        outlive(Format::Split, seed);
        outlive(Format::Packed, seed);
    }
}

#[test]
fn notes_of_anyone_are_refused_or_bounded() {
    for format in [Format::Split, Format::Packed] {
        let mut refused = 0;
        for seed in 0..2000 {
            let mut world = World::new(format, seed);
            let (memory, layout) = (world.memory.clone(), *world.driver.layout());
            let initial = Base::decode(format, layout.size, format.initial_base()).expect("a base");
            let begin = |notes| Process::begin(&memory, &layout, notes, initial);
            let mut process = begin(world.notes()).expect("fresh notes");
            process.run(&mut world, 30);
            // Anything may be changed in any place.
            let notes = world.notes();
            for _ in 0..1 + world.rng.below(4) {
                let at = world.rng.below(queue_bytes(format, layout.size) as u64 / 2) as usize * 2;
                let value = match world.rng.below(2) {
                    0 => world.rng.below(20) as u16,
                    _ => world.rng.below(1 << 16) as u16,
                };
                notes.store(at, value);
            }
            match begin(world.notes()) {
                Ok(mut process) => {
                    assert!(process.held.len() <= ENTRIES as usize);
                    while !process.held.is_empty() {
                        process.give_back(0);
                    }
                }
                Err(BadNotes) => refused += 1,
            }
        }
        assert!(refused > 20, "{refused} of 2000 refused");
    }
}

#[test]
fn a_ring_that_is_longer_than_its_notes_is_refused() {
    let world = World::new(Format::Split, 0);
    let mut layout = *world.driver.layout();
    layout.size = QueueSize::new(2 * ENTRIES).expect("a size");
    let begun = Process::begin(
        &world.memory,
        &layout,
        world.notes(),
        Base { avail: 0, used: 0 },
    );
    assert!(matches!(begun, Err(BadNotes)));
}

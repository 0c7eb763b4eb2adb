// SPDX-License-Identifier: GPL-2.0

//! A guest that changes everything while it is being read: descriptors, headers, indices, indirect
//! tables. What the device then does is anybody's guess, but it stays within what any mixture of the
//! old and the new could mean, in memory and on the disk.

use crate::{
    memory::{GuestMemory, HIGH, MIDDLE},
    prelude::*,
    rng::Rng,
};
use std::{
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use vblk_core::{chain::MAX_INDIRECT, features::bit, ring::Format, testing::Layout, uapi::Stats};

pub const TESTS: &[Test] = tests!["harness":
    a_guest_that_changes_its_mind_all_the_time(60),
];

/// Entries of the ring.
const SIZE: u32 = 64;

/// Start of the buffers, headers and tables: the beginning of each of 64 places, 64 KiB apart, so
/// that an address in which some bytes are old and some are new is one of theirs too.
const FIRST: u64 = 16 << 20;
const PLACES: u64 = 64;
const APART: u64 = 64 << 10;

/// No buffer reaches further than that: offset and length, each of any mixture of bytes.
const REACH: u64 = 0x300 + 0x1f00;

/// Sectors that a header may name, but for those beyond any disk.
const SECTORS: u64 = 4096;

/// Bytes of the disk that the device may write: an indirect table may be longer than the ring.
const WINDOW: usize = (SECTORS * 512) as usize + MAX_INDIRECT as usize * REACH as usize;

const CANARY: u8 = 0x6D;

const _: () = assert!(FIRST + PLACES * APART <= MIDDLE.guest + MIDDLE.bytes as u64);

fn a_guest_that_changes_its_mind_all_the_time(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let behind = vec![CANARY; 8 << 20];
    disk.write(WINDOW.next_multiple_of(4096) as u64, &behind)?;
    // What ranges say is data, and so anything.
    let setup = Setup {
        queues: 2,
        ..Setup::size(SIZE)
            .without(bit::BLK_DISCARD)
            .without(bit::BLK_WRITE_ZEROES)
            .without(bit::BLK_SECURE_ERASE)
    };
    let mut vm = Vm::new(&setup)?;
    for region in [MIDDLE, HIGH] {
        vm.memory
            .fill(GuestAddr(region.guest), region.bytes, CANARY);
    }
    let layout = *vm.queues[0].driver.layout();
    let stop = AtomicBool::new(false);
    let seconds = if context.long { 60 } else { 10 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let memory = vm.memory.clone();
    let over = thread::scope(|scope| {
        let mut rng = context.rng();
        let flipper = Flipper {
            memory: memory.clone(),
            layout,
            rng: Rng::new(rng.bits()),
        };
        scope.spawn(|| flipper.run(&stop));
        let mut over = || -> Outcome {
            // A slow machine gets the time it takes to see some of each; the test has a limit.
            while Instant::now() < end || !saw_some_of_each(&vm.device.stats()?) {
                round(&mut vm, &disk, &mut rng)?;
            }
            Ok(())
        };
        let over = over();
        stop.store(true, Relaxed);
        over.map_err(|error| error.to_string())
    });
    over?;
    check_memory(&memory);
    let kept = disk.read(WINDOW.next_multiple_of(4096) as u64, behind.len())?;
    assert!(kept == behind, "changed behind the window on the disk");
    Ok(())
}

fn saw_some_of_each(stats: &Stats) -> bool {
    let some = [stats.malformed, stats.bytes_written / 512, stats.flushes];
    some.iter().all(|count| *count > 5)
}

/// Kicks the queue that is being changed for a moment, while the other one is served
/// as ever. If the first one stopped, it is set up again by the next round.
fn round(vm: &mut Vm, disk: &Disk, rng: &mut Rng) -> Outcome {
    let base = vm.queues[1].driver.base();
    vm.device.set_vring_base(1, base)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let read = read.data(GuestAddr(header.0 + 512), 512);
    for _ in 0..rng.within(5..40) {
        vm.queues[0].kick();
        assert_eq!(vm.queues[1].request(&read), Answer::new(OK, 513));
    }
    vm.queues[0].err.take()?;
    vm.device.detach()?;
    // The ring is given back whole, however it was left: in a split one that is up to the index.
    if vm.queues[0].driver.layout().format == Format::Split {
        let used = vm
            .memory
            .load_acquire_u16(vm.queues[0].driver.layout().used_index());
        vm.device.set_vring_base(0, used.into())?;
        vm.queues[0].driver.split().write_avail_index(used);
    }
    Ok(())
}

fn check_memory(memory: &GuestMemory) {
    memory.check_guards();
    let places = (0..PLACES).map(|place| FIRST + place * APART);
    let mut from = MIDDLE.guest;
    for place in places.chain([MIDDLE.guest + MIDDLE.bytes as u64]) {
        let bytes = memory.read_vec(GuestAddr(from), (place - from) as usize);
        let touched = bytes.iter().position(|byte| *byte != CANARY);
        assert_eq!(touched, None, "behind {from:#x}");
        from = place + REACH;
    }
    let high = memory.read_vec(GuestAddr(HIGH.guest), HIGH.bytes);
    assert!(high.iter().all(|byte| *byte == CANARY), "above 4 GiB");
}

/// Changes things.
struct Flipper {
    memory: Arc<GuestMemory>,
    layout: Layout,
    rng: Rng,
}

impl Flipper {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            for _ in 0..64 {
                match self.rng.bits() % 8 {
                    0 | 1 => self.flip_ring(),
                    2 => self.flip_chain(),
                    3 | 4 => self.flip_header(),
                    5 | 6 => self.flip_table(),
                    _ => self.flip_index(),
                }
            }
        }
    }

    fn place(&mut self) -> u64 {
        FIRST + self.rng.within(0..PLACES) * APART
    }

    /// A descriptor: address, length, then the two halves that differ by format.
    fn words(&mut self) -> (u64, u32, u16, u16) {
        let rng = &mut self.rng;
        let offsets = [0, 0, 0, 1, 0x10, 0x200];
        let lens = [0, 1, 0x10, 0x10, 0x200, 0x200, 0x400, 0x1000];
        let addr = match rng.one_in(30) {
            true => 0x7fff_ffff_0000_0000,
            false => self.place() + offsets[self.rng.index(0..offsets.len())],
        };
        let rng = &mut self.rng;
        let len = lens[rng.index(0..lens.len())];
        let flags = [0, 1, 1, 1, 2, 2, 3, 3, 4];
        let flags = flags[rng.index(0..flags.len())];
        let next = rng.within(0..u64::from(SIZE) + 1) as u16;
        (addr, len, flags, next)
    }

    fn flip_ring(&mut self) {
        let words = self.words();
        let at = self.rng.within(0..SIZE.into()) as u16;
        let turn = [0x80, 0x8000, 0x80, 0x8000, 0, 0x8080];
        let turn = turn[self.rng.index(0..turn.len())];
        self.write(at, words, turn);
    }

    /// Writes what looks like a request, for a moment.
    fn flip_chain(&mut self) {
        let first = self.rng.within(0..u64::from(SIZE) - 2) as u16;
        let direction = if self.rng.one_in(2) { 3 } else { 1 };
        let turn = if self.rng.one_in(2) { 0x80 } else { 0x8000 };
        let parts = [(16, 1), (512, direction), (1, 2)];
        for (index, (len, flags)) in (first..first + 3).zip(parts).rev() {
            let words = (self.place(), len, flags, index + 1);
            self.write(index, words, turn);
        }
    }

    fn write(&self, index: u16, (addr, len, flags, next): (u64, u32, u16, u16), turn: u16) {
        let at = self.layout.descriptor(index).0;
        self.memory.write(GuestAddr(at), &addr.to_le_bytes());
        self.memory.write(GuestAddr(at + 8), &len.to_le_bytes());
        let (a, b) = match self.layout.format {
            Format::Split => (flags, next),
            Format::Packed => (next, turn | flags),
        };
        self.memory.store_u16(GuestAddr(at + 12), a);
        self.memory.store_release_u16(GuestAddr(at + 14), b);
    }

    fn flip_table(&mut self) {
        let (addr, len, flags, next) = self.words();
        let (a, b) = match self.layout.format {
            Format::Split => (flags, next % 8),
            Format::Packed => (next, flags),
        };
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(a.to_le_bytes());
        bytes.extend(b.to_le_bytes());
        let at = self.place() + self.rng.within(0..8) * 16;
        self.memory.write(GuestAddr(at), &bytes);
    }

    /// Sectors of the window, or so far away that half of the number is enough.
    fn flip_header(&mut self) {
        let kinds = [0, 1, 1, 4, 8, 99];
        let kind = kinds[self.rng.index(0..kinds.len())];
        let sector = match self.rng.one_in(4) {
            true => 0x7f00_0000_0000_0000,
            false => self.rng.within(0..SECTORS),
        };
        let at = GuestAddr(self.place());
        let header = BlockRequest::new(kind, sector, at, at).header_bytes();
        self.memory.write(at, &header);
    }

    fn flip_index(&mut self) {
        let Layout { format, .. } = self.layout;
        if format == Format::Packed {
            // The driver's event suppression.
            let (at, flags) = (self.rng.bits() as u16, self.rng.within(0..4) as u16);
            self.memory.store_u16(self.layout.avail, at);
            self.memory
                .store_u16(GuestAddr(self.layout.avail.0 + 2), flags);
            return;
        }
        for _ in 0..8 {
            let at = self.layout.avail_entry(self.rng.bits() as u16);
            let head = self.rng.within(0..u64::from(SIZE) + 2) as u16;
            self.memory.store_u16(at, head);
        }
        let at = self.layout.avail_index();
        let index = self.memory.load_u16(at);
        let ahead = match self.rng.one_in(2000) {
            true => self.rng.bits() as u16,
            false => self.rng.within(0..8) as u16,
        };
        let used = self.memory.load_acquire_u16(self.layout.used_index());
        // Not further than the ring is long, as far as we know.
        if index.wrapping_sub(used) < SIZE as u16 - 8 || ahead > 8 {
            self.memory.store_release_u16(at, index.wrapping_add(ahead));
        }
        self.memory
            .store_u16(self.layout.used_event(), self.rng.bits() as u16);
    }
}

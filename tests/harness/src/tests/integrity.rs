// SPDX-License-Identifier: GPL-2.0

//! Data integrity: random reads and writes in random layouts, compared byte for byte with a model
//! of the disk and with what is on it in the end.

use crate::{
    area::{Area, Io, Kind, Placed},
    device::Device,
    disk::{Delays, NullBlk, TestDisk},
    memory::MIDDLE,
    prelude::*,
    rng::Rng,
};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};
use vblk_core::{features::bit, uapi::FORK_OWNER_KTHREAD};

pub const TESTS: &[Test] = tests!["harness":
    integrity_on_ramdisk(60),
    integrity_on_null_blk(60),
    integrity_on_null_blk_with_interrupts(60),
    integrity_on_4k_blocks(60),
    integrity_on_loop(60),
    integrity_on_dm_delay(60),
    integrity_without_event_idx_and_indirect(60),
    integrity_on_several_queues(60),
    integrity_on_4k_blocks_with_alignment(60),
    integrity_with_completions_in_another_thread(60),
    integrity_of_requests_larger_than_a_bio(60),
];

/// Tests of who works, which is /dev/vhost-blk-rs's to choose.
pub const OF_WORKERS: &[Test] = tests!["harness":
    integrity_with_two_workers(60),
    integrity_with_a_worker_for_each_queue(60),
    integrity_with_a_kernel_thread(60),
];

/// Tests that are not about rings.
pub const ON_SPLIT_RINGS: &[Test] = tests!["harness":
    integrity_on_an_image_file(60),
];

/// The part of the disk that is used, from its beginning.
const WINDOW: usize = 16 << 20;
const LONGEST: u64 = 48 << 10;
const SEGMENTS: usize = 128;
const MAX_DEPTH: usize = 256;
const REQUESTS: u64 = 3000;

/// A request that the device has.
struct InFlight {
    head: u16,
    placed: Placed,
    kind: Kind,
    range: Range<usize>,
    area: Area,
}

/// One driver that keeps the disk busy, and the model of what must be on it.
struct Exerciser<'a> {
    rng: Rng,
    vm: &'a mut Vm,
    disk: &'a Disk,
    block: usize,
    align: u64,
    indirect: bool,
    model: Vec<u8>,
    areas: Vec<Area>,
    /// Requests in flight on each queue.
    in_flight: Vec<Vec<InFlight>>,
    left: u64,
}

impl<'a> Exerciser<'a> {
    fn new(
        context: &Context,
        vm: &'a mut Vm,
        disk: &'a Disk,
        indirect: bool,
    ) -> Result<Self, Errno> {
        let memory = (GuestAddr(MIDDLE.guest), MIDDLE.bytes as u64);
        let window = WINDOW.min(disk.bytes()? as usize);
        Ok(Self {
            rng: context.rng(),
            disk,
            block: disk.block_size()? as usize,
            align: disk.safe_alignment()?,
            indirect,
            model: disk.read(0, window)?,
            areas: Area::split(memory.0, memory.1, MAX_DEPTH),
            in_flight: vm.queues.iter().map(|_| Vec::new()).collect(),
            left: context.times(REQUESTS),
            vm,
        })
    }

    /// Performs all requests and compares the disk with the model.
    fn run(mut self) -> Outcome {
        while self.left > 0 {
            let depth = match self.rng.bits() % 3 {
                0 => 1,
                1 => self.rng.index(1..33),
                _ => self.rng.index(1..MAX_DEPTH + 1),
            };
            // Some rounds at each depth, so that it is reached and kept.
            for _ in 0..self.rng.index(1..64) {
                self.fill_up(depth);
                self.reap_some();
            }
        }
        while self.in_flight.iter().any(|queue| !queue.is_empty()) {
            self.reap_some();
        }
        let stats = self.vm.device.stats()?;
        assert_eq!((stats.malformed, stats.io_errors), (0, 0));
        let bytes = self.disk.read(0, self.model.len())?;
        assert_same(&bytes, &self.model, "the disk in the end", 0);
        Ok(())
    }

    fn fill_up(&mut self, depth: usize) {
        let queue = self.rng.index(0..self.vm.queues.len());
        while self.left > 0 && self.in_flight.iter().map(Vec::len).sum::<usize>() < depth {
            if !self.start(queue) {
                break;
            }
            self.left -= 1;
        }
        self.vm.queues[queue].notify();
    }

    /// Adds one request. `false` when there is no room, or what was thought of would meet a
    /// request that is under way, with an outcome that is not defined.
    fn start(&mut self, queue: usize) -> bool {
        let blocks = self.rng.index(1..LONGEST as usize / self.block + 1);
        let len = if self.rng.one_in(2) {
            self.block
        } else {
            blocks * self.block
        };
        let first = self.rng.index(0..(self.model.len() - len) / self.block + 1) * self.block;
        let range = first..first + len;
        let kind = if self.rng.one_in(2) {
            Kind::Read
        } else {
            Kind::Write
        };
        let mut others = self.in_flight.iter().flatten();
        if others.any(|other| {
            let meets = other.range.start < range.end && range.start < other.range.end;
            meets && (kind == Kind::Write || other.kind == Kind::Write)
        }) {
            return false;
        }
        let Some(area) = self.areas.pop() else {
            return false;
        };
        let io = Io {
            kind,
            sector: (first / 512) as u64,
            len: len as u32,
        };
        let placed = area.place(&mut self.rng, &io, SEGMENTS, self.align);
        let data = self.rng.bytes(len);
        placed.scatter(&*self.vm.memory, &data);
        let indirect = self.indirect && self.rng.one_in(2);
        let Some(head) = placed.add(&mut self.rng, &mut self.vm.queues[queue], indirect) else {
            self.areas.push(area);
            return false;
        };
        if kind == Kind::Write {
            self.model[range.clone()].copy_from_slice(&data);
        }
        self.in_flight[queue].push(InFlight {
            head,
            placed,
            kind,
            range,
            area,
        });
        true
    }

    /// Waits for one answer on each queue that has requests, and takes what else is there.
    fn reap_some(&mut self) {
        for queue in 0..self.in_flight.len() {
            if self.in_flight[queue].is_empty() {
                continue;
            }
            let mut used = Some(self.vm.queues[queue].next_used());
            while let Some(entry) = used {
                let mut flying = self.in_flight[queue].iter();
                let at = flying.position(|one| u32::from(one.head) == entry.id);
                let done = self.in_flight[queue].swap_remove(at.expect("a request of ours"));
                self.check(&done, entry.len);
                self.areas.push(done.area);
                used = self.vm.queues[queue].driver.poll_used();
            }
        }
    }

    fn check(&self, done: &InFlight, len: u32) {
        let status = self.vm.memory.read_u8(done.placed.request.status);
        let written = match done.kind {
            Kind::Read => done.range.len() as u32 + 1,
            Kind::Write => 1,
        };
        assert_eq!(
            Answer::new(status, len),
            Answer::new(OK, written),
            "{:?}",
            done.placed
        );
        if done.kind == Kind::Read {
            let data = done.placed.gather(&*self.vm.memory);
            assert_same(
                &data,
                &self.model[done.range.clone()],
                "a read",
                done.range.start,
            );
        }
    }
}

/// Compares without printing megabytes.
fn assert_same(got: &[u8], expected: &[u8], what: &str, start: usize) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    if let Some(at) = (0..got.len()).find(|at| got[*at] != expected[*at]) {
        let end = (at + 16).min(got.len());
        let wrong = got.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!(
            "{what}: {wrong} of {} bytes differ, the first at {at:#x} ({:#x} on the disk): \
             {:02x?} instead of {:02x?}",
            got.len(),
            start + at,
            &got[at..end],
            &expected[at..end],
        );
    }
}

fn exercise(context: &Context, disk: &Disk, setup: &Setup) -> Outcome {
    let mut vm = Vm::with_disk(setup, disk)?;
    let indirect = setup.features >> bit::RING_INDIRECT_DESC & 1 != 0;
    Exerciser::new(context, &mut vm, disk, indirect)?.run()
}

fn integrity_on_ramdisk(context: &Context) -> Outcome {
    exercise(context, &Disk::ram(), &Setup::size(1024))
}

fn integrity_on_null_blk(context: &Context) -> Outcome {
    exercise(
        context,
        &Disk::null(&NullBlk::default())?,
        &Setup::size(1024),
    )
}

fn integrity_on_null_blk_with_interrupts(context: &Context) -> Outcome {
    let delay = Some(Duration::from_micros(100));
    let disk = Disk::null(&NullBlk {
        delay,
        ..NullBlk::default()
    })?;
    exercise(context, &disk, &Setup::size(1024))
}

fn integrity_on_4k_blocks(context: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk {
        block_size: 4096,
        ..NullBlk::default()
    })?;
    exercise(context, &disk, &Setup::size(256))
}

fn integrity_on_loop(context: &Context) -> Outcome {
    exercise(context, &Disk::looped(WINDOW as u64)?, &Setup::size(256))
}

fn integrity_on_an_image_file(context: &Context) -> Outcome {
    let disk = Disk::image(WINDOW as u64)?;
    let direct = disk.sysfs("loop/dio")?;
    assert_eq!(direct.trim(), "1", "past the page cache");
    let mut vm = Vm::with_disk(&Setup::size(256), &disk)?;
    let mut exerciser = Exerciser::new(context, &mut vm, &disk, true)?;
    // A filesystem takes its time.
    exerciser.left /= 4;
    exerciser.run()
}

fn integrity_on_dm_delay(context: &Context) -> Outcome {
    exercise(
        context,
        &Disk::delayed(WINDOW as u64, Delays { read: 2, write: 2 })?,
        &Setup::size(1024),
    )
}

fn integrity_without_event_idx_and_indirect(context: &Context) -> Outcome {
    let setup = Setup::size(512)
        .without(bit::RING_EVENT_IDX)
        .without(bit::RING_INDIRECT_DESC);
    // Also across the wrap of both indices.
    let setup = Setup {
        base: 65000,
        ..setup
    };
    exercise(context, &Disk::null(&NullBlk::default())?, &setup)
}

fn integrity_on_several_queues(context: &Context) -> Outcome {
    let setup = Setup {
        queues: 8,
        ..Setup::size(256)
    };
    exercise(context, &Disk::null(&NullBlk::default())?, &setup)
}

/// Buffers anywhere in memory: some are used in place, others are copied.
fn integrity_on_4k_blocks_with_alignment(context: &Context) -> Outcome {
    for dma_alignment in [511, 3] {
        let disk = Disk::counting(&TestDisk {
            block_size: 4096,
            physical_block_size: 4096,
            dma_alignment,
            ..TestDisk::DEFAULT
        })?;
        let mut vm = Vm::with_disk(&Setup::size(256), &disk)?;
        let mut exerciser = Exerciser::new(context, &mut vm, &disk, true)?;
        exerciser.left /= 2;
        exerciser.run()?;
    }
    Ok(())
}

/// Buffers anywhere in memory, on a disk that keeps its I/O until another thread completes some of
/// it.
fn integrity_with_completions_in_another_thread(context: &Context) -> Outcome {
    let disk = Disk::counting(&TestDisk {
        dma_alignment: 3,
        ..TestDisk::DEFAULT
    })?;
    let mut vm = Vm::with_disk(&Setup::size(256), &disk)?;
    let mut exerciser = Exerciser::new(context, &mut vm, &disk, true)?;
    exerciser.left /= 2;
    let hold = disk.hold()?;
    let over = AtomicBool::new(false);
    let mut rng = context.rng();
    thread::scope(|scope| {
        // Ends the thread after a panic, too.
        let _over = SetOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                hold.release(rng.within(0..8)).expect("release");
                thread::yield_now();
            }
        });
        exerciser.run().map_err(|error| error.to_string())
    })?;
    Ok(())
}

/// Sets a flag when it is dropped.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Requests on `queues` queues, which so many workers serve by turns.
fn on_workers(context: &Context, queues: u32, workers: u32) -> Outcome {
    let setup = Setup {
        queues,
        ..Setup::size(256)
    };
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::new(&setup)?;
    let mut ids = vec![vm.device.vring_worker(0)?];
    for _ in 1..workers {
        ids.push(vm.device.new_worker()?);
    }
    for (index, id) in (0..queues).zip(ids.into_iter().cycle()) {
        vm.device.attach_vring_worker(index, id)?;
    }
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    Exerciser::new(context, &mut vm, &disk, true)?.run()
}

fn integrity_with_two_workers(context: &Context) -> Outcome {
    on_workers(context, 4, 2)
}

fn integrity_with_a_worker_for_each_queue(context: &Context) -> Outcome {
    on_workers(context, 4, 4)
}

fn integrity_with_a_kernel_thread(context: &Context) -> Outcome {
    let device = Device::open()?;
    device.set_fork_from_owner(FORK_OWNER_KTHREAD)?;
    let disk = Disk::null(&NullBlk::default())?;
    let mut vm = Vm::on(device, &Setup::size(1024))?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    Exerciser::new(context, &mut vm, &disk, true)?.run()
}

/// Moves some MiB in one request: in one buffer, in buffers of a page, and in odd pieces where the
/// disk can be trusted with them.
fn integrity_of_requests_larger_than_a_bio(context: &Context) -> Outcome {
    let mut rng = context.rng();
    for disk in [Disk::ram(), Disk::null(&NullBlk::default())?] {
        let mut vm = Vm::with_disk(&Setup::size(2048), &disk)?;
        let header = vm.free();
        let status = GuestAddr(header.0 + 16);
        for (bytes, offset, piece) in [
            (257 << 12, 0, u32::MAX),
            (8 << 20, 0, u32::MAX),
            (8 << 20, 1, u32::MAX),
            (6 << 20, 2560, 4096),
            (5 << 20, 0, 4096),
            ((3 << 20) + 512, 777, 1631),
            (1 << 20, 3, 513),
        ] {
            let cut_by =
                |unit| offset % unit == 0 && (piece == u32::MAX || u64::from(piece) % unit == 0);
            if !cut_by(disk.safe_alignment()?) {
                continue;
            }
            let start = MIDDLE.guest + offset;
            let data = rng.bytes(bytes as usize);
            let mut write = BlockRequest::write(16, header, status);
            let mut read = BlockRequest::read(16, header, status);
            for done in (0..bytes).step_by(piece.min(bytes) as usize) {
                let len = (bytes - done).min(piece);
                write = write.data(GuestAddr(start + u64::from(done)), len);
                read = read.data(GuestAddr(start + u64::from(done)), len);
            }
            let what = format!("{bytes} bytes at +{offset} in pieces of {piece}");
            vm.memory.write(GuestAddr(start), &data);
            assert_eq!(
                vm.queue().request(&write),
                Answer::new(OK, 1),
                "write of {what}"
            );
            assert_same(&disk.read(8192, bytes as usize)?, &data, &what, 8192);
            vm.memory.fill(GuestAddr(start), bytes as usize, 0);
            assert_eq!(
                vm.queue().request(&read),
                Answer::new(OK, bytes + 1),
                "read of {what}"
            );
            let back = vm.memory.read_vec(GuestAddr(start), bytes as usize);
            assert_same(&back, &data, &what, 8192);
        }
    }
    Ok(())
}

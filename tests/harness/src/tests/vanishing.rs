// SPDX-License-Identifier: GPL-2.0

//! Disks that go away, and disks that keep everybody waiting.

use crate::{
    disk::{Delays, NullBlk, Target, RAM},
    fixtures::place::{Place, DATA},
    prelude::*,
};
use std::time::Duration;

pub const TESTS: &[Test] = tests!["harness":
    disk_that_disappears_under_load(60),
    targets_exchanged_under_load(60),
];

/// Tests of memory tables that are replaced while a disk is attached, with the ring where it was.
pub const ON_ANOTHER_TABLE: &[Test] = tests!["harness":
    requests_wait_for_a_suspended_disk(20),
];

/// Requests that are under way at once, on each queue.
const DEPTH: u64 = 128;
const LEN: u32 = 8192;

/// Requests on all queues of a device: reads of what is known to be there, and writes.
struct Load {
    vm: Vm,
    /// Distinguishes what is written this time.
    stamp: u8,
    /// Heads and slots of what is under way, by queue.
    flying: Vec<Vec<(u16, u64)>>,
    /// Slots of the writes that succeeded.
    written: Vec<u64>,
}

/// The content of a slot; what is read has stamp 0.
fn content(slot: u64, stamp: u8) -> u8 {
    (slot as u8).wrapping_mul(7) ^ stamp
}

/// Puts on a disk what will be read.
fn fill(disk: &Disk, queues: u64) -> Result<(), Errno> {
    let slots = (0..queues * DEPTH).map(|slot| content(slot, 0));
    let bytes: Vec<u8> = slots.flat_map(|byte| [byte; LEN as usize]).collect();
    disk.write(0, &bytes)
}

impl Load {
    fn new(disk: &Disk, queues: u32) -> Result<Self, Errno> {
        let setup = Setup::size(1024);
        Ok(Self {
            vm: Vm::with_disk(&Setup { queues, ..setup }, disk)?,
            stamp: 0,
            flying: vec![Vec::new(); queues as usize],
            written: Vec::new(),
        })
    }

    fn request(&self, slot: u64) -> BlockRequest {
        let header = GuestAddr(self.vm.free().0 + slot * 32);
        let status = GuestAddr(header.0 + 16);
        let data = GuestAddr(DATA.0 + slot * u64::from(LEN));
        let request = match slot % 2 {
            0 => BlockRequest::read(slot * 16, header, status),
            _ => BlockRequest::write(slot * 16, header, status),
        };
        request.data(data, LEN)
    }

    /// Puts [`DEPTH`] requests into each queue.
    fn submit(&mut self) {
        // Never 0, which is for what is read.
        self.stamp = self.stamp % u8::MAX + 1;
        self.written.clear();
        for queue in 0..self.flying.len() {
            for slot in (queue as u64 * DEPTH..).take(DEPTH as usize) {
                let request = self.request(slot);
                request.prepare(&*self.vm.memory);
                let byte = content(slot, self.stamp);
                let data = request.data[0].addr;
                self.vm.memory.fill(data, LEN as usize, byte);
                let head = self.vm.queues[queue].driver.add(&request.buffers());
                self.flying[queue].push((head.expect("room"), slot));
            }
            self.vm.queues[queue].notify();
        }
    }

    /// Takes `count` answers of a queue, which must be the truth, or tell of a failure. Gives how
    /// many are good.
    fn answers(&mut self, queue: usize, count: u64) -> u64 {
        (0..count).map(|_| u64::from(self.answer(queue))).sum()
    }

    /// Takes all answers that are due.
    fn all(&mut self) -> u64 {
        let queues = 0..self.flying.len();
        let all = queues.map(|queue| self.answers(queue, self.flying[queue].len() as u64));
        all.sum()
    }

    fn answer(&mut self, queue: usize) -> bool {
        let used = self.vm.queues[queue].next_used();
        let flying = &mut self.flying[queue];
        let at = flying.iter().position(|job| u32::from(job.0) == used.id);
        let (_, slot) = flying.swap_remove(at.expect("a request of ours"));
        let request = self.request(slot);
        let reads = request.kind == 0;
        let answer = Answer::new(self.vm.memory.read_u8(request.status), used.len);
        let failed = Answer::new(IOERR, u32::from(!reads));
        if answer == failed {
            return false;
        }
        let good = Answer::new(OK, if reads { LEN + 1 } else { 1 });
        assert_eq!(answer, good, "request {slot}");
        if reads {
            let bytes = self.vm.memory.read_vec(request.data[0].addr, LEN as usize);
            let right = bytes.iter().all(|byte| *byte == content(slot, 0));
            assert!(right, "request {slot}: success without the data");
        } else {
            self.written.push(slot);
        }
        true
    }

    /// Checks that the disk has what it said that it wrote.
    fn check(&self, disk: &Disk) -> Outcome {
        let bytes = disk.read(0, self.flying.len() * DEPTH as usize * LEN as usize)?;
        for slot in &self.written {
            let written = &bytes[*slot as usize * LEN as usize..][..LEN as usize];
            let byte = content(*slot, self.stamp);
            assert!(written.iter().all(|b| *b == byte), "write {slot} is lost");
        }
        Ok(())
    }
}

fn disk_that_disappears_under_load(context: &Context) -> Outcome {
    const QUEUES: u32 = 2;
    const ALL: u64 = QUEUES as u64 * DEPTH;
    let mut rng = context.rng();
    // At least one of either kind.
    for round in 0..context.rounds(context.times(6).max(2)) {
        let disk = Disk::null(&NullBlk {
            delay: (round % 2 == 0).then_some(Duration::from_micros(500)),
            ..NullBlk::default()
        })?;
        fill(&disk, QUEUES.into())?;
        let mut load = Load::new(&disk, QUEUES)?;
        load.submit();
        let before = rng.within(0..DEPTH);
        assert_eq!(load.answers(0, before), before);
        disk.cut_power()?;
        load.all();
        // What it said before it went is true. Nothing works without it, and all is answered.
        disk.restore_power()?;
        load.check(&disk)?;
        load.submit();
        assert_eq!(load.all(), 0, "without a disk");
        assert_eq!(load.vm.device.stats()?.requests, 2 * ALL);
        load.vm.device.detach()?;
        load.vm.attach(&disk.open(Mode::ReadWrite)?)?;
        load.submit();
        assert_eq!(load.all(), ALL, "with a disk again");
        load.check(&disk)?;
    }
    Ok(())
}

fn targets_exchanged_under_load(context: &Context) -> Outcome {
    const SECTORS: u64 = 2 * DEPTH * 16;
    let works = [Target::delay(
        RAM.as_ref(),
        SECTORS,
        Delays { read: 1, write: 1 },
    )];
    let fails = [Target::error(SECTORS)];
    fill(&Disk::ram(), 1)?;
    let disk = Disk::mapped(&works)?;
    let mut load = Load::new(&disk, 1)?;
    for _ in 0..context.rounds(5) {
        // Those in flight finish on the old target; then none works until there is a good one.
        load.submit();
        disk.load(&fails)?;
        load.all();
        load.submit();
        assert_eq!(load.all(), 0);
        load.submit();
        disk.load(&works)?;
        load.all();
        load.check(&disk)?;
        load.submit();
        assert_eq!(load.all(), DEPTH);
        load.check(&disk)?;
    }
    Ok(())
}

fn requests_wait_for_a_suspended_disk(context: &Context) -> Outcome {
    let disk = Disk::mapped(&[Target::linear(RAM.as_ref(), 0, 1 << 16)])?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let bytes = context.rng().bytes(4096);
    vm.memory.write(DATA, &bytes);
    let write = Place::of(&vm).write(0, 4096);
    disk.suspend()?;
    write.prepare(&*vm.memory);
    vm.queue().submit(&write.buffers());
    let interrupts = vm.queue().call.wait(Duration::from_millis(50))?;
    let used = vm.queue().driver.poll_used();
    // The VMM does not wait with it.
    let stats = vm.device.stats();
    let table = vm.device.set_mem_table(&vm.memory.table());
    let num = vm.device.set_vring_num(0, 256);
    // Before anything can fail here: to detach from a suspended disk is to wait for it.
    disk.resume()?;
    assert_eq!((interrupts, used), (0, None), "answered before it is done");
    assert_eq!(stats?.requests, 0);
    assert_eq!((table, num), (Ok(()), Err(Errno::EBUSY)));
    assert_eq!(vm.queue().next_used().len, 1);
    assert_eq!(vm.memory.read_u8(write.status), OK);
    assert!(disk.read(0, 4096)? == bytes);
    Ok(())
}

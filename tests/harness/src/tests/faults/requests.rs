// SPDX-License-Identifier: GPL-2.0

//! Requests that the worker has no memory for, whose pages can't be pinned, whose descriptors and
//! headers can't be copied, or whose I/O can't be submitted.

use crate::{
    disk::{Delays, Target, RAM},
    fail_nth::{FailNth, MOST},
    fixtures::place::{Place, DATA},
    memory::HIGH,
    oracle::{facts, WORKER},
    prelude::*,
};
use std::time::Instant;

pub const TESTS: &[Test] = tests!["harness":
    requests_survive_each_failure(60),
    requests_survive_each_failure_on_a_disk_that_answers_later(60),
];

/// The first part of the disk has this content, and all writes write the same again.
const CONTENT: usize = 2 << 20;
/// Place of zeroes on the disk, behind it.
const ZEROES: u64 = CONTENT as u64 / 512;

/// A request, and what is right for it.
struct Kind {
    name: &'static str,
    request: BlockRequest,
    indirect: bool,
    good: Answer,
    /// The length when it fails.
    failed: u32,
}

/// Memory that was not used yet: to pin it is to allocate it.
const FRESH: GuestAddr = GuestAddr(HIGH.guest);
const FRESH_BYTES: usize = 8192;

fn kinds(vm: &Vm) -> Vec<Kind> {
    let place = Place::of(vm);
    let table = |name, request: BlockRequest| {
        let reads = matches!(request.kind, 0 | 8);
        let bytes = request.data.iter().map(|buf| buf.len).sum::<u32>();
        Kind {
            name,
            indirect: false,
            good: Answer::new(OK, if reads { bytes + 1 } else { 1 }),
            failed: u32::from(!reads),
            request,
        }
    };
    let fresh =
        |addr: GuestAddr| BlockRequest::read(0, place.header, place.status).data(addr, 4096);
    let mut copied = place.read(0, 65536);
    let mut rest = copied.data[0];
    copied.data[0].len = 1001;
    rest.addr = GuestAddr(DATA.0 + 1001);
    rest.len -= 1001;
    copied.data.push(rest);
    let mut fresh_status = fresh(FRESH);
    fresh_status.status = GuestAddr(FRESH.0 + 4096);
    let zeroes = BlockRequest::new(13, 0, place.header, place.status);
    let mut kinds = vec![
        table("read", place.read(8, 4096)),
        table("read into fresh memory", fresh(FRESH)),
        table("status in fresh memory", fresh_status),
        table("write", place.write(8, 4096)),
        table("flush", BlockRequest::flush(place.header, place.status)),
        table(
            "identity",
            BlockRequest::get_id(place.header, place.status).data(DATA, 20),
        ),
        table("large read", place.read(0, 256 << 10)),
        table("read of several bios", place.read(0, 1040 << 10)),
        table("write of several bios", place.write(0, 1040 << 10)),
        table("read that is copied", copied.clone()),
        table("indirect descriptors", place.read(16, 8192)),
        table("zeroes", zeroes.data(GuestAddr(vm.free().0 + 4096), 32)),
    ];
    for kind in &mut kinds {
        kind.indirect = kind.name == "indirect descriptors";
    }
    kinds
}

impl Kind {
    /// Puts into guest memory what the request is about, and takes away what it must bring.
    fn prepare(&self, vm: &Vm, content: &[u8]) -> Result<(), Errno> {
        let (map, offset) = vm.memory.mapping(FRESH);
        map.discard(offset, FRESH_BYTES)?;
        let data = self.request.data.first().map(|buf| buf.addr);
        match self.request.kind {
            0 if data == Some(DATA) => vm.memory.fill(DATA, 4096, 0x77),
            1 => {
                let len = self.request.data[0].len as usize;
                let start = self.request.sector as usize * 512;
                vm.memory.write(DATA, &content[start..start + len]);
            }
            13 => {
                let range = |sector: u64| {
                    let mut bytes = [0; 16];
                    bytes[..8].copy_from_slice(&sector.to_le_bytes());
                    bytes[8..12].copy_from_slice(&1000u32.to_le_bytes());
                    bytes
                };
                let ranges = [range(ZEROES), range(ZEROES + 2000)].concat();
                vm.memory.write(self.request.data[0].addr, &ranges);
            }
            _ => {}
        }
        // Only then: a header or a status in memory that was discarded would be fresh no more.
        self.request.clone().preset_ok().prepare(&*vm.memory);
        if self.request.status.0 >= FRESH.0 {
            map.discard(offset, FRESH_BYTES)?;
        }
        Ok(())
    }

    /// Performs it. Returns `None` if the queue stops instead of an answer.
    fn perform(&self, vm: &mut Vm) -> Result<Option<Answer>, Errno> {
        let bufs = self.request.buffers();
        let table = GuestAddr(vm.free().0 + 8192);
        let queue = vm.queue();
        let head = match self.indirect {
            true => queue.driver.add_mixed(&[], table, &bufs),
            false => queue.driver.add(&bufs),
        };
        queue.notify();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = vm.queue().driver.poll_used() {
                assert_eq!(used.id, u32::from(head.expect("room")), "{}", self.name);
                let status = vm.memory.read_u8(self.request.status);
                return Ok(Some(Answer::new(status, used.len)));
            }
            if vm.device.stats()?.stopped_queues > 0 {
                return Ok(None);
            }
            assert!(Instant::now() < deadline, "{}: no answer", self.name);
            std::thread::yield_now();
        }
    }

    /// Returns whether it succeeded; fails if that is not true.
    fn judge(&self, answer: Option<Answer>, vm: &Vm, content: &[u8]) -> Result<bool, String> {
        // Where the guest can't be told of the failure, the queue stops.
        let Some(answer) = answer else {
            return Ok(false);
        };
        if answer == Answer::new(IOERR, self.failed) {
            return Ok(false);
        }
        if answer != self.good {
            return Err(format!("{answer:?}"));
        }
        if self.request.kind == 0 {
            let bytes: Vec<u8> = self
                .request
                .data
                .iter()
                .flat_map(|buf| vm.memory.read_vec(buf.addr, buf.len as usize))
                .collect();
            let start = self.request.sector as usize * 512;
            if bytes != content[start..start + bytes.len()] {
                return Err("success without the data".into());
            }
        }
        Ok(true)
    }
}

/// The device mapper, since null_blk has faults of its own that would be counted too.
const SECTORS: u64 = 8 << 11;

fn requests_survive_each_failure(context: &Context) -> Outcome {
    let target = Target::linear(RAM.as_ref(), 0, SECTORS);
    // Without memory for a large I/O, several ordinary ones do.
    sweep(context, target, &["large read"])
}

/// Here requests complete in another thread.
fn requests_survive_each_failure_on_a_disk_that_answers_later(context: &Context) -> Outcome {
    let target = Target::delay(RAM.as_ref(), SECTORS, Delays { read: 1, write: 1 });
    // Without memory for one more I/O, those at the disk come back first.
    sweep(context, target, &["large read", "write of several bios"])
}

/// Fails each allocation of each request in turn. The requests `may_survive` need not notice.
fn sweep(context: &Context, target: Target, may_survive: &[&str]) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::mapped(&[target])?;
    disk.may_fail()?;
    let content = context.rng().bytes(CONTENT);
    disk.write(0, &content)?;
    // Present, so that writing to it needs no memory of the disk's.
    disk.write(CONTENT as u64, &vec![1; 2 << 20])?;
    let file = disk.open(Mode::ReadWrite)?;
    let mut vm = Vm::new(&Setup::size(16))?;
    let workers = facts::threads_named(WORKER);
    let [worker] = workers.as_slice() else {
        return Err(format!("not one worker: {workers:?}").into());
    };
    let faults = FailNth::of(worker.pid)?;
    for kind in kinds(&vm) {
        let mut failures = 0;
        for nth in 1.. {
            assert!(nth < MOST, "{}: no end of failures", kind.name);
            vm.attach(&file)?;
            let first = Place::of(&vm).read(0, 512);
            assert_eq!(vm.queue().request(&first), Answer::new(OK, 513));
            kind.prepare(&vm, &content)?;
            faults.arm(nth)?;
            let answer = kind.perform(&mut vm)?;
            let failed = faults.disarm()?;
            let told = |error| format!("{}, fault {nth}: {error}", kind.name);
            let good = kind.judge(answer, &vm, &content).map_err(told)?;
            assert!(good || failed, "{}: failed without a fault", kind.name);
            failures += u32::from(!good);
            if answer.is_none() {
                vm.device.detach()?;
                vm.empty_ring()?;
                vm.attach(&file)?;
            }
            kind.prepare(&vm, &content)?;
            let again = kind.perform(&mut vm)?;
            let good = kind.judge(again, &vm, &content).map_err(told)?;
            assert!(
                good,
                "{}, fault {nth}: {again:?} without a fault",
                kind.name
            );
            vm.device.detach()?;
            if !failed {
                break;
            }
        }
        let survives = failures == 0;
        assert!(
            !survives || may_survive.contains(&kind.name),
            "{}: nothing failed",
            kind.name
        );
    }
    drop(vm);
    assert!(disk.read(0, CONTENT)? == content, "what is on the disk");
    Ok(())
}

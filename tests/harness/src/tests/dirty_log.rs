// SPDX-License-Identifier: GPL-2.0

//! The log of what the device writes to guest memory: a VMM that moves a guest to another host copies
//! again what is marked there, and nothing else.

use crate::{
    fixtures::{
        commands::assert_errno,
        in_flight::{await_taken, launch, transfer},
        place::{Place, DATA},
        vdpa::slow_disk,
    },
    memory::{GuestMemory, RegionSpec, HIGH, LOW, MIDDLE},
    prelude::*,
    rng::Rng,
    sys::map::{Access, Mapping},
    vm::Queue,
};
use std::{
    collections::BTreeSet,
    sync::{
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use vblk_core::{
    dirty_log::{bytes_for, LOG_PAGE},
    features::bit,
    testing::Buf,
    uapi::VRING_F_LOG,
};

pub const TESTS: &[Test] = tests!["harness":
    all_that_is_written_is_logged(60),
    a_copy_by_the_log_is_the_guest(60),
    logging_begins_when_it_says_so(40),
    logging_ends_when_it_says_so(20),
    logs_are_exchanged_under_load(60),
    logs_that_do_not_fit_are_refused(20),
];

const LOG_ALL: u64 = 1 << bit::LOG_ALL;
/// Bytes of the region that data goes to. Less than usual: all of memory is compared again and again.
const DATA_BYTES: usize = 8 << 20;

/// Returns guest memory with a hole, so that the log has one.
fn setup() -> Setup {
    let middle = RegionSpec {
        bytes: DATA_BYTES,
        ..MIDDLE
    };
    let high = RegionSpec {
        bytes: 1 << 20,
        ..HIGH
    };
    Setup {
        regions: vec![high, LOW, middle],
        ..Setup::default()
    }
}

/// Bytes behind a log that are not accessible.
const HOLE: usize = 256 << 10;

/// Numbers of pages of guest memory.
type Pages = BTreeSet<u64>;

/// A log, as a VMM has it.
struct Log {
    map: Mapping,
    /// Bytes that belong to it; what is mapped behind them is not accessible.
    bytes: usize,
}

impl Log {
    /// Creates a log for the memory of a machine, with nothing marked.
    fn new(vm: &Vm) -> Result<Self, Errno> {
        let blocks = vm.memory.blocks().into_iter();
        let last = blocks.map(|(at, bytes)| at.0 + bytes - 1).max();
        let bytes = bytes_for(GuestAddr(last.expect("some memory")));
        let bytes = bytes.next_multiple_of(LOG_PAGE) as usize;
        let map = Mapping::anonymous(bytes + HOLE)?;
        map.protect(bytes, HOLE, Access::None)?;
        Ok(Self { map, bytes })
    }

    /// Takes what is marked: a mark that comes meanwhile is there the next time.
    fn take(&self) -> Pages {
        let mut pages = Pages::new();
        for offset in (0..self.bytes).step_by(4) {
            if self.map.u32(offset).load(Relaxed) == 0 {
                continue;
            }
            let bits = self.map.u32(offset).swap(0, SeqCst);
            let marked = (0..32).filter(|bit| bits >> bit & 1 != 0);
            pages.extend(marked.map(|bit| offset as u64 * 8 + bit));
        }
        pages
    }
}

/// Has rings logged, or not, as a VMM does while the disk is attached.
fn log_rings(vm: &Vm, logs: bool) -> Result<(), Errno> {
    for queue in &vm.queues {
        let mut addr = queue.addr();
        if logs {
            addr.flags = 1 << VRING_F_LOG;
            addr.log_guest_addr = queue.driver.layout().used.0;
        }
        vm.device.set_vring_addr(&addr)?;
    }
    Ok(())
}

/// Begins to log.
fn begin(vm: &Vm, log: &Log) -> Result<(), Errno> {
    vm.device.set_log_base(log.map.addr())?;
    vm.device.set_features(setup().features | LOG_ALL)?;
    log_rings(vm, true)
}

/// Returns all of guest memory.
fn snapshot(memory: &GuestMemory) -> Vec<(u64, Vec<u8>)> {
    let blocks = memory.blocks().into_iter();
    blocks
        .map(|(at, bytes)| (at.0, memory.read_vec(at, bytes as usize)))
        .collect()
}

/// Returns the pages in which two snapshots differ.
fn changed(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) -> Pages {
    let mut pages = Pages::new();
    for ((at, before), (_, after)) in before.iter().zip(after) {
        let both = before
            .chunks(LOG_PAGE as usize)
            .zip(after.chunks(LOG_PAGE as usize));
        let differ = both
            .enumerate()
            .filter(|(_, (before, after))| before != after);
        pages.extend(differ.map(|(page, _)| at / LOG_PAGE + page as u64));
    }
    pages
}

/// Returns the pages that hold any of these bytes.
fn pages_of(at: GuestAddr, bytes: u64) -> impl Iterator<Item = u64> {
    at.0 / LOG_PAGE..=(at.0 + bytes - 1) / LOG_PAGE
}

/// Returns the pages that the device may write while it serves a chain.
fn writable(vm: &Vm, bufs: &[Buf]) -> Pages {
    let layout = vm.queues[0].driver.layout();
    let parts = layout.format.parts(layout.size);
    let buffers = bufs.iter().filter(|buf| buf.writable && buf.len > 0);
    let mut pages: Pages = buffers
        .flat_map(|buf| pages_of(buf.addr, buf.len.into()))
        .collect();
    pages.extend(pages_of(layout.used, parts.device.bytes as u64));
    pages.extend(pages_of(layout.desc, parts.desc.bytes as u64));
    pages
}

/// Serves a chain, whose header and status byte are there, and returns what changed and what was
/// marked meanwhile.
fn serve(vm: &mut Vm, log: &Log, bufs: &[Buf]) -> Result<(Pages, Pages), Errno> {
    vm.queue().await_wanted_kicks();
    vm.queue().driver.add(bufs).expect("room");
    // What the driver writes is another's to log.
    vm.queue().driver.publish();
    let before = snapshot(&vm.memory);
    log.take();
    vm.queue().kick();
    let end = Instant::now() + PATIENCE;
    while vm.queue().driver.used_index() != vm.queue().driver.next_avail() {
        assert!(Instant::now() < end, "not answered");
        thread::sleep(Duration::from_millis(1));
    }
    // The turn is over, at whose end the device asks for kicks.
    vm.device.vring_base(0)?;
    let changed = changed(&before, &snapshot(&vm.memory));
    let marked = log.take();
    vm.queue().driver.poll_used().expect("an answer");
    Ok((changed, marked))
}

/// Requests of each kind: what is written to the guest, and what is not.
fn requests(vm: &Vm) -> Vec<(&'static str, BlockRequest)> {
    let place = Place::of(vm);
    let at = |offset: u64| GuestAddr(DATA.0 + offset);
    let read = |sector| BlockRequest::read(sector, place.header, place.status);
    let mut range = [0; 16];
    range[8..12].copy_from_slice(&8u32.to_le_bytes());
    vm.memory.write(at(0), &range);
    let in_range = |kind: u32| place.of_type(kind).data(at(0), 16);
    vec![
        ("a read", read(0).data(at(8192), 4096)),
        ("a read of a sector", read(9).data(at(8192 + 512), 512)),
        ("a read over pages", read(0).data(at(8192 + 2048), 8192)),
        (
            "a read at odd addresses",
            read(0).data(at(8193), 1111).data(at(40961), 2985),
        ),
        (
            "a read into many pages",
            read(0).data(at(65536 + 512), 1 << 20),
        ),
        (
            "a read over the end of the disk",
            read(u64::MAX / 512).data(at(8192), 4096),
        ),
        ("a read of no whole sector", read(0).data(at(8192), 100)),
        ("a serial number", place.of_type(8).data(at(8192), 20)),
        (
            "a serial number in two pages",
            place.of_type(8).data(at(8192 - 3), 20),
        ),
        ("a write", place.write(0, 4096)),
        ("a flush", place.flush()),
        ("a discard", in_range(11)),
        ("zeroes", in_range(13)),
        ("a request of no type", place.of_type(99)),
    ]
}

/// Serves a chain, and compares what changed with what was marked.
fn check(vm: &mut Vm, log: &Log, name: &str, bufs: &[Buf]) -> Outcome {
    let (changed, marked) = serve(vm, log, bufs)?;
    assert!(!changed.is_empty(), "{name}: nothing changed");
    let missing: Vec<_> = changed.difference(&marked).collect();
    assert!(missing.is_empty(), "{name}: not marked: {missing:x?}");
    let writable = writable(vm, bufs);
    let too_many: Vec<_> = marked.difference(&writable).collect();
    assert!(too_many.is_empty(), "{name}: marked in vain: {too_many:x?}");
    Ok(())
}

fn all_that_is_written_is_logged(context: &Context) -> Outcome {
    let disk = Disk::ram();
    disk.write(0, &context.rng().bytes(2 << 20))?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let log = Log::new(&vm)?;
    vm.device.set_serial(b"the serial number 12")?;
    // So that the ring tells whether kicks are asked for.
    let first = Place::of(&vm).read(0, 4096);
    assert_eq!(vm.queue().request(&first), Answer::new(OK, 4097));
    begin(&vm, &log)?;
    for (name, request) in requests(&vm) {
        request.prepare(&*vm.memory);
        check(&mut vm, &log, name, &request.buffers())?;
    }
    let place = Place::of(&vm);
    let cut_off = [
        Buf::readable(place.header, 8),
        Buf::writable(place.status, 1),
    ];
    check(&mut vm, &log, "a header that is cut off", &cut_off)?;
    let no_status = [Buf::readable(place.header, 16)];
    check(&mut vm, &log, "no place for a status", &no_status)
}

/// Bytes of data of each request of a load.
const BYTES: u32 = 8192;
const SLOTS: u64 = 64;

/// Reads from anywhere to anywhere in the data's memory, some at a time.
fn read_at_random(queue: &mut Queue, place: GuestAddr, rng: &mut Rng) {
    let count = rng.within(1..SLOTS);
    for slot in 0..count {
        let header = GuestAddr(place.0 + slot * 32);
        let data = DATA.0 + rng.within(0..(DATA_BYTES as u64 - u64::from(BYTES)) / 512) * 512;
        let read = BlockRequest::read(rng.within(0..2048), header, GuestAddr(header.0 + 16));
        let read = read.data(GuestAddr(data), BYTES);
        read.prepare(queue.driver.memory());
        queue.driver.add(&read.buffers()).expect("room");
    }
    queue.notify();
    for _ in 0..count {
        queue.next_used();
    }
}

/// A copy of the data's memory, as it is made while the guest goes on.
struct Copy {
    memory: Arc<GuestMemory>,
    bytes: Vec<u8>,
}

impl Copy {
    /// Copies all.
    fn new(memory: &Arc<GuestMemory>) -> Self {
        Self {
            memory: memory.clone(),
            bytes: memory.read_vec(DATA, DATA_BYTES),
        }
    }

    /// Copies these pages again, if they are of data.
    fn update(&mut self, pages: &Pages) {
        let first = DATA.0 / LOG_PAGE;
        let end = first + DATA_BYTES as u64 / LOG_PAGE;
        for page in pages.range(first..end) {
            let now = self
                .memory
                .read_vec(GuestAddr(page * LOG_PAGE), LOG_PAGE as usize);
            let at = ((page - first) * LOG_PAGE) as usize;
            self.bytes[at..at + now.len()].copy_from_slice(&now);
        }
    }

    /// Compares with the data's memory, which does not change any more.
    fn check(&self) {
        let now = self.memory.read_vec(DATA, DATA_BYTES);
        let differ = now
            .iter()
            .zip(&self.bytes)
            .position(|(now, copy)| now != copy);
        assert_eq!(differ, None, "the copy is not the guest");
    }
}

fn a_copy_by_the_log_is_the_guest(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut rng = context.rng();
    disk.write(0, &rng.bytes(2 << 20))?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let free = vm.free();
    read_at_random(vm.queue(), free, &mut rng);
    let log = Log::new(&vm)?;
    begin(&vm, &log)?;
    let mut copy = Copy::new(&vm.memory);
    let runs = AtomicBool::new(true);
    thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let mut rounds = 0;
            while runs.load(Relaxed) {
                copy.update(&log.take());
                rounds += 1;
            }
            rounds
        });
        for _ in 0..context.times(200) {
            read_at_random(vm.queue(), free, &mut rng);
        }
        runs.store(false, Relaxed);
        let rounds = copier.join().expect("the copier ends");
        assert!(rounds > 1, "copied once only");
    });
    // The guest stands still, and all that is left is copied.
    vm.device.detach()?;
    copy.update(&log.take());
    copy.check();
    Ok(())
}

fn logging_begins_when_it_says_so(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    disk.write(0, &context.rng().bytes(1 << 20))?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let reads: Vec<_> = (0..8).map(|slot| transfer(&vm, slot, false)).collect();
    launch(&mut vm, &reads);
    await_taken(&vm)?;
    let log = Log::new(&vm)?;
    begin(&vm, &log)?;
    // A VMM copies everything from here on, and then what is marked.
    let mut copy = Copy::new(&vm.memory);
    for _ in &reads {
        vm.queue().next_used();
    }
    copy.update(&log.take());
    copy.check();
    Ok(())
}

fn logging_ends_when_it_says_so(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let free = vm.free();
    let log = Log::new(&vm)?;
    let mut rng = Rng::new(1);
    for _ in 0..3 {
        begin(&vm, &log)?;
        read_at_random(vm.queue(), free, &mut rng);
        vm.device.set_features(setup().features)?;
        assert!(!log.take().is_empty(), "nothing was logged");
        read_at_random(vm.queue(), free, &mut rng);
        vm.device.vring_base(0)?;
        assert_eq!(log.take(), Pages::new(), "logged after the end");
    }
    // A disk that is attached is logged from the beginning.
    vm.device.detach()?;
    vm.device.set_features(setup().features | LOG_ALL)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    log_rings(&vm, true)?;
    read_at_random(vm.queue(), free, &mut rng);
    assert!(!log.take().is_empty(), "nothing was logged");
    vm.device.detach()?;
    log.take();
    vm.device.set_features(setup().features)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    read_at_random(vm.queue(), free, &mut rng);
    vm.device.vring_base(0)?;
    assert_eq!(log.take(), Pages::new(), "logged without the feature");
    Ok(())
}

/// Two logs in turns, with rings that are logged or not: each write is in the log of its time.
fn logs_are_exchanged_under_load(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut rng = context.rng();
    disk.write(0, &rng.bytes(2 << 20))?;
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let logs = [Log::new(&vm)?, Log::new(&vm)?];
    begin(&vm, &logs[0])?;
    let mut copy = Copy::new(&vm.memory);
    let runs = AtomicBool::new(true);
    let (mut queue, free) = (vm.queues.remove(0), vm.free());
    thread::scope(|scope| -> Outcome {
        let exchanger = scope.spawn(|| -> Result<u32, Errno> {
            let mut rounds = 0;
            while runs.load(Relaxed) {
                let [old, new] = match rounds % 2 {
                    0 => [&logs[0], &logs[1]],
                    _ => [&logs[1], &logs[0]],
                };
                vm.device.set_log_base(new.map.addr())?;
                copy.update(&old.take());
                assert_eq!(old.take(), Pages::new(), "written after it was exchanged");
                vm.device.set_mem_table(&vm.memory.table())?;
                rounds += 1;
            }
            Ok(rounds)
        });
        for _ in 0..context.times(200) {
            read_at_random(&mut queue, free, &mut rng);
        }
        runs.store(false, Relaxed);
        let rounds = exchanger.join().expect("the exchanger ends")?;
        assert!(rounds > 1, "exchanged once only");
        Ok(())
    })?;
    vm.device.detach()?;
    for log in &logs {
        copy.update(&log.take());
    }
    copy.check();
    Ok(())
}

fn logs_that_do_not_fit_are_refused(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let mut vm = Vm::new(&setup())?;
    let free = vm.free();
    let logging = setup().features | LOG_ALL;
    vm.device.set_features(logging)?;
    assert_errno("attach without a log", vm.attach(&file), Errno::EFAULT);
    let log = Log::new(&vm)?;
    vm.device.set_log_base(log.map.addr() + 4)?;
    assert_errno("attach with a skewed log", vm.attach(&file), Errno::EINVAL);
    vm.device.set_features(setup().features)?;
    vm.attach(&file)?;
    // One page short of what the memory takes.
    let short = Log::new(&vm)?;
    let last = short.bytes - 4096;
    short.map.protect(last, 4096, Access::None)?;
    vm.device.set_log_base(short.map.addr())?;
    let result = vm.device.set_features(logging);
    assert_errno("a log that is too short", result, Errno::EFAULT);
    let result = vm.device.set_features(logging & !(1 << bit::BLK_FLUSH));
    assert_errno("another feature with it", result, Errno::EBUSY);
    begin(&vm, &log)?;
    let result = vm.device.set_log_base(short.map.addr());
    assert_errno("an exchange for a short log", result, Errno::EFAULT);
    let mut table = vm.memory.table();
    // So far up that the log would have to be longer.
    table[0].guest_phys_addr += 1 << 32;
    let result = vm.device.set_mem_table(&table);
    assert_errno("memory beyond the log", result, Errno::EFAULT);
    // All goes on as it was.
    let mut rng = Rng::new(1);
    read_at_random(vm.queue(), free, &mut rng);
    assert!(!log.take().is_empty(), "nothing was logged");
    Ok(())
}

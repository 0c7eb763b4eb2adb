// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is pinned when the memory table is set: its command, its account, when its pages
//! are given back, and that requests pin nothing. What requests do with it is tested by those tests
//! that run over both kinds of memory.

use crate::{
    child::{self, Role},
    context::NotApplicable,
    device::Device,
    disk::TestDisk,
    fixtures::{
        commands::assert_errno,
        in_flight::{large, LARGE_BYTES},
        place::Place,
    },
    memory::{GuestMemory, Kind, RegionSpec, HIGH, LOW, MIDDLE, REGIONS},
    oracle::facts,
    prelude::*,
    sys::{
        map::{Access, Mapping},
        process, system,
    },
};
use std::{
    error::Error,
    fs::File,
    os::fd::AsFd,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use vblk_core::uapi::MemoryRegion;

pub const TESTS: &[Test] = tests!["harness":
    arguments_of_memory_pinned(20),
    memory_is_pinned_on_request_only(20),
    pinned_memory_counts_as_locked(20),
    pinned_memory_beyond_the_locked_limit(20),
    pinned_regions_must_be_mapped_for_writing(20),
    requests_pin_nothing_in_pinned_memory(20),
    pinned_memory_needs_no_page_tables(20),
    pinned_memory_is_kept_for_requests_in_flight(40),
    pinned_pages_are_given_back_with_their_table(40),
    pinned_memory_is_looked_up_anew_in_another_table(20),
    a_huge_page_is_one_vector(40),
];

pub const ROLES: &[Role] = &[COUNTED, LIMITED];

const COUNTED: Role = Role {
    name: "pinned-counted",
    run: count,
};
const LIMITED: Role = Role {
    name: "pinned-limited",
    run: exceed,
};

const PAGE: u64 = 4096;

/// Bytes of the usual regions.
const ALL: u64 = (LOW.bytes + MIDDLE.bytes + HIGH.bytes) as u64;

/// A device without a memory table, whose memory will be pinned.
fn pinned() -> Result<Device, Errno> {
    let device = Device::open()?;
    device.set_owner()?;
    device.set_memory_pinned(1)?;
    Ok(device)
}

/// A device whose memory is pinned, with a disk.
fn with_disk(setup: &Setup, disk: &Disk) -> Result<Vm, Errno> {
    let vm = Vm::new(setup)?;
    vm.device.set_memory_pinned(1)?;
    vm.device.set_mem_table(&vm.memory.table())?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    Ok(vm)
}

fn arguments_of_memory_pinned(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::new(&Setup::default())?;
    for value in [2, 3, 1 << 16, u32::MAX] {
        assert_errno("value", vm.device.set_memory_pinned(value), Errno::EINVAL);
    }
    // A refused one changes nothing: the table is still there.
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    for value in [0, 1] {
        assert_errno("attached", vm.device.set_memory_pinned(value), Errno::EBUSY);
    }
    vm.device.detach()?;
    // The table goes with each of them.
    for value in [1, 0, 1] {
        vm.device.set_memory_pinned(value)?;
        let file = disk.open(Mode::ReadWrite)?;
        assert_errno("no table", vm.attach(&file), Errno::EFAULT);
        vm.device.set_mem_table(&vm.memory.table())?;
        vm.attach(&file)?;
        let read = Place::of(&vm).read(0, 4096);
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{value}");
        vm.device.detach()?;
    }
    // It goes with the owner.
    vm.device.reset_owner()?;
    vm.device.set_owner()?;
    let before = facts::pins_held();
    vm.device.set_mem_table(&vm.memory.table())?;
    assert_eq!(facts::pins_held(), before, "pinned for the next owner");
    Ok(())
}

fn memory_is_pinned_on_request_only(_: &Context) -> Outcome {
    let memory = GuestMemory::new(&REGIONS)?;
    let device = Device::open()?;
    device.set_owner()?;
    let before = facts::pins_held().ok_or("no counters of pins")?;
    for (pinned, pages) in [(0, 0), (1, ALL / PAGE), (0, 0)] {
        device.set_memory_pinned(pinned)?;
        device.set_mem_table(&memory.table())?;
        let held = facts::pins_held().ok_or("no counters of pins")? - before;
        assert_eq!(held, pages as i64, "{pinned}");
    }
    Ok(())
}

fn pinned_memory_counts_as_locked(_: &Context) -> Outcome {
    child::finish(child::command(&COUNTED, &[])?)
}

fn pinned_memory_beyond_the_locked_limit(_: &Context) -> Outcome {
    child::finish(child::command(&LIMITED, &[])?)
}

/// Locked memory, page by page.
fn count(_: &[&str]) -> Outcome {
    let memory = GuestMemory::new(&REGIONS)?;
    let table = memory.table();
    let device = pinned()?;
    assert_eq!(facts::locked_memory()?, 0, "without a table");
    device.set_mem_table(&table)?;
    assert_eq!(facts::locked_memory()?, ALL, "all regions");
    device.set_mem_table(&table)?;
    assert_eq!(facts::locked_memory()?, ALL, "the same again");
    device.set_mem_table(&table[..1])?;
    assert_eq!(facts::locked_memory()?, table[0].memory_size, "one region");
    // Parts of pages count as pages.
    let odd = MemoryRegion {
        memory_size: 2,
        userspace_addr: table[0].userspace_addr + PAGE - 1,
        ..table[0]
    };
    device.set_mem_table(&[odd])?;
    assert_eq!(facts::locked_memory()?, 2 * PAGE, "two bytes in two pages");
    device.set_mem_table(&[])?;
    assert_eq!(facts::locked_memory()?, 0, "no regions");
    device.set_mem_table(&table)?;
    device.set_memory_pinned(0)?;
    assert_eq!(facts::locked_memory()?, 0, "not pinned");
    device.set_memory_pinned(1)?;
    device.set_mem_table(&table)?;
    device.reset_owner()?;
    assert_eq!(facts::locked_memory()?, 0, "no owner");
    let other = pinned()?;
    other.set_mem_table(&table)?;
    assert_eq!(facts::locked_memory()?, ALL, "another device");
    drop(other);
    assert_eq!(facts::locked_memory()?, 0, "closed");
    Ok(())
}

/// Runs as a user without privileges.
fn exceed(_: &[&str]) -> Outcome {
    const NOBODY: u32 = 65534;
    const LIMIT: u64 = 8 << 20;
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let device = pinned()?;
    let small = Mapping::anonymous(2 << 20)?;
    let large = Mapping::anonymous(LIMIT as usize + 4096)?;
    let region = |map: &Mapping| MemoryRegion {
        guest_phys_addr: 0,
        memory_size: map.len() as u64,
        userspace_addr: map.addr(),
        flags_padding: 0,
    };
    let vm = Vm::new(&Setup::default())?;
    vm.device.set_memory_pinned(1)?;
    process::limit_locked_memory(LIMIT)?;
    process::become_user(NOBODY)?;
    for round in 0..20 {
        device.set_mem_table(&[region(&small)])?;
        let locked_then = facts::locked_memory()?;
        assert_eq!(locked_then, 2 << 20, "round {round}");
        let result = device.set_mem_table(&[region(&large)]);
        assert_errno("too large", result, Errno::ENOMEM);
        assert_eq!(
            facts::locked_memory()?,
            locked_then,
            "round {round}: after a failure"
        );
        // Another device of the same owner counts too.
        let result = vm.device.set_mem_table(&vm.memory.table());
        assert_errno("too much together", result, Errno::ENOMEM);
        assert_errno("no table", vm.attach(&disk), Errno::EFAULT);
        device.set_mem_table(&[])?;
        assert_eq!(facts::locked_memory()?, 0, "round {round}");
    }
    Ok(())
}

/// Regions that the owner can't write, or that are not there, one of them behind good ones. What was
/// set before stays.
fn pinned_regions_must_be_mapped_for_writing(_: &Context) -> Outcome {
    let mut vm = with_disk(&Setup::default(), &Disk::ram())?;
    let read = Place::of(&vm).read(0, 4096);
    let good = vm.memory.table();
    let map = Mapping::anonymous(8 * PAGE as usize)?;
    map.fill(0, map.len(), 1);
    map.protect(PAGE as usize, PAGE as usize, Access::Read)?;
    map.protect(3 * PAGE as usize, PAGE as usize, Access::None)?;
    let file = system::memory_file(c"short", PAGE)?;
    let behind_the_end = Mapping::shared(file.as_fd(), 2 * PAGE as usize)?;
    let region = |start, bytes| MemoryRegion {
        guest_phys_addr: 1 << 40,
        memory_size: bytes,
        userspace_addr: start,
        flags_padding: 0,
    };
    let cases = [
        ("read-only", region(map.addr() + PAGE, PAGE)),
        ("partly read-only", region(map.addr(), 2 * PAGE)),
        ("its last byte read-only", region(map.addr(), PAGE + 1)),
        ("no access", region(map.addr() + 3 * PAGE, PAGE)),
        ("ends in no access", region(map.addr() + 2 * PAGE, 2 * PAGE)),
        ("nothing mapped", region(PAGE, PAGE)),
        (
            "behind the end of a file",
            region(behind_the_end.addr(), 2 * PAGE),
        ),
    ];
    let before = facts::pins_held();
    for (name, bad) in cases {
        for table in [vec![bad], [good.clone(), vec![bad]].concat()] {
            let result = vm.device.set_mem_table(&table);
            assert_errno(name, result, Errno::EFAULT);
            assert_eq!(facts::pins_held(), before, "{name}: pins");
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097), "{name}");
        }
    }
    let fine = region(map.addr() + 4 * PAGE, 4 * PAGE);
    vm.device.set_mem_table(&[good, vec![fine]].concat())?;
    let read = Place::of(&vm);
    let read = BlockRequest::read(0, read.header, read.status).data(GuestAddr(1 << 40), 4096);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
    Ok(())
}

fn requests_pin_nothing_in_pinned_memory(_: &Context) -> Outcome {
    const REQUESTS: u64 = 1000;
    let count = || facts::pins_acquired().ok_or("no counters of pins");
    let mut pinned_by = Vec::new();
    for pinned in [0, 1] {
        let mut vm = Vm::new(&Setup::default())?;
        vm.device.set_memory_pinned(pinned)?;
        vm.device.set_mem_table(&vm.memory.table())?;
        vm.attach(&Disk::second_ram().open(Mode::ReadWrite)?)?;
        let place = Place::of(&vm);
        let before = count()?;
        for number in 0..REQUESTS / 4 {
            for request in [
                place.read(number * 8, 4096),
                place.write(number * 8, 4096),
                place.read(0, 64 << 10),
                place.flush(),
            ] {
                assert_eq!(vm.queue().request(&request).status, OK);
            }
        }
        pinned_by.push(count()? - before);
    }
    assert!(
        pinned_by[0] >= REQUESTS,
        "the counter does not count: {pinned_by:?}"
    );
    assert_eq!(pinned_by[1], 0, "pages pinned by requests");
    Ok(())
}

/// The owner loses its access to all of a request, which is served all the same.
fn pinned_memory_needs_no_page_tables(_: &Context) -> Outcome {
    let disk = Disk::second_ram();
    let mut vm = with_disk(&Setup::default(), &disk)?;
    let memory = vm.memory.clone();
    let there = GuestAddr(HIGH.guest);
    let (map, offset) = memory.mapping(there);
    let at = |bytes: u64| GuestAddr(there.0 + bytes);
    let write = BlockRequest::write(0, at(0), at(64)).data(at(PAGE), 4096);
    memory.fill(at(PAGE), 4096, 0x4E);
    write.prepare(&*memory);
    let table = at(2 * PAGE);
    let added = vm.queue().driver.add_indirect(&write.buffers(), table);
    added.expect("room");
    vm.queue().driver.publish();
    map.protect(offset, 3 * PAGE as usize, Access::None)?;
    vm.queue().kick();
    let used = vm.queue().next_used();
    map.protect(offset, 3 * PAGE as usize, Access::ReadWrite)?;
    assert_eq!(
        Answer::new(memory.read_u8(write.status), used.len),
        Answer::new(OK, 1)
    );
    assert!(
        disk.read(0, 4096)?.iter().all(|byte| *byte == 0x4E),
        "on the disk"
    );
    // What is not in the table stays out of reach.
    let place = Place::of(&vm);
    let outside = GuestAddr(MIDDLE.guest + MIDDLE.bytes as u64);
    let read = BlockRequest::read(0, place.header, place.status).data(outside, 512);
    assert_eq!(vm.queue().request(&read), Answer::new(IOERR, 0));
    memory.check_guards();
    Ok(())
}

/// The old memory is the device's until the disk is done with it; the command waits for that.
fn pinned_memory_is_kept_for_requests_in_flight(_: &Context) -> Outcome {
    const COUNT: u64 = 16;
    const CANARY: u8 = 0x3C;
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let mut vm = with_disk(&Setup::default(), &disk)?;
    let other = GuestMemory::new(&REGIONS)?;
    let hold = disk.hold()?;
    let requests: Vec<_> = (0..COUNT).map(|slot| large(&vm, slot)).collect();
    for request in &requests {
        request.prepare(&*vm.memory);
        vm.queue().driver.add(&request.buffers()).expect("room");
    }
    vm.queue().notify();
    hold.await_held(COUNT)?;
    let (device, new) = (&vm.device, other.table());
    let pins = || facts::pins_held().ok_or("no counters of pins");
    let pages: usize = REGIONS
        .iter()
        .map(|region| region.bytes / PAGE as usize)
        .sum();
    let both = pins()? + pages as i64;
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel();
        scope.spawn(move || done.send(device.set_mem_table(&new)));
        // Pinning may take its time: only what comes behind it can be too early.
        let deadline = Instant::now() + PATIENCE;
        let mut early = Err(mpsc::RecvTimeoutError::Timeout);
        while early.is_err() && pins()? < both {
            assert!(Instant::now() < deadline, "the new memory is not pinned");
            early = wait.recv_timeout(Duration::from_millis(1));
        }
        if early.is_err() {
            early = wait.recv_timeout(Duration::from_millis(100));
        }
        drop(hold);
        let result = match early {
            Ok(_) => return Err("did not wait for the requests".into()),
            Err(_) => wait.recv_timeout(PATIENCE),
        };
        Ok::<_, Box<dyn Error>>(result??)
    })?;
    // All that is said of the old memory is over: it may be used for something else.
    let memory = vm.memory.clone();
    for request in &requests {
        assert_eq!(memory.read_u8(request.status), OK);
    }
    memory.fill(GuestAddr(MIDDLE.guest), MIDDLE.bytes, CANARY);
    for _ in &requests {
        assert_eq!(vm.queue().next_used().len, LARGE_BYTES as u32 + 1);
    }
    let bytes = memory.read_vec(GuestAddr(MIDDLE.guest), MIDDLE.bytes);
    assert!(bytes.iter().all(|byte| *byte == CANARY), "written late");
    let read = Place::of(&vm).read(0, 4096);
    read.prepare(&other);
    vm.queue().submit(&read.buffers());
    assert_eq!(vm.queue().next_used().len, 4097);
    assert_eq!(other.read_u8(read.status), OK);
    Ok(())
}

/// Exactly the pages of the table are pinned, beside those of the rings.
fn pinned_pages_are_given_back_with_their_table(context: &Context) -> Outcome {
    let mut vm = with_disk(&Setup::default(), &Disk::ram())?;
    let pins = || facts::pins_held().ok_or("no counters of pins");
    let all = pins()?;
    let other = GuestMemory::new(&REGIONS)?;
    let place = Place::of(&vm);
    for _ in 0..context.times(20) {
        for memory in [&other, &*vm.memory.clone()] {
            vm.device.set_mem_table(&memory.table())?;
            assert_eq!(pins()?, all, "another table of that length");
            let read = place.read(0, 64 << 10);
            read.prepare(memory);
            vm.queue().submit(&read.buffers());
            assert_eq!(vm.queue().next_used().len, (64 << 10) + 1);
            assert_eq!(memory.read_u8(read.status), OK);
        }
        vm.device.set_mem_table(&vm.memory.table()[..1])?;
        let less = (ALL - vm.memory.table()[0].memory_size) / PAGE;
        assert_eq!(pins()?, all - less as i64, "one region");
        vm.device.set_mem_table(&vm.memory.table())?;
        assert_eq!(pins()?, all, "all regions again");
    }
    vm.device.detach()?;
    vm.device.set_mem_table(&[])?;
    let rings = all - (ALL / PAGE) as i64;
    assert!(pins()? < rings, "rings stay pinned without a disk");
    Ok(())
}

/// All of a request lies where the table says that is set now, also when another table had something
/// else there.
fn pinned_memory_is_looked_up_anew_in_another_table(context: &Context) -> Outcome {
    const THERE: RegionSpec = RegionSpec {
        guest: 1 << 40,
        bytes: 16 << 12,
        kind: Kind::Private,
    };
    // What other tables have before it.
    const BEFORE: RegionSpec = RegionSpec {
        guest: THERE.guest - THERE.bytes as u64,
        ..THERE
    };
    let disk = Disk::ram();
    let data = context.rng().bytes(2 * 4096);
    disk.write(0, &data)?;
    let mut vm = with_disk(&Setup::default(), &disk)?;
    let there = GuestMemory::new(&[THERE])?;
    let before = GuestMemory::new(&[BEFORE])?;
    let header = GuestAddr(THERE.guest);
    let status = GuestAddr(header.0 + 64);
    let buffer = GuestAddr(header.0 + 4096);
    let both = [vm.memory.table(), there.table()].concat();
    let all = [both.clone(), before.table()].concat();
    for (number, table) in [&both, &all, &both, &all].into_iter().enumerate() {
        vm.device.set_mem_table(table)?;
        let block = number % 2;
        let read = BlockRequest::read(block as u64 * 8, header, status).data(buffer, 4096);
        read.prepare(&there);
        vm.queue().submit(&read.buffers());
        assert_eq!(vm.queue().next_used().len, 4097, "table {number}");
        assert_eq!(there.read_u8(status), OK, "table {number}");
        let found = there.read_vec(buffer, 4096);
        assert!(found == data[block * 4096..][..4096], "table {number}");
        let untouched = before.read_vec(GuestAddr(BEFORE.guest), BEFORE.bytes);
        assert!(untouched.iter().all(|byte| *byte == 0), "table {number}");
    }
    Ok(())
}

/// A read into one huge page reaches the disk as one vector.
fn a_huge_page_is_one_vector(context: &Context) -> Outcome {
    const HUGE: usize = 2 << 20;
    const BYTES: u32 = 1 << 20;
    const THERE: u64 = 1 << 40;
    context.needs(
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "this kernel has no huge pages",
    )?;
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let map = Mapping::anonymous(2 * HUGE)?;
    let offset = map.addr().next_multiple_of(HUGE as u64) - map.addr();
    let offset = offset as usize;
    map.advise_huge(0, 2 * HUGE)?;
    let before = thp_faults()?;
    map.fill(offset, HUGE, 0);
    if thp_faults()? == before {
        return Err(NotApplicable("no huge page is to be had").into());
    }
    let data = context.rng().bytes(BYTES as usize);
    disk.write(0, &data)?;
    let mut vm = Vm::new(&Setup::default())?;
    vm.device.set_memory_pinned(1)?;
    let mut table = vm.memory.table();
    table.push(MemoryRegion {
        guest_phys_addr: THERE,
        memory_size: HUGE as u64,
        userspace_addr: map.addr() + offset as u64,
        flags_padding: 0,
    });
    vm.device.set_mem_table(&table)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let place = Place::of(&vm);
    for at in [0, 4096, u64::from(BYTES)] {
        let read = BlockRequest::read(0, place.header, place.status);
        let read = read.data(GuestAddr(THERE + at), BYTES);
        let vectors = disk.vectors()?;
        let (counts, answer) = disk.counts_of(|| Ok(vm.queue().request(&read)))?;
        assert_eq!(answer, Answer::new(OK, BYTES + 1));
        assert_eq!(counts.read.requests, 1, "I/Os of a read at +{at}");
        assert_eq!(disk.vectors()? - vectors, 1, "vectors of a read at +{at}");
        let mut found = vec![0; BYTES as usize];
        map.read(offset + at as usize, &mut found);
        assert!(found == data, "at +{at}");
    }
    // In pieces that continue each other, too.
    let pieces = 8;
    let read = (0..pieces).fold(
        BlockRequest::read(0, place.header, place.status),
        |read, piece| {
            let len = BYTES / pieces;
            read.data(GuestAddr(THERE + u64::from(piece * len)), len)
        },
    );
    let vectors = disk.vectors()?;
    assert_eq!(vm.queue().request(&read), Answer::new(OK, BYTES + 1));
    let vectors = disk.vectors()? - vectors;
    assert!(
        (1..=u64::from(pieces)).contains(&vectors),
        "{vectors} vectors"
    );
    Ok(())
}

/// Huge pages that the kernel gave to processes since it was started.
fn thp_faults() -> Result<u64, Box<dyn Error>> {
    let text = std::io::read_to_string(File::open("/proc/vmstat")?)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("thp_fault_alloc "));
    Ok(line.ok_or("thp_fault_alloc")?.trim().parse()?)
}

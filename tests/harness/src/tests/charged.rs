// SPDX-License-Identifier: GPL-2.0

//! At whose expense queues are: what the kernel allocates for them is charged to the memory cgroup
//! of the owner, and ends where that group's limit is.

use crate::{
    cgroup::Group,
    child::{self, Role},
    disk::Target,
    fixtures::commands::assert_errno,
    memory::MIDDLE,
    oracle::facts,
    prelude::*,
    vm::Queue,
};
use std::{
    error::Error,
    fs,
    io::Write,
    thread,
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = tests!["harness":
    queues_are_charged_to_their_owner(20),
    large_requests_are_charged_to_the_owner(20),
    attach_beyond_the_owners_limit(20),
    a_large_request_beyond_the_owners_limit(20),
];

pub const ROLES: &[Role] = &[CHARGED, LARGE, LIMITED, AT_LIMIT];

const AT_LIMIT: Role = Role {
    name: "at-limit",
    run: ask_at_the_limit,
};

const CHARGED: Role = Role {
    name: "charged",
    run: look_at_the_charge,
};
const LARGE: Role = Role {
    name: "large",
    run: ask_for_much,
};
const LIMITED: Role = Role {
    name: "limited",
    run: meet_the_limit,
};

const QUEUES: u32 = 256;

/// Entries of each: a request takes three.
const SIZE: u32 = 4;

/// Less than what they need. Each has lists with room for all I/Os that it could have, the I/Os of
/// ordinary requests, and while it serves a large one an I/O with room for 256 pages.
const LEAST: u64 = QUEUES as u64 * 4096;

/// Bytes that each of two CPUs keeps charged for later (MEMCG_CHARGE_BATCH).
const SLACK: u64 = 2 * 64 * 4096;

const GROUP: &str = "memory";

/// Runs a child to its end, which enters a memory cgroup of its own.
fn run(role: &Role) -> Outcome {
    let group = Group::new(GROUP, "+memory")?;
    let result = child::finish(child::command(role, &[])?);
    group.remove();
    result
}

/// The bytes that are charged to a group.
fn charge(group: &Group) -> Result<u64, Box<dyn Error>> {
    Ok(group.get("memory.current")?.parse()?)
}

fn queues_are_charged_to_their_owner(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    run(&CHARGED)
}

fn large_requests_are_charged_to_the_owner(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    run(&LARGE)
}

fn attach_beyond_the_owners_limit(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    run(&LIMITED)
}

fn a_large_request_beyond_the_owners_limit(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    run(&AT_LIMIT)
}

fn set_up() -> Result<Vm, Errno> {
    Vm::new(&Setup {
        queues: QUEUES,
        ..Setup::size(SIZE)
    })
}

/// A request on the last queue.
fn check_alive(vm: &mut Vm) {
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 64));
    let read = read.data(GuestAddr(MIDDLE.guest), 4096);
    let answer = vm.queues[QUEUES as usize - 1].request(&read);
    assert_eq!(answer, Answer::new(OK, 4097));
}

fn look_at_the_charge(_: &[&str]) -> Outcome {
    let group = Group::named(GROUP);
    group.enter()?;
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let mut vm = set_up()?;
    // What is there from the first time on stays: caches of the kernel, memory of our own.
    vm.attach(&disk)?;
    check_alive(&mut vm);
    vm.device.detach()?;
    let before = charge(&group)?;
    vm.attach(&disk)?;
    let attached = charge(&group)?;
    assert!(
        attached > before + LEAST,
        "{before} before, {attached} while attached"
    );
    vm.device.detach()?;
    let after = charge(&group)?;
    assert!(
        after < before + SLACK,
        "{before} before, {after} afterwards"
    );
    Ok(())
}

/// Large requests need larger I/Os, which the worker allocates when there are any.
fn ask_for_much(_: &[&str]) -> Outcome {
    const BYTES: u32 = 64 << 10;
    let group = Group::named(GROUP);
    group.enter()?;
    let disk = Disk::mapped(&[Target::linear(Disk::ram().path(), 0, 8 << 11)])?;
    let mut vm = set_up()?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    check_alive(&mut vm);
    let before = charge(&group)?;
    disk.suspend()?;
    let start = vm.free().0;
    for queue in &mut vm.queues {
        let header = GuestAddr(start + u64::from(queue.index) * 32);
        let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
        let read = read.data(GuestAddr(MIDDLE.guest), BYTES);
        read.prepare(queue.driver.memory());
        queue.submit(&read.buffers());
    }
    let deadline = Instant::now() + PATIENCE;
    let taken = |queue: &Queue| vm.device.vring_base(queue.index) == Ok(queue.taken_base().into());
    while !vm.queues.iter().all(taken) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let in_flight = charge(&group);
    // To detach from a suspended disk is to wait for it: first of all it goes on.
    disk.resume()?;
    let in_flight = in_flight?;
    assert!(Instant::now() < deadline, "requests not taken");
    assert!(
        in_flight > before + LEAST,
        "{before} before, {in_flight} with requests in flight"
    );
    for queue in &mut vm.queues {
        assert_eq!(queue.next_used().len, BYTES + 1);
    }
    vm.device.detach()?;
    let after = charge(&group)?;
    assert!(
        after < before + SLACK,
        "{before} before, {after} afterwards"
    );
    Ok(())
}

/// The kernel would rather kill a process of the group than refuse it memory. It can't: the only one
/// is protected.
fn meet_the_limit(_: &[&str]) -> Outcome {
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    let group = Group::named(GROUP);
    group.enter()?;
    let disk = Disk::ram();
    let mut vm = set_up()?;
    let file = disk.open(Mode::ReadWrite)?;
    let mut limit = group.open("memory.max")?;
    limit.write_all((charge(&group)? + LEAST / 2).to_string().as_bytes())?;
    let attached = vm.attach(&file);
    limit.write_all(b"max")?;
    assert_errno("attach", attached, Errno::ENOMEM);
    assert_eq!(facts::locked_memory()?, 0, "locked memory");
    drop(file);
    // The disk is free, and nothing is attached.
    let file = disk.open(Mode::ReadWrite)?;
    vm.device.set_vring_num(0, SIZE)?;
    vm.attach(&file)?;
    check_alive(&mut vm);
    Ok(())
}

/// A request that needs several large I/Os of which one exists, with nothing in flight that could
/// bring it back. It is answered, with success or not, and the owner can end.
fn ask_at_the_limit(_: &[&str]) -> Outcome {
    const ONE: u32 = 64 << 10;
    const SEVERAL: u32 = 2 << 20;
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    let group = Group::named(GROUP);
    group.enter()?;
    let disk = Disk::mapped(&[Target::linear(Disk::ram().path(), 0, 8 << 11)])?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let (header, data) = (vm.free(), GuestAddr(MIDDLE.guest));
    let read = |len| BlockRequest::read(0, header, GuestAddr(header.0 + 64)).data(data, len);
    // The pages of the guest exist before the limit does.
    vm.memory.fill(data, SEVERAL as usize, 1);
    assert_eq!(vm.queue().request(&read(ONE)), Answer::new(OK, ONE + 1));
    let request = read(SEVERAL);
    request.prepare(&*vm.memory);
    let bufs = request.buffers();
    vm.queue().driver.add(&bufs).expect("room");
    vm.queue().driver.publish();
    let mut limit = group.open("memory.max")?;
    limit.write_all((charge(&group)? / 2).to_string().as_bytes())?;
    vm.queue().kick();
    let deadline = Instant::now() + PATIENCE;
    let used = loop {
        let used = vm.queue().driver.poll_used();
        if used.is_some() || Instant::now() > deadline {
            break used;
        }
        thread::yield_now();
    };
    limit.write_all(b"max")?;
    let used = used.ok_or("a large request is not answered while its owner is at the limit")?;
    let answer = Answer::new(vm.memory.read_u8(request.status), used.len);
    let either = [Answer::new(OK, SEVERAL + 1), Answer::new(IOERR, 0)];
    assert!(either.contains(&answer), "{answer:?}");
    // There is memory again.
    assert_eq!(vm.queue().request(&request), Answer::new(OK, SEVERAL + 1));
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! At whose expense queues are: what the kernel allocates for them is charged to the memory cgroup
//! of the owner, and ends where that group's limit is.

use super::ioctls::assert_errno;
use crate::{
    child::{
        self,
        Role, //
    },
    context::{
        Context,
        Outcome,
        Test, //
    },
    disk::{
        Disk,
        Mode,
        Target, //
    },
    memory::MIDDLE,
    sys::{
        system,
        Errno, //
    },
    tests::owner::locked,
    vm::{
        Answer,
        Queue,
        Setup,
        Vm,
        OK,
        PATIENCE, //
    },
};
use std::{
    error::Error,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};
use vblk_core::{
    addr::GuestAddr,
    testing::BlockRequest, //
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/queues_are_charged_to_their_owner", limit: 20, run: charged },
    Test { name: "harness/large_requests_are_charged_to_the_owner", limit: 20, run: large },
    Test { name: "harness/attach_beyond_the_owners_limit", limit: 20, run: limited },
];

pub const ROLES: &[Role] = &[CHARGED, LARGE, LIMITED];

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

/// What each of two CPUs keeps charged for later (MEMCG_CHARGE_BATCH).
const SLACK: u64 = 2 * 64 * 4096;

const CGROUPS: &str = "/sys/fs/cgroup";

/// A memory cgroup. Its processes must have ended when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self, Errno> {
        let root = Path::new(CGROUPS);
        if !root.join("cgroup.procs").exists() {
            system::mount(c"cgroup2", c"/sys/fs/cgroup")?;
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let group = Self::known();
        fs::create_dir(&group.0)?;
        Ok(group)
    }

    /// The one that [`Self::new`] made, in another process.
    fn known() -> Self {
        Self(Path::new(CGROUPS).join("vblk-harness-memory"))
    }

    fn enter(&self) -> Result<(), Errno> {
        let pid = std::process::id().to_string();
        Ok(fs::write(self.0.join("cgroup.procs"), pid)?)
    }

    fn limit(&self, limit: &str) -> Result<(), Errno> {
        Ok(fs::write(self.0.join("memory.max"), limit)?)
    }

    fn charge(&self) -> Result<u64, Box<dyn Error>> {
        let text = fs::read_to_string(self.0.join("memory.current"))?;
        Ok(text.trim().parse()?)
    }

    /// Runs a child to its end, and goes when that is possible.
    fn run(self, role: &Role) -> Outcome {
        let result = child::finish(child::command(role, &[])?);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::remove_dir(&self.0) {
            assert!(Instant::now() < deadline, "the group stays in use: {error}");
            thread::sleep(Duration::from_millis(5));
        }
        result
    }
}

fn charged(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    Group::new()?.run(&CHARGED)
}

fn large(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    Group::new()?.run(&LARGE)
}

fn limited(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    Group::new()?.run(&LIMITED)
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
    let group = Group::known();
    group.enter()?;
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let mut vm = set_up()?;
    // What is there from the first time on stays: caches of the kernel, memory of our own.
    vm.device.attach(&disk)?;
    check_alive(&mut vm);
    vm.device.detach()?;
    let before = group.charge()?;
    vm.device.attach(&disk)?;
    let attached = group.charge()?;
    assert!(
        attached > before + LEAST,
        "{before} before, {attached} while attached"
    );
    vm.device.detach()?;
    let after = group.charge()?;
    assert!(
        after < before + SLACK,
        "{before} before, {after} afterwards"
    );
    Ok(())
}

/// Large requests need larger I/Os, which the worker allocates when there are any.
fn ask_for_much(_: &[&str]) -> Outcome {
    const BYTES: u32 = 64 << 10;
    let group = Group::known();
    group.enter()?;
    let disk = Disk::mapped(&[Target::linear(Disk::ram().path(), 0, 8 << 11)])?;
    let mut vm = set_up()?;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    check_alive(&mut vm);
    let before = group.charge()?;
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
    let charge = group.charge();
    // To detach from a suspended disk is to wait for it: first of all it goes on.
    disk.resume()?;
    let charge = charge?;
    assert!(Instant::now() < deadline, "requests not taken");
    assert!(
        charge > before + LEAST,
        "{before} before, {charge} with requests in flight"
    );
    for queue in &mut vm.queues {
        assert_eq!(queue.next_used().len, BYTES + 1);
    }
    vm.device.detach()?;
    let after = group.charge()?;
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
    let group = Group::known();
    group.enter()?;
    let disk = Disk::ram();
    let mut vm = set_up()?;
    let file = disk.open(Mode::ReadWrite)?;
    group.limit(&(group.charge()? + LEAST / 2).to_string())?;
    let attached = vm.device.attach(&file);
    group.limit("max")?;
    assert_errno("attach", attached, Errno::ENOMEM);
    assert_eq!(locked()?, 0, "locked memory");
    drop(file);
    // The disk is free, and nothing is attached.
    let file = disk.open(Mode::ReadWrite)?;
    vm.device.set_vring_num(0, SIZE)?;
    vm.device.attach(&file)?;
    check_alive(&mut vm);
    Ok(())
}

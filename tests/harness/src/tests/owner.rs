// SPDX-License-Identifier: GPL-2.0

//! Ownership of a device, its worker, and the accounting of both.

use crate::{
    cgroup::Group,
    child::{self, Role},
    device::Device,
    fixtures::commands::{assert_errno, assert_not_permitted},
    memory::MIDDLE,
    oracle::{facts, WORKER},
    prelude::*,
    sys::process,
};
use std::{
    fs,
    fs::File,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

pub const TESTS: &[Test] = tests!["harness":
    worker_is_named_after_its_owner(20),
    worker_is_in_its_owners_cgroup(20),
    another_process_may_not_configure(20),
    a_forked_child_may_not_configure(20),
    after_exec_nothing_is_permitted(20),
    a_device_opened_elsewhere_can_be_owned(20),
    pinned_rings_count_as_locked_memory(40),
];

pub const ROLES: &[Role] = &[STRANGER, NEW_OWNER, FORKING, EXECING, IN_CGROUP, LOCKING];

const STRANGER: Role = Role {
    name: "stranger",
    run: be_a_stranger,
};
const NEW_OWNER: Role = Role {
    name: "new-owner",
    run: become_owner,
};
const FORKING: Role = Role {
    name: "forking",
    run: fork_and_try,
};
const EXECING: Role = Role {
    name: "execing",
    run: exec_and_try,
};
const IN_CGROUP: Role = Role {
    name: "in-cgroup",
    run: own_in_cgroup,
};
const LOCKING: Role = Role {
    name: "locking",
    run: lock_memory,
};

fn worker_is_named_after_its_owner(_: &Context) -> Outcome {
    let name = format!("{WORKER}{}", std::process::id());
    let workers = |count| facts::await_threads(WORKER, count);
    let device = Device::open()?;
    assert!(workers(0).is_empty(), "a worker without an owner");
    device.set_owner()?;
    let names: Vec<_> = workers(1).into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, [name.as_str()]);
    let second = Device::open()?;
    second.set_owner()?;
    assert_eq!(workers(2).len(), 2, "one for each device");
    device.reset_owner()?;
    assert_eq!(workers(1).len(), 1);
    drop(second);
    assert!(workers(0).is_empty(), "a worker after close");
    // It is a thread of its owner that takes no CPU time for nothing.
    device.set_owner()?;
    let worker = workers(1).remove(0);
    assert!(
        Path::new(&format!("/proc/self/task/{}", worker.pid)).exists(),
        "not a thread of this process"
    );
    std::thread::sleep(Duration::from_millis(50));
    let ticks = cpu_ticks(worker.pid)?;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(cpu_ticks(worker.pid)?, ticks, "an idle worker used the CPU");
    Ok(())
}

/// Returns the user and system time of a thread of this process: /proc/PID has that of all threads
/// together.
fn cpu_ticks(pid: u32) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let stat = fs::read_to_string(format!("/proc/self/task/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").ok_or("stat")?;
    let fields: Vec<_> = rest.split(' ').collect();
    Ok((fields[11].parse()?, fields[12].parse()?))
}

const GROUP: &str = "owner";

fn worker_is_in_its_owners_cgroup(_: &Context) -> Outcome {
    let group = Group::new(GROUP, "")?;
    let result = child::finish(child::command(&IN_CGROUP, &[])?);
    // Empty as soon as the worker has left it for good.
    group.remove();
    result
}

fn own_in_cgroup(_: &[&str]) -> Outcome {
    let group = Group::named(GROUP);
    group.enter()?;
    let device = Device::open()?;
    device.set_owner()?;
    let workers = facts::threads_named(&format!("{WORKER}{}", std::process::id()));
    let [worker] = workers.as_slice() else {
        return Err(format!("workers: {workers:?}").into());
    };
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid))?;
    if !groups.lines().any(|line| line == group.membership()) {
        return Err(format!("the worker is in {groups:?}").into());
    }
    Ok(())
}

/// A command that gives a device to a child, as its stdin.
fn hand_over(role: &Role, device: &Device) -> Result<Command, io::Error> {
    let mut command = child::command(role, &[])?;
    command.stdin(Stdio::from(device.file().try_clone()?));
    Ok(command)
}

/// The device that [`hand_over`] gave.
fn take_over() -> Result<Device, io::Error> {
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    Ok(Device::from_file(file))
}

fn be_a_stranger(_: &[&str]) -> Outcome {
    let device = take_over()?;
    assert_not_permitted(&device);
    assert_errno("SET_OWNER", device.set_owner(), Errno::EBUSY);
    assert_errno("NEW_WORKER", device.new_worker(), Errno::EPERM);
    assert_errno("FREE_WORKER", device.free_worker(0), Errno::EPERM);
    let attach = device.attach_vring_worker(0, 0);
    assert_errno("ATTACH_VRING_WORKER", attach, Errno::EPERM);
    assert_errno("GET_VRING_WORKER", device.vring_worker(0), Errno::EPERM);
    device.fork_from_owner()?;
    device.features()?;
    device.backend_features()?;
    device.info()?;
    Ok(())
}

fn another_process_may_not_configure(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    child::finish(hand_over(&STRANGER, &vm.device)?)?;
    // The guest did not notice.
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let read = read.data(GuestAddr(MIDDLE.guest), 512);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

fn a_forked_child_may_not_configure(_: &Context) -> Outcome {
    child::finish(child::command(&FORKING, &[])?)
}

fn fork_and_try(_: &[&str]) -> Outcome {
    let vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let status = process::in_fork(|| {
        assert_not_permitted(&vm.device);
        assert_errno("SET_OWNER", vm.device.set_owner(), Errno::EBUSY);
        0
    })?;
    assert_eq!(status, 0, "the forked child");
    vm.device.stats()?;
    Ok(())
}

fn after_exec_nothing_is_permitted(_: &Context) -> Outcome {
    child::finish(child::command(&EXECING, &[])?)
}

/// Sets up a device and becomes another program with the same process number.
fn exec_and_try(_: &[&str]) -> Outcome {
    let vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let mut command = hand_over(&STRANGER, &vm.device)?;
    command.stdout(Stdio::inherit());
    Err(command.exec().into())
}

fn a_device_opened_elsewhere_can_be_owned(_: &Context) -> Outcome {
    let device = Device::open()?;
    child::finish(hand_over(&NEW_OWNER, &device)?)?;
    // The child is gone, but the device is still its own.
    assert_not_permitted(&device);
    assert_errno("SET_OWNER", device.set_owner(), Errno::EBUSY);
    Ok(())
}

fn become_owner(_: &[&str]) -> Outcome {
    let device = take_over()?;
    device.set_owner()?;
    device.stats()?;
    Ok(())
}

fn pinned_rings_count_as_locked_memory(_: &Context) -> Outcome {
    child::finish(child::command(&LOCKING, &[])?)
}

/// Runs as a user without privileges, whose limit is between what a small and a large ring need.
fn lock_memory(_: &[&str]) -> Outcome {
    const NOBODY: u32 = 65534;
    const LIMIT: u64 = 128 << 10;
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let small = Vm::new(&Setup::size(256))?;
    let large = Vm::new(&Setup::size(32768))?;
    process::limit_locked_memory(LIMIT)?;
    large.attach(&disk)?;
    assert!(
        facts::locked_memory()? > LIMIT,
        "with CAP_IPC_LOCK the limit is counted, but not enforced"
    );
    large.device.detach()?;
    assert_eq!(facts::locked_memory()?, 0, "after detach");

    process::become_user(NOBODY)?;
    for round in 0..100 {
        small.attach(&disk)?;
        assert!(
            (1..=LIMIT).contains(&facts::locked_memory()?),
            "round {round}: rings that count for nothing"
        );
        small.device.detach()?;
        assert_errno("too large", large.attach(&disk), Errno::ENOMEM);
        assert_eq!(
            facts::locked_memory()?,
            0,
            "round {round}: after detach and failure"
        );
    }
    Ok(())
}

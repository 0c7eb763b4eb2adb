// SPDX-License-Identifier: GPL-2.0

//! Placement and accounting of a worker: a thread of its owner has the owner's CPUs, priority,
//! groups and limits; a thread of the kernel, which an owner can ask for, has its groups.

use crate::{
    cgroup::Group,
    child::{self, Role},
    device::Device,
    disk::{self, NullBlk},
    fixtures::{commands::assert_errno, place::Place, vdpa::Used, worker::only},
    load::Load,
    oracle::{facts, WORKER},
    prelude::*,
    sys::process::{self, Policy},
    vhost_vdpa::status,
};
use std::{
    error::Error,
    fs,
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use vblk_core::uapi::FORK_OWNER_KTHREAD;

pub const TESTS: &[Test] = tests!["harness":
    worker_has_the_cpus_of_its_owner(20),
    worker_has_the_nice_value_of_its_owner(20),
    worker_counts_as_a_process_of_its_user(20),
    a_kernel_thread_on_request(20),
    worker_stays_in_the_cpuset(20),
    worker_moves_with_its_owner_to_another_cgroup(20),
    worker_counts_as_a_process_of_its_cgroup(20),
    io_limit_of_the_owner_holds_back_its_disk_only(60),
];

pub const VDPA: &[Test] = tests!["vdpa":
    worker_is_of_the_thread_that_found_the_device(20),
];

pub const ROLES: &[Role] = &[
    ON_A_CPU,
    NICE,
    USER,
    KTHREAD,
    IN_CPUSET,
    MOVING,
    COUNTED,
    READER,
    VIRTUAL_CPU,
];

const ON_A_CPU: Role = Role {
    name: "on-a-cpu",
    run: own_on_a_cpu,
};
const NICE: Role = Role {
    name: "nice",
    run: own_nicely,
};
const USER: Role = Role {
    name: "user-limit",
    run: own_at_the_users_limit,
};
const KTHREAD: Role = Role {
    name: "kernel-thread",
    run: own_with_a_kernel_thread,
};
const IN_CPUSET: Role = Role {
    name: "in-cpuset",
    run: own_in_a_cpuset,
};
const MOVING: Role = Role {
    name: "moving",
    run: own_and_move,
};
const COUNTED: Role = Role {
    name: "counted",
    run: own_at_the_groups_limit,
};
const READER: Role = Role {
    name: "reader",
    run: read_on_and_on,
};

const VIRTUAL_CPU: Role = Role {
    name: "virtual-cpu",
    run: start_from_a_virtual_cpu,
};

/// PF_KTHREAD, among the flags of a thread.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The only worker of this process.
fn worker() -> Result<u32, Box<dyn Error>> {
    only(&own_workers(1))
}

/// The workers of this process, as soon as those that were stopped are gone: so many.
fn own_workers(count: usize) -> Vec<facts::Thread> {
    facts::await_threads(&format!("{WORKER}{}", std::process::id()), count)
}

/// The CPUs that a thread may use.
fn cpus(pid: u32) -> Result<String, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let name = "Cpus_allowed_list:";
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.ok_or(name)?.trim().to_owned())
}

/// A number of `/proc/<pid>/stat`, counted as in its manual page, from behind the name.
fn stat(pid: u32, number: usize) -> Result<i64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").ok_or("stat")?;
    let field = rest.split(' ').nth(number - 3).ok_or("stat")?;
    Ok(field.parse()?)
}

const FLAGS: usize = 9;
const NICE_VALUE: usize = 19;
const POLICY: usize = 41;

fn is_kernel_thread(pid: u32) -> Result<bool, Box<dyn Error>> {
    Ok(stat(pid, FLAGS)? as u64 & KERNEL_THREAD != 0)
}

fn check_alive(vm: &mut Vm) {
    let read = Place::of(vm).read(0, 4096);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
}

fn worker_has_the_cpus_of_its_owner(_: &Context) -> Outcome {
    child::finish(child::command(&ON_A_CPU, &[])?)
}

fn own_on_a_cpu(_: &[&str]) -> Outcome {
    process::run_on(0, 1)?;
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    assert_eq!(cpus(worker()?)?, "1", "where its owner was");
    check_alive(&mut vm);
    // As taskset moves it.
    for cpu in [0, 1, 0] {
        process::run_on(worker()?, cpu)?;
        assert_eq!(cpus(worker()?)?, cpu.to_string());
        check_alive(&mut vm);
    }
    Ok(())
}

fn worker_has_the_nice_value_of_its_owner(_: &Context) -> Outcome {
    child::finish(child::command(&NICE, &[])?)
}

fn own_nicely(_: &[&str]) -> Outcome {
    process::set_nice(10)?;
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    assert_eq!(stat(worker()?, NICE_VALUE)?, 10);
    check_alive(&mut vm);
    Ok(())
}

fn worker_counts_as_a_process_of_its_user(_: &Context) -> Outcome {
    child::finish(child::command(&USER, &[])?)
}

/// RLIMIT_NPROC, as a user without privileges who has no other process.
fn own_at_the_users_limit(_: &[&str]) -> Outcome {
    const NOBODY: u32 = 65534;
    let device = Device::open()?;
    process::limit_processes(1)?;
    process::become_user(NOBODY)?;
    assert_errno("SET_OWNER", device.set_owner(), Errno::EAGAIN);
    assert_errno("no owner", device.stats(), Errno::EPERM);
    process::limit_processes(2)?;
    device.set_owner()?;
    assert_errno("NEW_WORKER", device.new_worker(), Errno::EAGAIN);
    process::limit_processes(3)?;
    let second = device.new_worker()?;
    device.free_worker(second)?;
    // Counted until it is gone.
    assert_eq!(own_workers(1).len(), 1);
    device.new_worker()?;
    Ok(())
}

fn a_kernel_thread_on_request(_: &Context) -> Outcome {
    child::finish(child::command(&KTHREAD, &[])?)
}

fn own_with_a_kernel_thread(_: &[&str]) -> Outcome {
    let device = Device::open()?;
    device.set_fork_from_owner(FORK_OWNER_KTHREAD)?;
    let mut vm = Vm::on(device, &Setup::default())?;
    let thread = worker()?;
    assert!(is_kernel_thread(thread)?, "a thread of the kernel");
    let task = format!("/proc/self/task/{thread}");
    assert!(!Path::new(&task).exists(), "a thread of this process");
    vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
    check_alive(&mut vm);
    vm.device.reset_owner()?;
    assert_eq!(own_workers(0), [], "after its owner");
    // The default is a thread of the owner.
    let device = Device::open()?;
    device.set_owner()?;
    assert!(!is_kernel_thread(worker()?)?);
    Ok(())
}

const CPUSET: &str = "cpuset";

fn worker_stays_in_the_cpuset(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let group = Group::new(CPUSET, "+cpuset")?;
    group.set("cpuset.cpus", "1")?;
    let result = child::finish(child::command(&IN_CPUSET, &[])?);
    group.remove();
    result
}

fn own_in_a_cpuset(_: &[&str]) -> Outcome {
    let group = Group::named(CPUSET);
    group.enter()?;
    for kind in [1, FORK_OWNER_KTHREAD] {
        group.set("cpuset.cpus", "1")?;
        let device = Device::open()?;
        device.set_fork_from_owner(kind)?;
        let mut vm = Vm::on(device, &Setup::default())?;
        let thread = worker()?;
        vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
        // By then it has run.
        check_alive(&mut vm);
        assert_eq!(cpus(thread)?, "1", "kind {kind}");
        assert!(process::run_on(thread, 0).is_err(), "kind {kind}: outside");
        // As libvirt moves a whole VM.
        group.set("cpuset.cpus", "0")?;
        assert_eq!(cpus(thread)?, "0", "kind {kind}: moved");
        check_alive(&mut vm);
    }
    Ok(())
}

const OLD_GROUP: &str = "old";
const NEW_GROUP: &str = "new";

fn worker_moves_with_its_owner_to_another_cgroup(_: &Context) -> Outcome {
    let groups = [Group::new(OLD_GROUP, "")?, Group::new(NEW_GROUP, "")?];
    let result = child::finish(child::command(&MOVING, &[])?);
    let [old, new] = groups;
    new.remove();
    // The child has removed the other one, unless it failed.
    match (old.get("cgroup.procs").is_ok(), &result) {
        (true, Ok(())) => return Err("the old group is still there".into()),
        (true, Err(_)) => old.remove(),
        (false, _) => {}
    }
    result
}

/// Moves the worker as libvirt and systemd move a VM that runs already.
fn own_and_move(_: &[&str]) -> Outcome {
    let (old, new) = (Group::named(OLD_GROUP), Group::named(NEW_GROUP));
    old.enter()?;
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let second = vm.device.new_worker()?;
    check_alive(&mut vm);
    new.enter()?;
    for worker in own_workers(2) {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid))?;
        let there = groups.lines().any(|line| line == new.membership());
        assert!(there, "{worker:?} is in {groups:?}");
    }
    old.remove();
    check_alive(&mut vm);
    vm.device.free_worker(second)?;
    Ok(())
}

const PIDS: &str = "pids";

fn worker_counts_as_a_process_of_its_cgroup(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let group = Group::new(PIDS, "+pids")?;
    let result = child::finish(child::command(&COUNTED, &[])?);
    group.remove();
    result
}

fn own_at_the_groups_limit(_: &[&str]) -> Outcome {
    let group = Group::named(PIDS);
    group.enter()?;
    let device = Device::open()?;
    for (limit, workers) in [(1, 0), (2, 1), (3, 2)] {
        group.set("pids.max", &limit.to_string())?;
        if workers == 0 {
            assert_errno("SET_OWNER", device.set_owner(), Errno::EAGAIN);
            continue;
        }
        match workers {
            1 => device.set_owner()?,
            _ => drop(device.new_worker()?),
        }
        assert_eq!(own_workers(workers).len(), workers);
        assert_eq!(group.get("pids.current")?, limit.to_string());
        for _ in 0..10 {
            assert_errno("NEW_WORKER", device.new_worker(), Errno::EAGAIN);
        }
    }
    // Devices of the same owner share its limit.
    let other = Device::open()?;
    assert_errno("SET_OWNER", other.set_owner(), Errno::EAGAIN);
    device.reset_owner()?;
    let deadline = Instant::now() + PATIENCE;
    while group.get("pids.current")? != "1" {
        assert!(Instant::now() < deadline, "workers count without an owner");
        thread::sleep(Duration::from_millis(1));
    }
    other.set_owner()?;
    Ok(())
}

const VM: &str = "vm";

fn worker_is_of_the_thread_that_found_the_device(_: &Context) -> Outcome {
    let group = Group::new(VM, "")?;
    let result = child::finish(child::command(&VIRTUAL_CPU, &[])?);
    group.remove();
    result
}

/// As in QEMU under libvirt: the guest's driver is ready, and resets the device, in the thread of a
/// virtual CPU, which has a CPU, a policy and a group of its own.
fn start_from_a_virtual_cpu(_: &[&str]) -> Outcome {
    let vm = Group::named(VM);
    vm.enter()?;
    process::set_nice(5)?;
    let own = Group::new(&format!("{VM}/cpu"), "")?;
    own.set("cgroup.type", "threaded")?;
    let mut used = Used::prepared(&Disk::ram(), 0)?;
    used.node.set_status(status::DRIVER)?;
    let first = worker()?;
    for round in 0..3 {
        thread::scope(|scope| {
            let cpu = scope.spawn(|| {
                // 0 is the thread that writes it.
                own.set("cgroup.threads", "0")?;
                process::run_on(0, 1)?;
                process::set_policy(0, Policy::Idle)?;
                match round {
                    0 => used.start(used.driver.base()),
                    _ => used.restart(),
                }
            });
            cpu.join().expect("no panic")
        })?;
        let worker = worker()?;
        assert_eq!(worker, first, "round {round}");
        assert_eq!(cpus(worker)?, cpus(std::process::id())?);
        assert_eq!(stat(worker, POLICY)?, i64::from(libc::SCHED_OTHER));
        assert_eq!(stat(worker, NICE_VALUE)?, 5);
        let groups = fs::read_to_string(format!("/proc/{worker}/cgroup"))?;
        let there = groups.lines().any(|line| line == vm.membership());
        assert!(there, "in {groups:?}");
        used.works()?;
    }
    own.remove();
    // A driver that is gone needs none.
    used.node.set_status(0)?;
    for region in used.memory.table() {
        used.node.unmap(&region)?;
    }
    assert_eq!(own_workers(0), []);
    Ok(())
}

/// Reads that the owner without a limit does, meanwhile the other one does at most a fifth.
const READS: u64 = 3000;

fn io_limit_of_the_owner_holds_back_its_disk_only(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let options = NullBlk::default();
    let disks = [Disk::null(&options)?, Disk::null(&options)?];
    let limited = Group::new("limited", "+io")?;
    let free = Group::new("free", "+io")?;
    limited.set(
        "io.max",
        &format!("{} riops=20", disks[0].sysfs("dev")?.trim()),
    )?;
    let result = compare(context, &disks);
    limited.remove();
    free.remove();
    result
}

fn compare(context: &Context, disks: &[Disk; 2]) -> Outcome {
    let paths = disks.each_ref().map(|disk| disk.path().to_str());
    let [Some(first), Some(second)] = paths else {
        return Err("path".into());
    };
    let reads = context.times(READS).max(500);
    let mut slow = child::until_ready(child::command(&READER, &[first, "limited", "0"])?)?;
    let quick = child::command(&READER, &[second, "free", &reads.to_string()])?;
    let quick = child::until_ready(quick)?.wait_with_output()?;
    assert!(quick.status.success(), "the owner without a limit");
    drop(slow.stdin.take());
    let mut text = String::new();
    let out = slow.stdout.as_mut().ok_or("child without stdout")?;
    out.read_to_string(&mut text)?;
    assert!(slow.wait()?.success(), "the owner with a limit");
    let done: u64 = text.trim().parse()?;
    assert!(
        done * 5 < reads,
        "{done} reads with a limit, {reads} without"
    );
    Ok(())
}

/// Reads as fast as it can, so many times, or else until the parent has enough, and tells how often.
fn read_on_and_on(arguments: &[&str]) -> Outcome {
    let [disk, group, goal] = arguments else {
        return Err("three arguments: the disk, the group, and how many reads".into());
    };
    let goal: u64 = goal.parse()?;
    Group::named(group).enter()?;
    let mut vm = Vm::new(&Setup::default())?;
    vm.attach(&disk::open(Path::new(disk), Mode::ReadWrite, 0)?)?;
    let queue = vm.queues.remove(0);
    let load = Load::start(queue, vm.memory.clone(), vm.free());
    child::tell_ready()?;
    match goal {
        0 => child::wait_for_parent()?,
        _ => {
            while load.done() < goal {
                load.await_progress();
            }
        }
    }
    let done = load.done();
    load.finish();
    println!("{done}");
    Ok(())
}

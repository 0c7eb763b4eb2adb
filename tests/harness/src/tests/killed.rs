// SPDX-License-Identifier: GPL-2.0

//! An owner that is killed in the worst moment is gone at once, and with it all that it held; unless
//! the disk itself hangs, and then as soon as it does no more.

use crate::{
    child::{self, Role},
    device::Device,
    disk::{self, Delays, NullBlk},
    fixtures::{
        descriptors::desc,
        in_flight::{await_taken, launch, transfer},
        ranges::zeroes,
        slow_disk::{in_flight, slow_disk},
    },
    kmod,
    memory::{HIGH, MIDDLE},
    oracle::WORKER,
    prelude::*,
    sys::{poll::EventFd, process, userfault::Userfault},
};
use std::{
    error::Error,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};
use vblk_core::{split::Descriptor, testing::Buf, uapi::FORK_OWNER_KTHREAD};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub const TESTS: &[Test] = tests!["harness":
    killed_while_another_process_kicks(60),
    killed_on_a_disk_that_hangs(40),
    killed_while_zeroes_are_written(40),
];

/// Tests of a worker that waits for a page, which it never does with memory that is pinned ahead.
pub const WITHOUT_A_PAGE: &[Test] = tests!["harness":
    killed_while_nobody_brings_a_page(60),
    killed_while_nobody_brings_a_page_to_a_kernel_thread(60),
    killed_while_nobody_brings_a_page_answers_nothing(60),
    killed_while_ioctls_wait_for_others(40),
];

pub const ROLES: &[Role] = &[KICKED, HUNG, ZEROING, FAULTING];

const KICKED: Role = Role {
    name: "kicked",
    run: be_kicked,
};
const HUNG: Role = Role {
    name: "hung",
    run: hang,
};
const ZEROING: Role = Role {
    name: "zeroing",
    run: zero,
};
const FAULTING: Role = Role {
    name: "faulting",
    run: wait_for_a_page,
};

/// Time that a killed owner may take to go.
const SOON: Duration = Duration::from_secs(5);

/// Kills a child that is the only one with a device, and waits until nothing is left of it.
fn kill(context: &Context, mut child: Child) -> Outcome {
    process::kill(child.id())?;
    await_end(context, &mut child)
}

fn await_end(context: &Context, child: &mut Child) -> Outcome {
    let limit = SOON * context.slowness as u32;
    let start = Instant::now();
    while child.try_wait()?.is_none() || kmod::users() != Some(0) {
        assert!(start.elapsed() < limit, "still there after {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Keeps requests in flight, with its stdin as the eventfd to be kicked.
fn be_kicked(arguments: &[&str]) -> Outcome {
    let [disk] = arguments else {
        return Err("one argument: the disk".into());
    };
    let mut vm = in_flight(Path::new(disk))?;
    vm.queues[0].kick = io::stdin().as_fd().try_clone_to_owned()?.into();
    vm.queues[0].tell_files(&vm.device)?;
    child::tell_ready()?;
    loop {
        std::thread::park();
    }
}

fn killed_while_another_process_kicks(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    let path = disk.path().to_str().ok_or("path")?;
    let kick = EventFd::new()?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                kick.signal().expect("kick");
                std::thread::yield_now();
            }
        });
        let killed = (0..context.times_or(80, 500)).try_for_each(|_| {
            let mut command = child::command(&KICKED, &[path])?;
            command.stdin(Stdio::from(kick.as_fd().try_clone_to_owned()?));
            kill(context, child::until_ready(command)?)?;
            drop(disk.open(Mode::ReadWrite)?);
            Ok(())
        });
        over.store(true, Relaxed);
        killed
    })
}

/// Keeps requests at a disk that does nothing: in flight, or with the worker waiting for the
/// first of them, because their buffers have to be copied.
fn hang(arguments: &[&str]) -> Outcome {
    let [disk, how] = arguments else {
        return Err("two arguments: the disk, and how to wait for it".into());
    };
    let disk = Path::new(disk);
    let vm = match *how {
        COPIED => in_flight(disk)?,
        _ => {
            let mut vm = Vm::new(&Setup::default())?;
            vm.attach(&disk::open(disk, Mode::ReadWrite, libc::O_EXCL)?)?;
            let requests: Vec<_> = (0..32)
                .map(|slot| transfer(&vm, slot, slot % 2 == 1))
                .collect();
            launch(&mut vm, &requests);
            await_taken(&vm)?;
            vm
        }
    };
    child::tell_ready()?;
    child::wait_for_parent()?;
    drop(vm);
    Ok(())
}

const COPIED: &str = "copied";

fn killed_on_a_disk_that_hangs(context: &Context) -> Outcome {
    let disk = Disk::delayed(16 << 20, Delays { read: 0, write: 0 })?;
    let path = disk.path().to_str().ok_or("path")?;
    for _ in 0..context.times_or(10, 25) {
        for how in ["in flight", COPIED] {
            disk.suspend()?;
            let mut child = child::until_ready(child::command(&HUNG, &[path, how])?)?;
            process::kill(child.id())?;
            std::thread::sleep(Duration::from_millis(100));
            let users = kmod::users();
            disk.resume()?;
            assert_eq!(users, Some(1), "gone with requests {how}");
            await_end(context, &mut child)?;
            drop(disk.open(Mode::ReadWrite)?);
        }
    }
    Ok(())
}

/// Writes more zeroes than any disk can take soon: each request asks for the most that one can
/// ask for, on two queues. In the worker, or in this thread, which detaches.
fn zero(arguments: &[&str]) -> Outcome {
    const SECTORS: u32 = 1 << 22;
    let [disk, how] = arguments else {
        return Err("two arguments: the disk, and in which thread".into());
    };
    let mut vm = Vm::new(&Setup {
        queues: 2,
        ..Setup::default()
    })?;
    vm.attach(&disk::open(Path::new(disk), Mode::ReadWrite, libc::O_EXCL)?)?;
    let request = zeroes(&*vm.memory, vm.free(), SECTORS, 16 * u64::from(SECTORS));
    request.prepare(&*vm.memory);
    let buffers = request.buffers();
    for queue in &mut vm.queues {
        while queue.driver.add(&buffers).is_some() {}
        queue.notify();
    }
    let pause = Duration::from_millis(100);
    std::thread::sleep(pause);
    if *how == DETACHED {
        // Time for the worker to let go of the queues. If it has not, the kill ends the wait for it.
        std::thread::spawn(move || {
            std::thread::sleep(pause);
            child::tell_ready().expect("parent");
        });
        vm.device.detach()?;
        return Err("so many zeroes were written".into());
    }
    child::tell_ready()?;
    loop {
        std::thread::park();
    }
}

const SERVED: &str = "served";
const DETACHED: &str = "detached";

/// One of these requests alone takes the disk 20 seconds.
fn killed_while_zeroes_are_written(context: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk {
        mib: 32 << 10,
        keeps_data: false,
        delay: Some(Duration::from_millis(20)),
        ..NullBlk::default()
    })?;
    let path = disk.path().to_str().ok_or("path")?;
    for how in [SERVED, DETACHED] {
        let child = child::until_ready(child::command(&ZEROING, &[path, how])?)?;
        kill(context, child).map_err(|error| format!("{how}: {error}"))?;
        drop(disk.open(Mode::ReadWrite)?);
    }
    Ok(())
}

/// The part of a request that lies in memory that never comes.
const PARTS: [&str; 6] = ["header", "data-in", "data-out", "status", "table", "ring"];

fn killed_while_nobody_brings_a_page(context: &Context) -> Outcome {
    PARTS
        .iter()
        .try_for_each(|part| kill_faulting(context, &[part, "0", "task"]))
}

/// A thread of the kernel does not die with its owner.
fn killed_while_nobody_brings_a_page_to_a_kernel_thread(context: &Context) -> Outcome {
    PARTS
        .iter()
        .try_for_each(|part| kill_faulting(context, &[part, "0", "kthread"]))
}

/// The first ioctl waits for the worker, which waits for a page, and the others for the first. A
/// thread of the kernel goes on waiting until they have ended.
fn killed_while_ioctls_wait_for_others(context: &Context) -> Outcome {
    ["task", "kthread"]
        .iter()
        .try_for_each(|worker| kill_faulting(context, &["data-in", "3", worker]))
}

fn kill_faulting(context: &Context, arguments: &[&str]) -> Outcome {
    let (child, _missing, _call) = faulting(arguments)?;
    kill(context, child).map_err(|error| format!("{arguments:?}: {error}").into())
}

/// Who serves the ring next, in a process that has the same memory, finds the page: an answer that the
/// request has failed would be wrong.
fn killed_while_nobody_brings_a_page_answers_nothing(_: &Context) -> Outcome {
    for part in PARTS.into_iter().filter(|part| *part != "ring") {
        let (mut child, _missing, call) = faulting(&[part, "0", "task"])?;
        process::kill(child.id())?;
        // The worker, too, is gone then.
        child.wait()?;
        assert_eq!(call.take()?, 0, "{part}: an interrupt");
    }
    Ok(())
}

/// Starts an owner whose worker waits for a page. Returns it with those who must bring the page, who
/// survive it, and with its call eventfd.
fn faulting(arguments: &[&str]) -> Result<(Child, File, EventFd), Box<dyn Error>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = child::command(&FAULTING, arguments)?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = child::until_ready(command)?;
    let receive = || ours.recv_with_fd(&mut [0u8]);
    let (missing, call) = (receive()?.1, receive()?.1);
    let (missing, call) = missing.zip(call).ok_or("no descriptor came")?;
    Ok((child, missing, OwnedFd::from(call).into()))
}

/// Returns the number of threads of this process that wait and take no signals but deadly ones.
/// Workers, which are threads of this process too, do not count.
fn waiting_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let states = tasks.flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        if name.starts_with(WORKER) {
            return None;
        }
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    states.filter(|state| *state == 'D').count()
}

/// Waits for a page: in the worker, or for a ring in this thread. So many threads wait for the
/// worker.
fn wait_for_a_page(arguments: &[&str]) -> Outcome {
    let [part, threads, worker] = arguments else {
        return Err("three arguments: what lies there, how many threads, and which worker".into());
    };
    let threads: usize = threads.parse()?;
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let device = Device::open()?;
    if *worker == "kthread" {
        device.set_fork_from_owner(FORK_OWNER_KTHREAD)?;
    }
    let mut vm = Vm::on(device, &Setup::default())?;
    let memory = vm.memory.clone();
    let (map, offset) = memory.mapping(GuestAddr(HIGH.guest));
    let missing = Userfault::on(map, offset, HIGH.bytes)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    for file in [missing.as_fd(), vm.queues[0].call.as_fd()] {
        socket.send_with_fd(&[0u8][..], file.as_raw_fd())?;
    }
    std::thread::spawn(move || {
        if missing.is_waited_for(PATIENCE) == Ok(true) {
            while waiting_threads() < threads {
                std::thread::sleep(Duration::from_millis(1));
            }
            child::tell_ready().expect("parent");
        }
        std::thread::park();
    });
    if *part == "ring" {
        let mut addr = vm.queues[0].addr();
        addr.desc_user_addr = memory.host(GuestAddr(HIGH.guest));
        vm.device.set_vring_addr(&addr)?;
    }
    vm.device.attach(&disk)?;
    let (nowhere, data) = (GuestAddr(HIGH.guest), GuestAddr(MIDDLE.guest));
    let (header, status) = (vm.free(), GuestAddr(vm.free().0 + 64));
    let good = BlockRequest::read(0, header, status).data(data, 4096);
    good.prepare(&*memory);
    let mut bufs = good.buffers();
    match *part {
        "header" => bufs[0].addr = nowhere,
        "data-in" => bufs[1].addr = nowhere,
        "status" => bufs[2].addr = nowhere,
        "data-out" => {
            BlockRequest::write(0, header, status).prepare(&*memory);
            bufs[1] = Buf::readable(nowhere, 4096);
        }
        _ => {
            let table = desc(nowhere.0, 48, Descriptor::F_INDIRECT, 0);
            let driver = vm.queue().driver.split();
            driver.write_descriptor(0, &table);
            driver.post(0);
            bufs.clear();
        }
    }
    if !bufs.is_empty() {
        vm.queue().driver.add(&bufs).expect("room");
    }
    vm.queue().notify();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| while vm.device.stats().is_ok() {});
        }
        loop {
            std::thread::park();
        }
    })
}

// SPDX-License-Identifier: GPL-2.0

//! The end: close, SIGKILL and module removal, with requests in flight.

use crate::{
    child::{self, Role},
    device::Device,
    disk,
    fixtures::{
        commands::assert_errno,
        slow_disk::{in_flight, slow_disk, DELAY, DEPTH},
    },
    kmod,
    memory::MIDDLE,
    oracle::facts,
    prelude::*,
    sys::process,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = tests!["harness":
    close_with_256_in_flight(60),
    unload_right_after_close_in_flight(60),
];

/// Tests of owners of a device, and of processes that end with one.
pub const OF_OWNERS: &[Test] = tests!["harness":
    reset_owner_with_256_in_flight(60),
    kill_with_256_in_flight(90),
    owner_dies_while_another_holds_the_device(60),
];

/// Tests that are not about guest memory.
pub const OF_THE_MODULE: &[Test] = tests!["harness":
    module_in_use_is_not_removed(20),
    open_close_load_unload_many_times(60),
];

/// Tests that are about all tests before them.
pub const LAST: &[Test] = tests!["harness":
    kernel_memory_is_not_leaked(60),
];

pub const ROLES: &[Role] = &[IN_FLIGHT, ORPHANS];

const IN_FLIGHT: Role = Role {
    name: "in-flight",
    run: be_in_flight,
};

const ORPHANS: Role = Role {
    name: "orphans",
    run: leave_an_orphan,
};

const ROUNDS: u64 = 50;

fn close_with_256_in_flight(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    for round in 0..context.times(ROUNDS) {
        let Vm {
            device,
            memory,
            queues,
            ..
        } = in_flight(disk.path())?;
        drop(device);
        // Nothing may reach the memory from here on.
        let data = GuestAddr(MIDDLE.guest);
        let len = (DEPTH * 8192) as usize;
        memory.fill(data, len, 0x5A);
        let used = queues[0].driver.used_index();
        std::thread::sleep(DELAY + DELAY / 2);
        assert_eq!(
            queues[0].driver.used_index(),
            used,
            "round {round}: answer after close"
        );
        let bytes = memory.read_vec(data, len);
        assert!(
            bytes.iter().all(|byte| *byte == 0x5A),
            "round {round}: data after close"
        );
    }
    Ok(())
}

fn reset_owner_with_256_in_flight(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    for _ in 0..context.times(ROUNDS / 5) {
        let vm = in_flight(disk.path())?;
        vm.device.reset_owner()?;
        drop(disk.open(Mode::ReadWrite)?);
        assert_errno("stats", vm.device.stats(), Errno::EPERM);
        vm.device.set_owner()?;
        assert_eq!(vm.device.stats()?.requests, 0);
    }
    Ok(())
}

fn be_in_flight(arguments: &[&str]) -> Outcome {
    let [disk] = arguments else {
        return Err("one argument: the disk".into());
    };
    let vm = in_flight(Path::new(disk))?;
    child::tell_ready()?;
    child::wait_for_parent()?;
    drop(vm);
    Ok(())
}

fn kill_with_256_in_flight(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    let path = disk.path().to_str().ok_or("path")?;
    for _ in 0..context.times(ROUNDS) {
        let mut child = child::until_ready(child::command(&IN_FLIGHT, &[path])?)?;
        process::kill(child.id())?;
        child.wait()?;
    }
    Ok(())
}

/// A child whose own child has the device too, and the kick eventfd, when the owner is killed.
fn leave_an_orphan(arguments: &[&str]) -> Outcome {
    let [disk] = arguments else {
        return Err("one argument: the disk".into());
    };
    let vm = in_flight(Path::new(disk))?;
    let owner = std::process::id();
    process::in_fork(|| {
        if child::tell_ready().is_err() {
            return 1;
        }
        while std::os::unix::process::parent_id() == owner {
            vm.queues[0].kick();
            std::thread::sleep(Duration::from_millis(1));
        }
        // The owner is dead. Its memory may be gone, but the device is still there.
        for _ in 0..50 {
            vm.queues[0].kick();
            std::thread::sleep(Duration::from_millis(1));
        }
        u8::from(vm.device.stats() != Err(Errno::EPERM))
    })?;
    Ok(())
}

fn owner_dies_while_another_holds_the_device(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    let path = disk.path().to_str().ok_or("path")?;
    for _ in 0..context.times(ROUNDS / 5) {
        let mut child = child::until_ready(child::command(&ORPHANS, &[path])?)?;
        process::kill(child.id())?;
        child.wait()?;
        // The orphan ends by itself; the device with it.
        let deadline = Instant::now() + PATIENCE;
        while kmod::users() != Some(0) {
            assert!(Instant::now() < deadline, "the orphan does not let go");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The device gives the disk back when it is closed, which nobody waits for here.
        assert_eq!(disk::still_held(disk.path()), None);
    }
    Ok(())
}

fn module_in_use_is_not_removed(_: &Context) -> Outcome {
    let device = Device::open()?;
    assert_eq!(kmod::users(), Some(1));
    assert_errno("open", kmod::unload(), Errno::EAGAIN);
    device.set_owner()?;
    assert_errno("owned", kmod::unload(), Errno::EAGAIN);
    drop(device);
    let disk = slow_disk()?;
    let vm = in_flight(disk.path())?;
    assert_errno("in flight", kmod::unload(), Errno::EAGAIN);
    drop(vm);
    assert_eq!(kmod::users(), Some(0));
    Ok(())
}

fn open_close_load_unload_many_times(context: &Context) -> Outcome {
    for round in 0..context.times_or(200, 1000) {
        let device = Device::open()?;
        if round % 2 == 0 {
            device.set_owner()?;
        }
        drop(device);
        kmod::unload()?;
        assert_eq!(kmod::users(), None);
        assert_eq!(
            Device::open().err(),
            Some(Errno::ENOENT),
            "a node without a driver"
        );
        kmod::load()?;
    }
    Ok(())
}

fn unload_right_after_close_in_flight(context: &Context) -> Outcome {
    let disk = slow_disk()?;
    for _ in 0..context.times(ROUNDS / 5) {
        drop(in_flight(disk.path())?.device);
        kmod::unload()?;
        assert!(
            facts::await_threads(crate::oracle::WORKER, 0).is_empty(),
            "a worker without a module"
        );
        kmod::load()?;
    }
    Ok(())
}

/// Asks kmemleak about all tests until here.
fn kernel_memory_is_not_leaked(context: &Context) -> Outcome {
    const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
    context.needs_debug_kernel()?;
    // What was allocated in the last seconds is not looked at. An object is reported when two scans
    // found it without a reference and unchanged; a stale pointer on a stack can hide it from any.
    std::thread::sleep(Duration::from_secs(6));
    for _ in 0..4 {
        std::fs::write(KMEMLEAK, "scan")?;
    }
    let report = std::fs::read_to_string(KMEMLEAK)?;
    let ours = leaks_of(kmod::NAME, &report);
    assert!(ours.is_empty(), "{}", ours.join("\n"));
    Ok(())
}

/// The parts of a kmemleak report whose backtraces lead through a module.
fn leaks_of<'a>(module: &str, report: &'a str) -> Vec<&'a str> {
    let mark = format!("[{module}]");
    let objects = report.split_inclusive("unreferenced object ");
    objects.filter(|object| object.contains(&mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_are_told_apart_by_their_backtraces() {
        let report = "unreferenced object 0xffff888003a3a000 (size 192):\n  \
            comm \"a\", pid 7\n  backtrace (crc 0):\n    kmalloc+0x1/0x2\n    \
            open+0x1/0x2 [vhost_blk_rs]\n\
            unreferenced object 0xffff888003a3b000 (size 32):\n  backtrace (crc 1):\n    \
            other+0x1/0x2 [other]\n";
        let ours = leaks_of("vhost_blk_rs", report);
        assert_eq!(ours.len(), 1);
        assert!(ours[0].contains("size 192"));
        assert!(leaks_of("vhost_blk_rs", "").is_empty());
    }
}

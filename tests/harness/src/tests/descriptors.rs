// SPDX-License-Identifier: GPL-2.0

//! File descriptors that come and go: none is kept, and none is mistaken for another.

use crate::{
    disk,
    prelude::*,
    sys::{poll::EventFd, process},
};
use std::{
    fs::{self, File},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};
use vblk_core::uapi;

pub const TESTS: &[Test] = tests!["harness":
    replaced_eventfds_are_let_go(60),
    descriptors_swapped_during_the_call(60),
];

/// Commands that take an eventfd.
const EVENTS: [u32; 3] = [
    uapi::VHOST_SET_VRING_KICK,
    uapi::VHOST_SET_VRING_CALL,
    uapi::VHOST_SET_VRING_ERR,
];

/// The number of an eventfd, which the kernel gives to another one when all is gone of it, also
/// what is no open file.
fn number(event: &EventFd) -> Result<u64, Box<dyn std::error::Error>> {
    let path = format!("/proc/self/fdinfo/{}", event.as_fd().as_raw_fd());
    let info = fs::read_to_string(path)?;
    let number = info
        .lines()
        .find_map(|line| line.strip_prefix("eventfd-id:"));
    Ok(number.ok_or("eventfd-id")?.trim().parse()?)
}

/// Open files of all processes, and of the kernel.
fn open_files() -> Result<u64, Box<dyn std::error::Error>> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let count = text.split_whitespace().next();
    Ok(count.ok_or("file-nr")?.parse()?)
}

fn replaced_eventfds_are_let_go(context: &Context) -> Outcome {
    let vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let (files, first) = (open_files()?, number(&EventFd::new()?)?);
    for round in 0..context.times_or(10_000, 100_000) {
        let event = EventFd::new()?;
        let fd = event.as_fd().as_raw_fd();
        for command in EVENTS {
            vm.device.set_file(command, 0, fd)?;
        }
        if round % 8 == 0 {
            event.signal()?;
        }
    }
    // The device holds the last one, but as an open file only for kicks.
    vm.queues[0].tell_files(&vm.device)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (now, next) = (open_files()?, number(&EventFd::new()?)?);
        if (now, next) == (files, first) {
            return Ok(());
        }
        let left = format!("{now} files, {files} before; eventfd {next}, {first} before");
        assert!(Instant::now() < deadline, "{left}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn descriptors_swapped_during_the_call(context: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let disk = disk::open(Disk::ram().path(), Mode::ReadWrite, 0)?;
    let event = EventFd::new()?;
    let plain = File::open("/proc/self/exe")?;
    let changing = OwnedFd::from(File::open("/dev/null")?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                for file in [event.as_fd(), disk.as_fd(), plain.as_fd(), disk.as_fd()] {
                    process::replace_file(file, &changing).expect("dup2");
                }
            }
        });
        // Each must be met; how soon depends on how the two threads take turns. If never, the time
        // limit of the test tells.
        let mut counts = [0; 4];
        let mut all = || -> Outcome {
            let least = context.times_or(5_000, 100_000);
            while counts.iter().sum::<u64>() < 4 * least || counts.contains(&0) {
                call_all(&vm, changing.as_raw_fd(), &mut counts)?;
            }
            Ok(())
        };
        let called = all().map_err(|error| error.to_string());
        over.store(true, Relaxed);
        called
    })?;
    Ok(())
}

/// Counts how many calls found an eventfd, none, a disk, and none.
fn call_all(vm: &Vm, fd: i32, counts: &mut [u64; 4]) -> Result<(), Errno> {
    for command in EVENTS {
        match vm.device.set_file(command, 0, fd) {
            Ok(()) => counts[0] += 1,
            Err(Errno::EINVAL) => counts[1] += 1,
            Err(error) => return Err(error),
        }
    }
    match vm.device.set_file(uapi::VHOST_BLK_SET_BACKEND, 0, fd) {
        Ok(()) => {
            counts[2] += 1;
            vm.device.detach()?;
            // A detachment forgets the addresses.
            vm.device.set_vring_addr(&vm.queues[0].addr())?;
        }
        Err(Errno::ENOTBLK) => counts[3] += 1,
        Err(error) => return Err(error),
    }
    Ok(())
}

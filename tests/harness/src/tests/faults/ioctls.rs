// SPDX-License-Identifier: GPL-2.0

//! Ioctls that run out of memory, or whose arguments can't be copied.

use crate::{
    device::Device,
    fail_nth::{FailNth, MOST},
    fixtures::place::Place,
    oracle::facts,
    prelude::*,
};
use std::{
    cell::{Cell, RefCell},
    fs::File,
};
use vblk_core::{features::Features, uapi::FORK_OWNER_KTHREAD};

pub const TESTS: &[Test] = tests!["harness":
    open_and_set_owner_survive_each_failure(30),
    set_owner_survives_failures_to_make_a_thread(30),
    ioctls_survive_each_failure(30),
    ioctls_survive_each_failure_while_attached(30),
];

/// An ioctl, and what takes it back.
struct Step {
    name: &'static str,
    call: fn(&mut Vm, &File) -> Result<(), Errno>,
    undo: fn(&mut Vm, &File) -> Result<(), Errno>,
}

fn nothing(_: &mut Vm, _: &File) -> Result<(), Errno> {
    Ok(())
}

fn attach(vm: &mut Vm, disk: &File) -> Result<(), Errno> {
    vm.attach(disk)
}

fn detach(vm: &mut Vm, _: &File) -> Result<(), Errno> {
    vm.device.detach()
}

/// Returns the commands that change nothing when they are repeated, at any time.
#[rustfmt::skip]
const ALWAYS: &[Step] = &[
    Step { name: "SET_MEM_TABLE", undo: nothing, call: |vm, _| vm.device.set_mem_table(&vm.memory.table()) },
    Step { name: "SET_VRING_KICK", undo: nothing, call: |vm, _| vm.device.set_vring_kick(0, Some(&vm.queues[0].kick)) },
    Step { name: "SET_VRING_CALL", undo: nothing, call: |vm, _| vm.device.set_vring_call(0, Some(&vm.queues[0].call)) },
    Step { name: "SET_VRING_ERR", undo: nothing, call: |vm, _| vm.device.set_vring_err(0, Some(&vm.queues[0].err)) },
    Step { name: "SET_SERIAL", undo: nothing, call: |vm, _| vm.device.set_serial(&[7; 20]) },
    Step { name: "SET_WRITEBACK", undo: nothing, call: |vm, _| vm.device.set_writeback(1) },
    Step { name: "GET_STATS", undo: nothing, call: |vm, _| vm.device.stats().map(drop) },
    Step { name: "GET_INFO", undo: nothing, call: |vm, _| vm.device.info().map(drop) },
    Step { name: "GET_CONFIG", undo: nothing, call: |vm, disk| vm.device.config(disk, 1, 16).map(drop) },
    Step { name: "GET_FEATURES", undo: nothing, call: |vm, _| vm.device.features().map(drop) },
    Step { name: "GET_BACKEND_FEATURES", undo: nothing, call: |vm, _| vm.device.backend_features().map(drop) },
    Step { name: "GET_VRING_BASE", undo: nothing, call: |vm, _| vm.device.vring_base(0).map(drop) },
];

/// Returns the commands for which no disk may be attached.
#[rustfmt::skip]
const DETACHED: &[Step] = &[
    Step { name: "SET_FEATURES", undo: nothing, call: |vm, _| vm.device.set_features(Features::SUPPORTED.0 & !(1 << 34)) },
    Step { name: "SET_BACKEND_FEATURES", undo: nothing, call: |vm, _| vm.device.set_backend_features(0) },
    Step { name: "SET_VRING_NUM", undo: nothing, call: |vm, _| vm.device.set_vring_num(0, SIZE) },
    Step { name: "SET_VRING_BASE", undo: nothing, call: |vm, _| vm.device.set_vring_base(0, 0) },
    Step { name: "SET_VRING_ADDR", undo: nothing, call: |vm, _| vm.device.set_vring_addr(&vm.queues[0].addr()) },
    Step { name: "SET_BACKEND", undo: detach, call: attach },
];

const SIZE: u32 = 8;

/// Two queues: when the second can't be started, the first must be stopped again.
fn setup() -> Setup {
    Setup {
        queues: 2,
        ..Setup::size(SIZE)
    }
}

/// Errors that a failure may lead to. Thread creation has one of its own.
const MEMORY: &[Errno] = &[Errno::ENOMEM, Errno::EFAULT];
const OWNER: &[Errno] = &[Errno::ENOMEM, Errno::EFAULT, Errno::EAGAIN];
const THREAD: &[Errno] = &[Errno::ENOMEM, Errno::EAGAIN];

/// Performs a call again and again, with one more thing going well each time. After a failure,
/// `check` looks at what the device is then, and the call must succeed. Gives the number of
/// failures.
fn sweep(
    name: &str,
    faults: &FailNth,
    errors: &[Errno],
    mut call: impl FnMut() -> Result<(), Errno>,
    mut after: impl FnMut(bool) -> Outcome,
) -> Result<u32, Box<dyn std::error::Error>> {
    let mut failures = 0;
    for nth in 1..MOST {
        faults.arm(nth)?;
        let result = call();
        let failed = faults.disarm()?;
        let told = |error| format!("{name}, fault {nth}: {error}");
        match result {
            Ok(()) => after(true).map_err(told)?,
            Err(error) => {
                assert!(failed, "{name}: {error} without a fault");
                assert!(errors.contains(&error), "{name}, fault {nth}: {error}");
                after(false).map_err(told)?;
                call().map_err(|error| format!("{name}, again: {error}"))?;
                after(true).map_err(told)?;
                failures += 1;
            }
        }
        if !failed {
            return Ok(failures);
        }
    }
    Err(format!("{name}: no end of failures").into())
}

fn open_and_set_owner_survive_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let faults = FailNth::of_this_thread()?;
    let opened = Cell::new(None);
    let open = || {
        opened.set(Some(Device::open()?));
        Ok(())
    };
    let close = |_| {
        opened.take();
        Ok(())
    };
    assert!(sweep("open", &faults, MEMORY, open, close)? > 0);
    let device = Device::open()?;
    let after = |succeeded| {
        match succeeded {
            true => device.reset_owner()?,
            false => assert_eq!(device.reset_owner(), Err(Errno::EPERM), "half an owner"),
        }
        Ok(())
    };
    // The thread is made by its owner.
    // The kernel allocates for itself in between, now more and now less, so that one sweep misses
    // some failures.
    for _ in 0..20 {
        let failures = sweep("SET_OWNER", &faults, OWNER, || device.set_owner(), after)?;
        assert!(failures > 2, "{failures}");
    }
    Ok(())
}

/// The thread that makes kernel threads is the one that fails, where one is asked for.
fn set_owner_survives_failures_to_make_a_thread(context: &Context) -> Outcome {
    const KTHREADD: u32 = 2;
    context.needs_debug_kernel()?;
    let faults = FailNth::of(KTHREADD)?;
    let device = Device::open()?;
    let after = |succeeded| {
        match succeeded {
            true => device.reset_owner()?,
            false => assert_eq!(device.reset_owner(), Err(Errno::EPERM), "half an owner"),
        }
        Ok(())
    };
    let own = || {
        // A device without an owner has the default again.
        device.set_fork_from_owner(FORK_OWNER_KTHREAD)?;
        device.set_owner()
    };
    let failures = sweep("SET_OWNER", &faults, THREAD, own, after)?;
    assert!(failures > 2, "{failures}");
    Ok(())
}

fn sweep_step(step: &Step, vm: &mut Vm, disk: &File, check: fn(&mut Vm) -> Outcome) -> Outcome {
    let faults = FailNth::of_this_thread()?;
    let vm = RefCell::new(vm);
    let call = || (step.call)(&mut vm.borrow_mut(), disk);
    let after = |succeeded| {
        let vm = &mut vm.borrow_mut();
        match succeeded {
            true => Ok((step.undo)(vm, disk)?),
            false => check(vm),
        }
    };
    // Each has at least an argument or a result that can't be copied.
    let failures = sweep(step.name, &faults, MEMORY, call, after)?;
    assert!(failures > 0, "{}: nothing failed", step.name);
    Ok(())
}

fn ioctls_survive_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let mut vm = Vm::new(&setup())?;
    for step in ALWAYS.iter().chain(DETACHED) {
        sweep_step(step, &mut vm, &file, |vm| {
            // Nothing is attached, and no memory is locked.
            vm.device.set_vring_base(1, 0)?;
            assert_eq!(facts::locked_memory()?, 0, "locked memory");
            Ok(())
        })?;
    }
    vm.attach(&file)?;
    request(&mut vm)
}

fn ioctls_survive_each_failure_while_attached(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let mut vm = Vm::new(&setup())?;
    vm.attach(&file)?;
    let end = Step {
        name: "SET_BACKEND, detaching",
        call: detach,
        undo: attach,
    };
    for step in ALWAYS.iter().chain([&end]) {
        // What was there before is used on.
        sweep_step(step, &mut vm, &file, request)?;
    }
    request(&mut vm)
}

fn request(vm: &mut Vm) -> Outcome {
    let read = Place::of(vm).read(0, 4096);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
    assert_eq!(facts::threads_named(crate::oracle::WORKER).len(), 1);
    Ok(())
}

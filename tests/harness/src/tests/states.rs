// SPDX-License-Identifier: GPL-2.0

//! The control interface in each state of a device, and from several sides at once.

use crate::{
    child::{self, Role},
    device::Device,
    disk,
    fixtures::commands::{assert_errno, assert_not_permitted},
    prelude::*,
    rng::Rng,
};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    thread,
};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

pub const TESTS: &[Test] = tests!["harness":
    every_command_in_every_state(40),
    commands_from_two_threads_at_once(60),
    a_device_sent_over_a_socket_stays_its_owners(20),
];

pub const ROLES: &[Role] = &[RECIPIENT];

const RECIPIENT: Role = Role {
    name: "recipient",
    run: receive,
};

/// States of a device.
#[derive(Clone, Copy, Debug)]
enum State {
    New,
    Owned,
    SetUp,
    Attached,
    Detached,
    Reset,
}

const STATES: [State; 6] = [
    State::New,
    State::Owned,
    State::SetUp,
    State::Attached,
    State::Detached,
    State::Reset,
];

/// A command with arguments that are right, and what becomes of it in each of [`STATES`].
struct Command {
    name: &'static str,
    run: fn(&Vm, &File) -> Result<(), Errno>,
    results: [Result<(), Errno>; 6],
}

const FINE: Result<(), Errno> = Ok(());
const DENIED: Result<(), Errno> = Err(Errno::EPERM);
const BUSY: Result<(), Errno> = Err(Errno::EBUSY);
const NONE: Result<(), Errno> = Err(Errno::ENODEV);
const INVALID: Result<(), Errno> = Err(Errno::EINVAL);
const FAULT: Result<(), Errno> = Err(Errno::EFAULT);

/// Anyone may, at any time.
const PUBLIC: [Result<(), Errno>; 6] = [FINE; 6];
/// The owner may, at any time.
const OWNERS: [Result<(), Errno>; 6] = [DENIED, FINE, FINE, FINE, FINE, DENIED];
/// The owner may; without one there are no workers, for which upstream's errno is EINVAL.
const WORKERS: [Result<(), Errno>; 6] = [INVALID, FINE, FINE, FINE, FINE, INVALID];
/// No worker has this id.
const NO_WORKER: u32 = 12_345;
/// The owner may unless a disk is attached.
const FROZEN: [Result<(), Errno>; 6] = [DENIED, FINE, FINE, BUSY, FINE, DENIED];

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "GET_FEATURES", run: |vm, _| vm.device.features().map(drop), results: PUBLIC },
    Command { name: "GET_BACKEND_FEATURES", run: |vm, _| vm.device.backend_features().map(drop), results: PUBLIC },
    Command { name: "GET_INFO", run: |vm, _| vm.device.info().map(drop), results: PUBLIC },
    Command { name: "GET_CONFIG", run: |vm, disk| vm.device.config(disk, 1, 256).map(drop), results: PUBLIC },
    Command { name: "SET_OWNER", run: |vm, _| vm.device.set_owner(), results: [FINE, BUSY, BUSY, BUSY, BUSY, FINE] },
    Command { name: "RESET_OWNER", run: |vm, _| vm.device.reset_owner(), results: OWNERS },
    Command { name: "SET_FEATURES", run: |vm, _| vm.device.set_features(Setup::default().features), results: FROZEN },
    Command { name: "SET_BACKEND_FEATURES", run: |vm, _| vm.device.set_backend_features(0), results: FROZEN },
    Command { name: "SET_MEM_TABLE", run: |vm, _| vm.device.set_mem_table(&vm.memory.table()), results: OWNERS },
    Command { name: "SET_LOG_BASE", run: |vm, _| vm.device.set_log_base(0), results: OWNERS },
    Command { name: "SET_VRING_NUM", run: |vm, _| vm.device.set_vring_num(0, 256), results: FROZEN },
    Command { name: "SET_VRING_ADDR", run: |vm, _| vm.device.set_vring_addr(&vm.queues[0].addr()), results: OWNERS },
    Command { name: "SET_VRING_BASE", run: |vm, _| vm.device.set_vring_base(0, 0), results: FROZEN },
    Command { name: "GET_VRING_BASE", run: |vm, _| vm.device.vring_base(0).map(drop), results: OWNERS },
    Command { name: "SET_VRING_KICK", run: |vm, _| vm.device.set_vring_kick(0, Some(&vm.queues[0].kick)), results: OWNERS },
    Command { name: "SET_VRING_CALL", run: |vm, _| vm.device.set_vring_call(0, Some(&vm.queues[0].call)), results: OWNERS },
    Command { name: "SET_VRING_ERR", run: |vm, _| vm.device.set_vring_err(0, Some(&vm.queues[0].err)), results: OWNERS },
    Command { name: "SET_SERIAL", run: |vm, _| vm.device.set_serial(&[7; 20]), results: OWNERS },
    Command { name: "SET_WRITEBACK", run: |vm, _| vm.device.set_writeback(1), results: OWNERS },
    Command { name: "SET_MEMORY_PINNED", run: |vm, _| vm.device.set_memory_pinned(0), results: FROZEN },
    Command { name: "GET_VRING_WORKER", run: |vm, _| vm.device.vring_worker(0).map(drop), results: WORKERS },
    Command { name: "ATTACH_VRING_WORKER", run: |vm, _| vm.device.vring_worker(0).and_then(|id| vm.device.attach_vring_worker(0, id)), results: [INVALID, FINE, FINE, BUSY, FINE, INVALID] },
    Command { name: "FREE_WORKER", run: |vm, _| vm.device.free_worker(NO_WORKER), results: [INVALID, NONE, NONE, NONE, NONE, INVALID] },
    Command { name: "GET_FORK_FROM_OWNER", run: |vm, _| vm.device.fork_from_owner().map(drop), results: PUBLIC },
    Command { name: "SET_FORK_FROM_OWNER", run: |vm, _| vm.device.set_fork_from_owner(1), results: [FINE, BUSY, BUSY, BUSY, BUSY, FINE] },
    Command { name: "GET_STATS", run: |vm, _| vm.device.stats().map(drop), results: OWNERS },
    Command { name: "SET_BACKEND", run: |vm, disk| vm.device.attach(disk), results: [DENIED, FAULT, FINE, BUSY, INVALID, DENIED] },
    Command { name: "SET_BACKEND of none", run: |vm, _| vm.device.detach(), results: OWNERS },
];

impl State {
    /// A device that got there the usual way.
    fn reach(self, disk: &File) -> Result<Vm, Errno> {
        let mut vm = Vm::new(&Setup::default())?;
        match self {
            Self::New => vm.device = Device::open()?,
            Self::Owned => {
                vm.device = Device::open()?;
                vm.device.set_owner()?;
            }
            Self::SetUp => {}
            Self::Attached => vm.attach(disk)?,
            Self::Detached => {
                vm.attach(disk)?;
                vm.device.detach()?;
            }
            Self::Reset => {
                vm.attach(disk)?;
                vm.device.reset_owner()?;
            }
        }
        Ok(vm)
    }
}

/// Checks that the device can be owned and set up anew, whatever was done to it.
fn check_alive(vm: &mut Vm, disk: &File) -> Outcome {
    match vm.device.reset_owner() {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    vm.device.set_owner()?;
    vm.device.set_features(Setup::default().features)?;
    vm.device.set_mem_table(&vm.memory.table())?;
    vm.queues[0].tell_geometry(&vm.device, vm.queues[0].driver.base())?;
    vm.queues[0].tell_files(&vm.device)?;
    vm.attach(disk)?;
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let read = read.data(GuestAddr(header.0 + 512), 512);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

fn every_command_in_every_state(_: &Context) -> Outcome {
    let disk = disk::open(Disk::ram().path(), Mode::ReadWrite, 0)?;
    for command in COMMANDS {
        for (state, result) in STATES.into_iter().zip(command.results) {
            let mut vm = state.reach(&disk)?;
            let what = format!("{} when {state:?}", command.name);
            assert_eq!((command.run)(&vm, &disk), result, "{what}");
            check_alive(&mut vm, &disk).map_err(|error| format!("after {what}: {error}"))?;
        }
    }
    Ok(())
}

/// Random commands; each can find any state.
fn storm(vm: &Vm, disk: &File, mut rng: Rng, count: u64) -> [u64; 2] {
    let (mut done, mut refused) = (0, 0);
    for _ in 0..count {
        let command = &COMMANDS[rng.index(0..COMMANDS.len())];
        let result = (command.run)(vm, disk);
        // A disk for rings of which none is set up.
        let unready = command.name == "SET_BACKEND" && result == Err(Errno::EINVAL);
        assert!(
            unready || command.results.contains(&result),
            "{}: {result:?}",
            command.name
        );
        vm.queues[0].kick();
        *if result.is_ok() {
            &mut done
        } else {
            &mut refused
        } += 1;
    }
    [done, refused]
}

fn commands_from_two_threads_at_once(context: &Context) -> Outcome {
    let disk = disk::open(Disk::ram().path(), Mode::ReadWrite, 0)?;
    let mut vm = Vm::new(&Setup::default())?;
    let mut rng = context.rng();
    let rngs = [(); 2].map(|()| Rng::new(rng.bits()));
    let count = context.times_or(50_000, 100_000);
    let counts = thread::scope(|scope| {
        let threads = rngs.map(|rng| scope.spawn(|| storm(&vm, &disk, rng, count)));
        threads.map(|thread| thread.join())
    });
    for counts in counts {
        let counts = counts.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(counts.iter().all(|some| some * 10 > count), "{counts:?}");
    }
    check_alive(&mut vm, &disk)
}

/// The descriptor is a copy of another process's open file.
fn a_device_sent_over_a_socket_stays_its_owners(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let (ours, theirs) = UnixStream::pair()?;
    ours.send_with_fd(&[0u8][..], vm.device.file().as_raw_fd())?;
    let mut command = child::command(&RECIPIENT, &[])?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    child::finish(command)?;
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let read = read.data(GuestAddr(header.0 + 512), 512);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

fn receive(_: &[&str]) -> Outcome {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (_, file) = socket.recv_with_fd(&mut [0u8])?;
    let device = Device::from_file(file.ok_or("no descriptor came")?);
    assert_not_permitted(&device);
    assert_errno("SET_OWNER", device.set_owner(), Errno::EBUSY);
    device.features()?;
    Ok(())
}

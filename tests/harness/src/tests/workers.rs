// SPDX-License-Identifier: GPL-2.0

//! Several workers for the queues of one device: the commands, with upstream's errnos, and that a
//! worker holds up only its own queues.

use crate::{
    device::Device,
    fixtures::commands::assert_errno,
    kmod,
    memory::{HIGH, MIDDLE},
    oracle::{facts, WORKER},
    prelude::*,
    sys::{
        ioctl::{self, BadPointer},
        userfault::Userfault,
    },
};
use std::path::Path;
use vblk_core::uapi::{self, FORK_OWNER_KTHREAD, FORK_OWNER_TASK};

pub const TESTS: &[Test] = tests!["harness":
    arguments_of_worker_commands(20),
    workers_may_change_only_without_a_disk(20),
    arguments_of_fork_from_owner(20),
    fork_from_owner_default(20),
    workers_are_threads_of_the_owner(20),
    a_blocked_worker_holds_up_none_of_the_others(40),
    queues_move_between_workers(40),
];

const QUEUES: u32 = 256;

/// No worker has this id.
const NO_WORKER: u32 = 12_345;

/// Checks that this process has so many workers, as soon as those that were stopped are gone.
#[track_caller]
fn assert_workers(count: usize, what: &str) {
    let name = format!("{WORKER}{}", std::process::id());
    assert_eq!(facts::await_threads(&name, count).len(), count, "{what}");
}

fn arguments_of_worker_commands(_: &Context) -> Outcome {
    let device = Device::open()?;
    let refused = |device: &Device, errno| {
        assert_errno("NEW_WORKER", device.new_worker(), errno);
        assert_errno("FREE_WORKER", device.free_worker(0), errno);
        assert_errno("ATTACH", device.attach_vring_worker(0, 0), errno);
        assert_errno("GET", device.vring_worker(0), errno);
        // Before the argument is read.
        for command in [
            uapi::VHOST_NEW_WORKER,
            uapi::VHOST_FREE_WORKER,
            uapi::VHOST_ATTACH_VRING_WORKER,
            uapi::VHOST_GET_VRING_WORKER,
        ] {
            let bad = ioctl::with_bad_pointer(device, command, BadPointer::Null);
            assert_errno("a bad pointer", bad, errno);
        }
    };
    refused(&device, Errno::EINVAL);
    device.set_owner()?;
    let first = device.vring_worker(0)?;
    // Queues that no command has named yet are with the first one too.
    let other = device.new_worker()?;
    device.attach_vring_worker(0, other)?;
    assert_errno(
        "FREE of one in use",
        device.free_worker(first),
        Errno::EBUSY,
    );
    device.attach_vring_worker(0, first)?;
    device.free_worker(other)?;
    assert_eq!(
        device.vring_worker(QUEUES - 1)?,
        first,
        "one for all queues"
    );
    for index in [QUEUES, QUEUES + 1, u32::MAX] {
        assert_errno("GET", device.vring_worker(index), Errno::ENOBUFS);
        let attach = device.attach_vring_worker(index, first);
        assert_errno("ATTACH", attach, Errno::ENOBUFS);
        let attach = device.attach_vring_worker(index, NO_WORKER);
        assert_errno("ATTACH", attach, Errno::ENOBUFS);
    }
    for id in [NO_WORKER, u32::MAX] {
        let attach = device.attach_vring_worker(0, id);
        assert_errno("ATTACH", attach, Errno::ENODEV);
        assert_errno("FREE", device.free_worker(id), Errno::ENODEV);
    }
    assert_errno(
        "FREE of one in use",
        device.free_worker(first),
        Errno::EBUSY,
    );

    let second = device.new_worker()?;
    assert_ne!(second, first);
    assert_eq!(device.vring_worker(0)?, first, "a new one has no queue");
    device.free_worker(second)?;
    assert_errno("FREE twice", device.free_worker(second), Errno::ENODEV);
    let attach = device.attach_vring_worker(0, second);
    assert_errno("ATTACH to a freed one", attach, Errno::ENODEV);

    let third = device.new_worker()?;
    device.attach_vring_worker(7, third)?;
    device.attach_vring_worker(7, third)?;
    assert_eq!(device.vring_worker(7)?, third);
    assert_eq!(device.vring_worker(6)?, first);
    assert_errno(
        "FREE of one in use",
        device.free_worker(third),
        Errno::EBUSY,
    );
    device.attach_vring_worker(7, first)?;
    device.free_worker(third)?;

    // The first one can go as any other.
    let fourth = device.new_worker()?;
    for index in 0..QUEUES {
        assert_errno(
            "FREE of one in use",
            device.free_worker(first),
            Errno::EBUSY,
        );
        device.attach_vring_worker(index, fourth)?;
    }
    device.free_worker(first)?;
    assert_workers(1, "the first one is gone");
    for command in [
        uapi::VHOST_FREE_WORKER,
        uapi::VHOST_ATTACH_VRING_WORKER,
        uapi::VHOST_GET_VRING_WORKER,
        uapi::VHOST_NEW_WORKER,
    ] {
        for bad in BadPointer::ALL {
            let result = ioctl::with_bad_pointer(&device, command, bad);
            assert_errno(&format!("{command:#x} at {bad:?}"), result, Errno::EFAULT);
        }
    }
    device.reset_owner()?;
    refused(&device, Errno::EINVAL);
    assert_workers(0, "of before");
    Ok(())
}

/// Stricter than upstream: a queue stays with its worker while it is served.
fn workers_may_change_only_without_a_disk(_: &Context) -> Outcome {
    let mut vm = Vm::new(&Setup::default())?;
    let first = vm.device.vring_worker(0)?;
    let second = vm.device.new_worker()?;
    vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
    for (index, id) in [(0, first), (0, second), (9, second)] {
        let attach = vm.device.attach_vring_worker(index, id);
        assert_errno("ATTACH", attach, Errno::EBUSY);
    }
    // What touches no queue is allowed.
    assert_eq!(vm.device.vring_worker(0)?, first);
    let third = vm.device.new_worker()?;
    vm.device.free_worker(third)?;
    vm.device.free_worker(second)?;
    assert_errno("FREE", vm.device.free_worker(first), Errno::EBUSY);
    let read = read_on(&vm, 0);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

fn arguments_of_fork_from_owner(_: &Context) -> Outcome {
    let device = Device::open()?;
    assert_eq!(device.fork_from_owner()?, FORK_OWNER_TASK, "the default");
    for kind in [2, 3, 0x80, 0xff] {
        let result = device.set_fork_from_owner(kind);
        assert_errno(&format!("kind {kind}"), result, Errno::EINVAL);
    }
    for command in [
        uapi::VHOST_SET_FORK_FROM_OWNER,
        uapi::VHOST_GET_FORK_FROM_OWNER,
    ] {
        for bad in BadPointer::ALL {
            let result = ioctl::with_bad_pointer(&device, command, bad);
            assert_errno("a bad pointer", result, Errno::EFAULT);
        }
    }
    for kind in [FORK_OWNER_KTHREAD, FORK_OWNER_TASK, FORK_OWNER_KTHREAD] {
        device.set_fork_from_owner(kind)?;
        assert_eq!(device.fork_from_owner()?, kind);
    }
    device.set_owner()?;
    for kind in [FORK_OWNER_KTHREAD, FORK_OWNER_TASK] {
        let result = device.set_fork_from_owner(kind);
        assert_errno("with an owner", result, Errno::EBUSY);
    }
    assert_eq!(device.fork_from_owner()?, FORK_OWNER_KTHREAD);
    // Threads of the kernel are not charged: one for each device has to do.
    assert_errno("NEW_WORKER", device.new_worker(), Errno::EFAULT);
    device.vring_worker(0)?;
    Ok(())
}

fn fork_from_owner_default(_: &Context) -> Outcome {
    for (parameter, kind, threads) in [
        (c"fork_from_owner_default=0", FORK_OWNER_KTHREAD, 0),
        (c"fork_from_owner_default=1", FORK_OWNER_TASK, 1),
    ] {
        let _reloaded = kmod::Reloaded::with(parameter)?;
        let device = Device::open()?;
        assert_eq!(device.fork_from_owner()?, kind, "{parameter:?}");
        device.set_owner()?;
        assert_eq!(
            own_threads(),
            threads,
            "{parameter:?}: threads of the owner"
        );
    }
    Ok(())
}

/// Workers among the threads of this process.
fn own_threads() -> usize {
    let own =
        |worker: &facts::Thread| Path::new(&format!("/proc/self/task/{}", worker.pid)).exists();
    facts::threads_named(WORKER)
        .iter()
        .filter(|worker| own(worker))
        .count()
}

fn workers_are_threads_of_the_owner(_: &Context) -> Outcome {
    let device = Device::open()?;
    device.set_owner()?;
    let mut ids = Vec::new();
    for count in 2..10 {
        ids.push(device.new_worker()?);
        assert_workers(count, "one more");
    }
    for worker in facts::threads_named(WORKER) {
        assert_eq!(worker.name, format!("{WORKER}{}", std::process::id()));
    }
    assert_eq!(own_threads(), 9, "threads of this process");
    for (id, left) in ids.drain(..4).zip((1..9).rev()) {
        device.free_worker(id)?;
        assert_workers(left, "one less");
    }
    drop(device);
    assert_workers(0, "after close");
    Ok(())
}

/// A read of a sector with the queue's own place.
fn read_on(vm: &Vm, queue: u64) -> BlockRequest {
    let header = GuestAddr(vm.free().0 + queue * 32);
    let read = BlockRequest::read(queue, header, GuestAddr(header.0 + 16));
    read.data(GuestAddr(MIDDLE.guest + queue * 512), 512)
}

/// A worker waits for a page that never comes. Queues of its own wait too, those of another worker
/// do not.
fn a_blocked_worker_holds_up_none_of_the_others(_: &Context) -> Outcome {
    let setup = Setup {
        queues: 3,
        ..Setup::default()
    };
    let mut vm = Vm::new(&setup)?;
    let second = vm.device.new_worker()?;
    vm.device.attach_vring_worker(2, second)?;
    vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
    let memory = vm.memory.clone();
    let (map, offset) = memory.mapping(GuestAddr(HIGH.guest));
    let missing = Userfault::on(map, offset, HIGH.bytes)?;
    let mut lost = read_on(&vm, 0);
    lost.data[0].addr = GuestAddr(HIGH.guest);
    lost.prepare(&*memory);
    vm.queue().submit(&lost.buffers());
    assert!(
        missing.is_waited_for(PATIENCE)?,
        "no thread waits for the page"
    );
    let read = read_on(&vm, 1);
    read.prepare(&*memory);
    vm.queues[1].submit(&read.buffers());
    let other = read_on(&vm, 2);
    for _ in 0..100 {
        assert_eq!(vm.queues[2].request(&other), Answer::new(OK, 513));
    }
    for queue in 0..2 {
        let used = vm.queues[queue].driver.poll_used();
        assert_eq!(used, None, "queue {queue}: of the worker that waits");
    }
    drop(missing);
    for queue in 0..2 {
        assert_eq!(vm.queues[queue].next_used().len, 513, "queue {queue}");
    }
    Ok(())
}

/// Each time with another distribution of the queues.
fn queues_move_between_workers(context: &Context) -> Outcome {
    let setup = Setup {
        queues: 4,
        ..Setup::size(16)
    };
    let disk = Disk::ram();
    let mut vm = Vm::new(&setup)?;
    let mut ids = vec![vm.device.vring_worker(0)?];
    let mut rng = context.rng();
    for round in 0..context.times(50) {
        if ids.len() < 6 {
            ids.push(vm.device.new_worker()?);
        }
        for index in 0..4 {
            let id = ids[rng.index(0..ids.len())];
            vm.device.attach_vring_worker(index, id)?;
            assert_eq!(vm.device.vring_worker(index)?, id);
        }
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        for index in 0..4 {
            let read = read_on(&vm, index as u64);
            let answer = vm.queues[index].request(&read);
            assert_eq!(answer, Answer::new(OK, 513), "round {round}, queue {index}");
        }
        assert_eq!(vm.device.stats()?.requests, 4 * (round + 1));
        vm.device.detach()?;
    }
    Ok(())
}

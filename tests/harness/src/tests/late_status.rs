// SPDX-License-Identifier: GPL-2.0

//! I/O that completes later and elsewhere than all before it: the disk reads at once, but takes its
//! time to write. The status byte goes to the page that was the guest's when the request was taken,
//! exactly once, whatever the owner does to its memory in between.

use crate::{
    disk::{Delays, NullBlk},
    fixtures::{
        in_flight::{await_taken, launch, transfer},
        worker::in_another_thread,
    },
    memory::{GuestMemory, REGIONS},
    oracle::{facts, WORKER},
    prelude::*,
    sys::{
        map::Access,
        process::{self, Policy},
    },
};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = tests!["harness":
    late_answers(20),
    late_answers_at_detach(20),
    late_answers_after_close(20),
    late_answers_in_protected_memory(20),
    late_answers_in_the_turn_of_another_queue(20),
];

/// Tests of memory tables that are replaced while a disk is attached, with the ring where it was.
pub const ON_ANOTHER_TABLE: &[Test] = tests!["harness":
    late_answers_go_where_the_request_was_taken(20),
    late_answers_in_the_worker_go_where_the_request_was_taken(20),
];

/// Writes that are late at once.
const COUNT: u64 = 8;

const DELAY: Duration = Duration::from_millis(100);

fn disk() -> Result<Disk, Errno> {
    let write = DELAY.as_millis() as u32;
    Disk::delayed(8 << 20, Delays { read: 0, write })
}

/// Performs reads that complete at once, then submits writes that do not.
fn disappoint(vm: &mut Vm) -> Result<Vec<BlockRequest>, Box<dyn std::error::Error>> {
    let read = transfer(vm, COUNT, false);
    for _ in 0..2 {
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
    }
    let writes: Vec<_> = (0..COUNT).map(|slot| transfer(vm, slot, true)).collect();
    launch(vm, &writes);
    await_taken(vm)?;
    let driver = &vm.queues[0].driver;
    assert_eq!(driver.used_index(), driver.next_used(), "answered already");
    Ok(writes)
}

fn late_answers(context: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let mut rng = context.rng();
    for round in 1..=3 {
        let bytes = rng.bytes((COUNT * 4096) as usize);
        vm.memory.write(transfer(&vm, 0, true).data[0].addr, &bytes);
        for write in disappoint(&mut vm)? {
            assert_eq!(vm.queue().next_used().len, 1);
            assert_eq!(vm.memory.read_u8(write.status), OK);
        }
        assert_eq!(disk.read(0, bytes.len())?, bytes, "on the disk");
        let stats = vm.device.stats()?;
        assert_eq!(stats.requests, round * (COUNT + 2));
        assert_eq!(stats.bytes_written, round * COUNT * 4096);
        assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    }
    Ok(())
}

fn late_answers_at_detach(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let writes = disappoint(&mut vm)?;
    vm.device.detach()?;
    assert_eq!(vm.device.vring_base(0)?, vm.queues[0].driver.base());
    for write in writes {
        assert_eq!(vm.queue().driver.poll_used().map(|used| used.len), Some(1));
        assert_eq!(vm.memory.read_u8(write.status), OK);
    }
    Ok(())
}

/// Closing waits for the disk.
fn late_answers_after_close(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let writes = disappoint(&mut vm)?;
    let Vm { device, memory, .. } = vm;
    drop(device);
    for write in writes {
        assert_eq!(memory.read_u8(write.status), OK);
    }
    Ok(())
}

/// The page of the status bytes was writable when the writes were taken, and is still the guest's.
fn late_answers_in_protected_memory(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let writes = disappoint(&mut vm)?;
    let memory = vm.memory.clone();
    let (map, offset) = memory.mapping(vm.free());
    map.protect(offset, 4096, Access::Read)?;
    for write in &writes {
        assert_eq!(vm.queue().next_used().len, 1);
        assert_eq!(vm.memory.read_u8(write.status), OK);
    }
    assert_eq!(vm.queue().err.take()?, 0, "error eventfd");
    let stats = vm.device.stats()?;
    assert_eq!((stats.malformed, stats.stopped_queues), (0, 0));
    map.protect(offset, 4096, Access::ReadWrite)?;
    let read = transfer(&vm, 0, false);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
    Ok(())
}

/// The new table is for requests that are taken from then on.
fn late_answers_go_where_the_request_was_taken(_: &Context) -> Outcome {
    let disk = disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let writes = disappoint(&mut vm)?;
    let other = GuestMemory::new(&REGIONS)?;
    vm.device.set_mem_table(&other.table())?;
    for write in writes {
        assert_eq!(vm.queue().next_used().len, 1);
        assert_eq!(vm.memory.read_u8(write.status), OK, "where it was taken");
    }
    let rings_end = vm.free().0 as usize;
    let touched = other.read_vec(GuestAddr(0), rings_end + 4096);
    assert!(
        touched.iter().all(|byte| *byte == 0),
        "memory of another use"
    );
    // Or it is guest memory no more.
    vm.device.set_mem_table(&vm.memory.table())?;
    let writes = disappoint(&mut vm)?;
    vm.device.set_mem_table(&[])?;
    for write in writes {
        assert_eq!(vm.queue().next_used().len, 1);
        assert_eq!(vm.memory.read_u8(write.status), OK, "where it was taken");
    }
    assert_eq!(vm.queue().err.take()?, 0, "error eventfd");
    let stats = vm.device.stats()?;
    assert_eq!((stats.malformed, stats.stopped_queues), (0, 0));
    assert_eq!(stats.bytes_written, 2 * COUNT * 4096);
    Ok(())
}

/// Does the same as [`late_answers_go_where_the_request_was_taken`], but the I/O completes in the worker.
fn late_answers_in_the_worker_go_where_the_request_was_taken(_: &Context) -> Outcome {
    let disk = limited_disk()?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let other = GuestMemory::new(&REGIONS)?;
    let waiting = in_another_thread(|| have_worker_run_the_disk(&mut vm, &other))?;
    for _ in 0..TAGS + 1 {
        assert_ne!(vm.queue().next_used().len, 0);
    }
    for write in waiting {
        assert_eq!(vm.memory.read_u8(write.status), OK, "where it was taken");
        assert_eq!(other.read_u8(write.status), 0, "memory of another use");
    }
    assert_eq!(vm.device.stats()?.malformed, 0);
    Ok(())
}

/// One worker serves two queues, and the disk ends the I/O of one while it takes that of the other.
fn late_answers_in_the_turn_of_another_queue(_: &Context) -> Outcome {
    let disk = limited_disk()?;
    let setup = Setup {
        queues: 2,
        ..Setup::default()
    };
    let mut vm = Vm::with_disk(&setup, &disk)?;
    in_another_thread(|| have_another_queue_run_the_disk(&mut vm))?;
    let queue = vm.queue();
    assert!(queue.call.wait(PATIENCE)? > 0, "no interrupt");
    for _ in 0..TAGS {
        assert!(queue.driver.poll_used().is_some());
    }
    Ok(())
}

/// Leaves the disk with as many writes of the first queue as it takes, none of them the last of its
/// batch, with an interrupt armed for their answers. Then the second queue has the worker submit one
/// more, as in [`have_worker_run_the_disk`].
fn have_another_queue_run_the_disk(vm: &mut Vm) -> Result<(), Errno> {
    keep_cpu()?;
    let mut waiting = 0;
    for slot in 0..100 {
        let write = transfer(vm, 2 * slot, true);
        let place = transfer(vm, 2 * slot + 1, true);
        let last = BlockRequest::get_id(place.header, place.status).data(place.data[0].addr, 20);
        launch(vm, &[write, last]);
        // After a tick of the disk this worker may do what waited, too.
        let answered = std::iter::from_fn(|| vm.queue().driver.poll_used()).count();
        assert!(answered > 0, "the last of the batch");
        waiting = waiting + 2 - answered;
        if waiting == TAGS {
            break;
        }
    }
    assert_eq!(waiting, TAGS, "a disk without a limit");
    assert!(!vm.queue().driver.enable_interrupt(), "answered already");
    vm.queue().call.take()?;
    await_tick();
    let write = transfer(vm, 300, true);
    write.prepare(&*vm.memory);
    vm.queues[1].submit(&write.buffers());
    Ok(())
}

/// Has this thread and the workers keep a CPU, the workers first.
fn keep_cpu() -> Result<(), Errno> {
    const CPU: usize = 1;
    for worker in facts::threads_named(WORKER) {
        process::run_on(worker.pid, CPU)?;
        process::set_policy(worker.pid, Policy::Fifo(2))?;
    }
    process::run_on(0, CPU)?;
    process::set_policy(0, Policy::Fifo(1))
}

/// Waits, without letting go of the CPU, until a limited disk may go on.
fn await_tick() {
    let ticked = Instant::now() + Duration::from_millis(50);
    while Instant::now() < ticked {
        std::hint::spin_loop();
    }
}

/// Requests that [`limited_disk`] takes at once.
const TAGS: usize = 2;

/// Creates a disk that does what it may do until its next tick, and keeps the rest.
fn limited_disk() -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        mbps: 1,
        depth: TAGS as u32,
        queues: 2,
        ..NullBlk::default()
    })
}

/// Leaves the disk with as many writes as it takes, exchanges the memory table, and has the worker
/// submit one more. A disk that takes no more is run by the thread that submits, and then these
/// writes are done: by the worker.
///
/// The threads of the kernel on the same CPU that would have done them before never get it: we
/// keep it, but for the worker. So the worker had its turn whenever a kick is over.
fn have_worker_run_the_disk(vm: &mut Vm, other: &GuestMemory) -> Result<Vec<BlockRequest>, Errno> {
    keep_cpu()?;
    // It does what it may do until its next tick, and keeps the rest.
    let mut waiting = Vec::new();
    for slot in 1..100 {
        let write = transfer(vm, slot, true);
        write.prepare(&*vm.memory);
        let head = vm.queue().submit(&write.buffers());
        waiting.push((u32::from(head), write));
        while let Some(used) = vm.queue().driver.poll_used() {
            waiting.retain(|(head, _)| *head != used.id);
        }
        if waiting.len() == TAGS {
            break;
        }
    }
    assert_eq!(waiting.len(), TAGS, "a disk without a limit");
    vm.device.set_mem_table(&other.table())?;
    await_tick();
    let read = transfer(vm, 0, false);
    read.prepare(other);
    vm.queue().submit(&read.buffers());
    Ok(waiting.into_iter().map(|(_, write)| write).collect())
}

// SPDX-License-Identifier: GPL-2.0

//! Changing things while requests are under way.

use crate::{
    disk::NullBlk,
    fixtures::commands::assert_errno,
    load::{Load, Slots, Traffic},
    memory::MIDDLE,
    prelude::*,
};
use std::{
    sync::{
        atomic::{AtomicU64, Ordering::SeqCst},
        Arc,
    },
    time::Duration,
};
use vblk_core::{ring::Format, uapi::MemoryRegion};

pub const TESTS: &[Test] = tests!["harness":
    detach_and_attach_under_load(60),
    detach_waits_for_requests_in_flight(40),
    queues_moved_between_disks(40),
    another_disk_under_load(60),
    base_across_the_wrap(40),
];

/// Tests of memory tables that are replaced while a disk is attached, with the ring where it was, and
/// of what is refused meanwhile.
pub const ON_ANOTHER_TABLE: &[Test] = tests!["harness":
    memory_table_replaced_under_load(60),
    bad_memory_tables_change_nothing(40),
    memory_taken_away_and_given_back(20),
    geometry_changes_under_load_are_refused(40),
];

fn slow_disk() -> Result<Disk, Errno> {
    let delay = Some(Duration::from_micros(200));
    Disk::null(&NullBlk {
        delay,
        ..NullBlk::default()
    })
}

/// The same memory, told in smaller regions and another order.
fn cut_table(table: &[MemoryRegion]) -> Vec<MemoryRegion> {
    let half = |region: &MemoryRegion, offset: u64, size: u64| MemoryRegion {
        guest_phys_addr: region.guest_phys_addr + offset,
        memory_size: size,
        userspace_addr: region.userspace_addr + offset,
        flags_padding: 0,
    };
    let halves = table.iter().rev().flat_map(|region| {
        // Not at a page boundary: single requests straddle the cut.
        let cut = 3000;
        [
            half(region, cut, region.memory_size - cut),
            half(region, 0, cut),
        ]
    });
    halves.collect()
}

fn memory_table_replaced_under_load(context: &Context) -> Outcome {
    for disk in [Disk::ram(), slow_disk()?] {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let queue = vm.queues.remove(0);
        let load = Load::start(queue, vm.memory.clone(), vm.free());
        let whole = vm.memory.table();
        let cut = cut_table(&whole);
        for _ in 0..context.times(300) {
            vm.device.set_mem_table(&cut)?;
            load.await_progress();
            vm.device.set_mem_table(&whole)?;
        }
        load.finish();
        let stats = vm.device.stats()?;
        assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    }
    Ok(())
}

fn bad_memory_tables_change_nothing(context: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let queue = vm.queues.remove(0);
    let good = vm.memory.table();
    let with = |change: &dyn Fn(&mut MemoryRegion)| {
        let mut table = good.clone();
        change(&mut table[1]);
        table
    };
    let (first, kernel) = (good[2].guest_phys_addr, 0xffff_8880_0000_0000);
    let small = |at: u64| MemoryRegion {
        guest_phys_addr: (1 << 40) + (at << 12),
        memory_size: 4096,
        ..good[0]
    };
    let bad = [
        (
            "empty",
            with(&|region| region.memory_size = 0),
            Errno::EFAULT,
        ),
        (
            "overlap",
            with(&|region| region.guest_phys_addr = first),
            Errno::EINVAL,
        ),
        (
            "wraps",
            with(&|region| region.guest_phys_addr = u64::MAX),
            Errno::EFAULT,
        ),
        (
            "kernel",
            with(&|region| region.userspace_addr = kernel),
            Errno::EFAULT,
        ),
        (
            "into the kernel",
            with(&|region| region.memory_size = 1 << 63),
            Errno::EFAULT,
        ),
        ("65 regions", (0..65).map(small).collect(), Errno::E2BIG),
        ("66 regions", (0..66).map(small).collect(), Errno::E2BIG),
    ];
    let load = Load::start(queue, vm.memory.clone(), vm.free());
    for _ in 0..context.times(20) {
        for (name, table, errno) in &bad {
            assert_errno(name, vm.device.set_mem_table(table), *errno);
            load.await_progress();
        }
    }
    load.finish();
    vm.memory.check_guards();
    let stats = vm.device.stats()?;
    assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    Ok(())
}

fn memory_taken_away_and_given_back(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let header = vm.free();
    let status = GuestAddr(header.0 + 16);
    let read = BlockRequest::read(0, header, status).data(GuestAddr(MIDDLE.guest), 4096);
    let all = vm.memory.table();
    let without = |guest: u64| -> Vec<MemoryRegion> {
        all.iter()
            .copied()
            .filter(|region| region.guest_phys_addr != guest)
            .collect()
    };
    for _ in 0..10 {
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
        vm.device.set_mem_table(&without(MIDDLE.guest))?;
        assert_eq!(
            vm.queue().request(&read),
            Answer::new(IOERR, 0),
            "data is gone"
        );
        // The rings stay where they were mapped, although no region holds them.
        vm.device.set_mem_table(&without(0))?;
        read.prepare(&*vm.memory);
        vm.queue().submit(&read.buffers());
        assert_eq!(vm.queue().next_used().len, 0, "header and status are gone");
        vm.device.set_mem_table(&all)?;
    }
    assert_eq!(vm.device.stats()?.malformed, 10);
    // Guest addresses may come to mean other memory.
    let moved = MemoryRegion {
        guest_phys_addr: 1 << 40,
        ..without(0)[1]
    };
    assert_eq!(
        vm.memory.host(GuestAddr(MIDDLE.guest)),
        moved.userspace_addr
    );
    vm.device
        .set_mem_table(&[without(MIDDLE.guest), vec![moved]].concat())?;
    vm.memory.fill(GuestAddr(MIDDLE.guest), 4096, 0x77);
    let read = BlockRequest::read(0, header, status).data(GuestAddr(1 << 40), 4096);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
    Ok(())
}

fn detach_and_attach_under_load(context: &Context) -> Outcome {
    for disk in [Disk::ram(), slow_disk()?] {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let queue = vm.queues.remove(0);
        let memory = vm.memory.clone();
        let split_index = {
            let (memory, layout) = (memory.clone(), *queue.driver.layout());
            let split = layout.format == Format::Split;
            move || split.then(|| u32::from(memory.load_acquire_u16(layout.used_index())))
        };
        let addr = queue.addr();
        let load = Load::start(queue, memory, vm.free());
        for round in 0..context.times(200) {
            load.await_progress();
            vm.device.detach()?;
            // An exclusive open shows that it is not held.
            let file = disk.open(Mode::ReadWrite)?;
            let base = vm.device.vring_base(0)?;
            // A packed ring has no index: there, both halves must stand at the same place.
            let used = split_index().unwrap_or(base.rotate_left(16));
            assert_eq!(base, used, "what was taken was given back");
            if round % 2 == 0 {
                // As a VMM that sets up everything anew.
                vm.device.set_vring_num(0, 256)?;
                vm.device.set_vring_addr(&addr)?;
                vm.device.set_vring_base(0, base)?;
            }
            vm.attach(&file)?;
        }
        load.await_progress();
        load.finish();
    }
    Ok(())
}

fn detach_waits_for_requests_in_flight(_: &Context) -> Outcome {
    let delay = Duration::from_millis(100);
    let disk = Disk::null(&NullBlk {
        delay: Some(delay),
        ..NullBlk::default()
    })?;
    let mut vm = Vm::with_disk(&Setup::size(1024), &disk)?;
    let request = |slot: u64| {
        let header = GuestAddr(vm.free().0 + slot * 32);
        let data = GuestAddr(MIDDLE.guest + slot * 4096);
        BlockRequest::read(slot * 8, header, GuestAddr(header.0 + 16)).data(data, 4096)
    };
    let requests: Vec<_> = (0..256).map(request).collect();
    for request in &requests {
        request.prepare(&*vm.memory);
        vm.queue().driver.add(&request.buffers()).expect("room");
    }
    vm.queue().notify();
    std::thread::sleep(delay / 4);
    vm.device.detach()?;
    // What was taken was answered before detach returned; the rest is still in the ring.
    let base = vm.device.vring_base(0)?;
    let driver = &vm.queue().driver;
    assert_eq!(base, driver.base());
    let taken = driver.used_index() != driver.next_used();
    assert!(taken, "no request was taken in {:?}", delay / 4);
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    for _ in &requests {
        assert_eq!(vm.queue().next_used().len, 4097);
    }
    assert!(requests
        .iter()
        .all(|request| vm.memory.read_u8(request.status) == OK));
    Ok(())
}

fn queues_moved_between_disks(context: &Context) -> Outcome {
    let disks = [Disk::null(&NullBlk::default())?, Disk::ram()];
    let mut rng = context.rng();
    let contents = [rng.bytes(4096), rng.bytes(4096)];
    for (disk, bytes) in disks.iter().zip(&contents) {
        disk.write(0, bytes)?;
    }
    let mut vm = Vm::new(&Setup::default())?;
    let header = vm.free();
    let status = GuestAddr(header.0 + 16);
    let data = GuestAddr(MIDDLE.guest);
    let read = BlockRequest::read(0, header, status).data(data, 4096);
    for _ in 0..20 {
        for (disk, bytes) in disks.iter().zip(&contents) {
            vm.attach(&disk.open(Mode::ReadWrite)?)?;
            assert_eq!(vm.queue().request(&read), Answer::new(OK, 4097));
            assert_eq!(&vm.memory.read_vec(data, 4096), bytes);
            vm.device.detach()?;
        }
    }
    Ok(())
}

fn geometry_changes_under_load_are_refused(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let queue = vm.queues.remove(0);
    let mut addr = queue.addr();
    addr.desc_user_addr += 4096;
    let load = Load::start(queue, vm.memory.clone(), vm.free());
    for _ in 0..context.times(200) {
        assert_errno("features", vm.device.set_features(0), Errno::EBUSY);
        assert_errno("num", vm.device.set_vring_num(0, 1), Errno::EBUSY);
        assert_errno("base", vm.device.set_vring_base(0, 0), Errno::EBUSY);
        assert_errno("addr", vm.device.set_vring_addr(&addr), Errno::EBUSY);
        load.await_progress();
    }
    load.finish();
    Ok(())
}

fn base_across_the_wrap(context: &Context) -> Outcome {
    for base in [65535, 65500, 32767, 1] {
        let mut vm = Vm::with_disk(
            &Setup {
                base,
                ..Setup::size(64)
            },
            &Disk::ram(),
        )?;
        let queue = vm.queues.remove(0);
        let load = Load::start(queue, vm.memory.clone(), vm.free());
        for _ in 0..context.times(20) {
            load.await_progress();
        }
        let queue = load.finish();
        vm.device.detach()?;
        assert_eq!(queue.driver.used_index(), queue.driver.next_avail());
        assert_eq!(vm.device.vring_base(0)?, queue.driver.base());
    }
    Ok(())
}

/// Reads of the first blocks of one of two disks, which are filled with their numbers.
struct EitherDisk {
    slots: Slots,
    /// Half of it is the number of the disk that is attached; odd while that changes.
    time: Arc<AtomicU64>,
    began: [u64; Slots::COUNT as usize],
}

impl Traffic for EitherDisk {
    const DEPTH: u64 = Slots::COUNT;

    fn next(&mut self, slot: u64) -> BlockRequest {
        self.slots.memory.fill(Slots::data(slot), 4096, 0xEE);
        self.began[slot as usize] = self.time.load(SeqCst);
        self.slots.request(slot, slot, false)
    }

    fn answered(&mut self, slot: u64, _: &BlockRequest, answer: Answer) {
        assert_eq!(answer, Answer::new(OK, 4097));
        let now = self.time.load(SeqCst);
        let bytes = self.slots.memory.read_vec(Slots::data(slot), 4096);
        let whole = bytes.iter().all(|byte| *byte == bytes[0]);
        assert!(whole && bytes[0] < 2, "data of no disk, or of both");
        if now == self.began[slot as usize] && now % 2 == 0 {
            let attached = now / 2 % 2;
            assert_eq!(u64::from(bytes[0]), attached, "data of the other disk");
        }
    }
}

fn another_disk_under_load(context: &Context) -> Outcome {
    let disks = [Disk::ram(), Disk::null(&NullBlk::default())?];
    for (disk, number) in disks.iter().zip([0, 1]) {
        disk.write(0, &[number; Slots::COUNT as usize * 4096])?;
    }
    let mut vm = Vm::with_disk(&Setup::default(), &disks[0])?;
    let time = Arc::new(AtomicU64::new(0));
    let traffic = EitherDisk {
        slots: Slots::of(&vm),
        time: time.clone(),
        began: [0; Slots::COUNT as usize],
    };
    let queue = vm.queues.remove(0);
    let load = Load::of(traffic, queue, vm.memory.clone());
    for round in 1..=context.times(200) {
        load.await_progress();
        time.fetch_add(1, SeqCst);
        vm.device.detach()?;
        // An exclusive open shows that it is not held.
        drop(disks[(round + 1) as usize % 2].open(Mode::ReadWrite)?);
        let next = &disks[round as usize % 2];
        vm.attach(&next.open(Mode::ReadWrite)?)?;
        time.fetch_add(1, SeqCst);
    }
    load.await_progress();
    load.finish();
    Ok(())
}

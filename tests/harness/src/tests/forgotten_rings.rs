// SPDX-License-Identifier: GPL-2.0

//! A guest that is rebooted: its last system had four queues, its firmware has one. The memory of the
//! other three has another use now.

use crate::{fixtures::commands::assert_errno, memory::MIDDLE, prelude::*};

pub const TESTS: &[Test] = tests!["harness":
    rings_of_before_a_reboot_are_left_alone(20),
    rings_of_before_a_reboot_may_be_gone(20),
    a_detachment_forgets_where_rings_are(20),
];

const QUEUES: u32 = 4;
const SECTOR: u64 = 8;
const OLD: u8 = 0x0D;
const NEW: u8 = 0x4E;

fn setup() -> Setup {
    Setup {
        queues: QUEUES,
        ..Setup::size(64)
    }
}

fn request(vm: &Vm, slot: u64, writes: bool) -> BlockRequest {
    let header = GuestAddr(vm.free().0 + slot * 32);
    let status = GuestAddr(header.0 + 16);
    let request = match writes {
        true => BlockRequest::write(SECTOR, header, status),
        false => BlockRequest::read(SECTOR, header, status),
    };
    request.data(GuestAddr(MIDDLE.guest + slot * 512), 512)
}

/// A guest whose queues were all used, with the disk detached; a request lies in each of the old
/// rings, whose part of guest memory is told: where it begins, and its length.
fn rebooted(disk: &Disk) -> Result<(Vm, GuestAddr, usize), Errno> {
    disk.write(0, &[OLD; 8192])?;
    let mut vm = Vm::with_disk(&setup(), disk)?;
    for index in 0..QUEUES {
        let read = request(&vm, index.into(), false);
        let answer = vm.queues[index as usize].request(&read);
        assert_eq!(answer, Answer::new(OK, 513), "queue {index}");
    }
    vm.device.detach()?;
    for index in 1..QUEUES {
        let write = request(&vm, index.into(), true);
        vm.memory.fill(write.data[0].addr, 512, NEW);
        write.prepare(&*vm.memory);
        let queue = &mut vm.queues[index as usize];
        queue.driver.add(&write.buffers()).expect("room");
        queue.driver.publish();
    }
    let start = vm.queues[1].driver.layout().desc;
    assert_eq!(start.0 % 4096, 0, "rings begin with pages");
    let bytes = (vm.free().0 - start.0) as usize;
    Ok((vm, start, bytes))
}

/// Reads a sector as firmware does.
fn attach_one_queue(vm: &Vm, disk: &Disk) -> Result<(), Errno> {
    let queue = &vm.queues[0];
    queue.tell_geometry(&vm.device, queue.driver.base())?;
    queue.tell_files(&vm.device)?;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)
}

/// Uses the first queue, with kicks for all of them.
fn use_one_queue(vm: &mut Vm) {
    let read = request(vm, 0, false);
    for _ in 0..20 {
        for queue in &vm.queues {
            queue.kick();
        }
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    }
}

fn rings_of_before_a_reboot_are_left_alone(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, start, bytes) = rebooted(&disk)?;
    let before = vm.memory.read_vec(start, bytes);
    attach_one_queue(&vm, &disk)?;
    use_one_queue(&mut vm);
    assert!(
        vm.memory.read_vec(start, bytes) == before,
        "rings were changed"
    );
    let found = disk.read(0, 8192)?;
    assert!(
        found.iter().all(|byte| *byte == OLD),
        "a request was executed"
    );
    vm.device.detach()?;
    assert!(
        vm.memory.read_vec(start, bytes) == before,
        "rings were changed at the end"
    );
    // The next system sets all of them up, and finds what it put there.
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    for queue in &mut vm.queues[1..] {
        assert_eq!(queue.next_used().len, 1);
    }
    let found = disk.read(SECTOR * 512, 512)?;
    assert!(
        found.iter().all(|byte| *byte == NEW),
        "a request was not executed"
    );
    Ok(())
}

fn rings_of_before_a_reboot_may_be_gone(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let (mut vm, start, bytes) = rebooted(&disk)?;
    let memory = vm.memory.clone();
    let (map, offset) = memory.mapping(start);
    let attached = map.without(offset, bytes, || {
        let attached = attach_one_queue(&vm, &disk);
        if attached.is_ok() {
            use_one_queue(&mut vm);
        }
        attached
    })?;
    attached?;
    let found = memory.read_vec(start, bytes);
    assert!(
        found.iter().all(|byte| *byte == 0),
        "written in memory of another use"
    );
    let found = disk.read(0, 8192)?;
    assert!(
        found.iter().all(|byte| *byte == OLD),
        "a request was executed"
    );
    Ok(())
}

fn a_detachment_forgets_where_rings_are(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&setup(), &disk)?;
    let read = request(&vm, 0, false);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    let base = vm.device.vring_base(0)?;
    vm.device.detach()?;
    for _ in 0..2 {
        let attached = vm.device.attach(&disk.open(Mode::ReadWrite)?);
        assert_errno("without addresses", attached, Errno::EINVAL);
    }
    // Where it stood is not forgotten, nor how long the ring is.
    assert_eq!(vm.device.vring_base(0)?, base);
    vm.device.set_vring_addr(&vm.queues[0].addr())?;
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    // An attachment that failed forgets nothing.
    vm.device.detach()?;
    vm.device.set_vring_addr(&vm.queues[0].addr())?;
    let file = std::fs::File::open("/dev/null")?;
    assert_errno("no disk", vm.device.attach(&file), Errno::ENOTBLK);
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! A request for more zeroes than a disk can take soon: the device writes some of them in each turn.

use crate::{
    disk::NullBlk,
    fixtures::{in_flight::await_taken, place::DATA, ranges::zeroes},
    memory::{GuestMemory, HIGH, REGIONS},
    prelude::*,
};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = tests!["harness":
    long_zeroes_leave_turns_to_others(60),
    detach_finishes_long_zeroes(60),
];

/// Tests of memory tables that are replaced while a disk is attached, with the ring where it was.
pub const ON_ANOTHER_TABLE: &[Test] = tests!["harness":
    long_zeroes_are_answered_where_they_were_taken(60),
];

const MIB: u64 = 1 << 20;

/// One request at a time: what is asked for first is done first.
fn slow() -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        mib: 8,
        delay: Some(Duration::from_micros(500)),
        depth: 1,
        ..NullBlk::default()
    })
}

/// A device with two queues, and zeroes on their way to the disk from the first one: 16 ranges of so
/// many bytes.
fn zeroing(disk: &Disk, bytes: u64) -> Result<(Vm, BlockRequest), Errno> {
    let setup = Setup {
        queues: 2,
        ..Setup::default()
    };
    let mut vm = Vm::with_disk(&setup, disk)?;
    let sectors = disk.bytes()? / 512;
    let request = zeroes(&*vm.memory, vm.free(), (bytes / 512) as u32, sectors);
    disk.write(0, &[0xFF; 512])?;
    request.prepare(&*vm.memory);
    vm.queue().submit(&request.buffers());
    let start = Instant::now();
    while disk.read(0, 512)? != [0; 512] {
        assert!(start.elapsed() < PATIENCE, "no zeroes");
    }
    Ok((vm, request))
}

/// The answer of [`zeroing`].
fn answer(vm: &mut Vm, request: &BlockRequest) -> Answer {
    let used = vm.queue().next_used();
    Answer::new(vm.memory.read_u8(request.status), used.len)
}

/// Ioctls, which wait for the end of a turn; and requests of other queues: the disk works in order,
/// so that they wait for the I/Os of some turns, and not for all.
fn long_zeroes_leave_turns_to_others(_: &Context) -> Outcome {
    let disk = slow()?;
    let (mut vm, long) = zeroing(&disk, 8 * MIB)?;
    vm.device.set_serial(b"while zeroes go on..")?;
    let header = GuestAddr(vm.free().0 + 4096);
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16)).data(DATA, 512);
    for _ in 0..2 {
        assert_eq!(vm.queues[1].request(&read), Answer::new(OK, 513));
    }
    assert!(
        vm.queue().driver.poll_used().is_none(),
        "waited for all zeroes"
    );
    assert_eq!(answer(&mut vm, &long), Answer::new(OK, 1));
    Ok(())
}

fn detach_finishes_long_zeroes(_: &Context) -> Outcome {
    let disk = slow()?;
    let bytes = disk.bytes()?;
    disk.write(bytes - 512, &[0xFF; 512])?;
    let (mut vm, long) = zeroing(&disk, 4 * MIB)?;
    assert!(vm.queue().driver.poll_used().is_none(), "nothing was left");
    vm.device.detach()?;
    // Without waiting: it is there already.
    assert!(vm.queue().driver.poll_used().is_some());
    assert_eq!(vm.memory.read_u8(long.status), OK);
    assert!(disk.read(0, bytes as usize)?.iter().all(|byte| *byte == 0));
    let base = vm.queue().taken_base();
    assert_eq!(vm.device.vring_base(0)? as u16, base);
    Ok(())
}

/// The memory table is replaced between the first zeroes and the last ones, on a disk that writes
/// them at once, and the page of the status byte comes to hold something else.
fn long_zeroes_are_answered_where_they_were_taken(_: &Context) -> Outcome {
    const CANARY: u8 = 0x3C;
    const TRIES: usize = 50;
    const PAGE: usize = 4096;
    let disk = Disk::ram();
    let sectors = disk.bytes()? / 512;
    let mut in_between = 0;
    for _ in 0..TRIES {
        let mut vm = Vm::new(&Setup::default())?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        let header = vm.free();
        let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16)).data(DATA, 512);
        assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
        let other = GuestMemory::new(&REGIONS)?;
        let mut request = zeroes(&*vm.memory, vm.free(), (4 * MIB / 512) as u32, sectors);
        request.status = GuestAddr(HIGH.guest + 100);
        request.prepare(&*vm.memory);
        vm.queue().submit(&request.buffers());
        // A request that is taken later belongs to the new table.
        await_taken(&vm)?;
        vm.device.set_mem_table(&other.table())?;
        let memory = vm.memory.clone();
        let (map, offset) = memory.mapping(GuestAddr(HIGH.guest));
        let early = vm.queue().driver.used_index() == vm.queue().driver.next_used();
        if early {
            map.replace(offset, PAGE)?;
            map.fill(offset, PAGE, CANARY);
            in_between += 1;
        }
        assert_eq!(vm.queue().next_used().len, 1);
        if early {
            let page = memory.read_vec(GuestAddr(HIGH.guest), PAGE);
            let touched = page.iter().position(|byte| *byte != CANARY);
            assert_eq!(touched, None, "memory of another use was written");
        } else {
            assert_eq!(memory.read_u8(request.status), OK);
        }
        let page = other.read_vec(GuestAddr(HIGH.guest), PAGE);
        assert!(
            page.iter().all(|byte| *byte == 0),
            "the new memory was written"
        );
        if in_between == 4 {
            return Ok(());
        }
    }
    panic!(
        "zeroes were written at once in {} of {TRIES} tries",
        TRIES - in_between
    );
}

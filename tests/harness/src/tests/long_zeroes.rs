// SPDX-License-Identifier: GPL-2.0

//! A request for more zeroes than a disk can take soon: the device writes some of them in each turn.

use crate::{
    context::{
        Context,
        Outcome,
        Test, //
    },
    disk::{
        Disk,
        NullBlk, //
    },
    sys::Errno,
    tests::requests::DATA,
    vm::{
        Answer,
        Setup,
        Vm,
        OK,
        PATIENCE, //
    },
};
use std::time::{
    Duration,
    Instant, //
};
use vblk_core::{
    addr::GuestAddr,
    testing::{
        BlockRequest,
        DriverMemory, //
    },
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "harness/long_zeroes_leave_turns_to_others", limit: 60, run: others },
    Test { name: "harness/detach_finishes_long_zeroes", limit: 60, run: detach },
];

const WRITE_ZEROES: u32 = 13;

/// Ranges of a request: as many as it can have.
const RANGES: u64 = 16;

const MIB: u64 = 1 << 20;

/// A request to write zeroes to 16 ranges of so many sectors, at most, of a disk, one behind the
/// other and from the start again at its end, which is a multiple of them. It lies at `at`.
pub fn zeroes(memory: &impl DriverMemory, at: GuestAddr, sectors: u32, disk: u64) -> BlockRequest {
    for index in 0..RANGES {
        let sector = index * u64::from(sectors) % disk;
        let range = GuestAddr(at.0 + 64 + index * 16);
        memory.write(range, &sector.to_le_bytes());
        memory.write(GuestAddr(range.0 + 8), &sectors.to_le_bytes());
        memory.write(GuestAddr(range.0 + 12), &[0; 4]);
    }
    let request = BlockRequest::new(WRITE_ZEROES, 0, at, GuestAddr(at.0 + 16));
    request.data(GuestAddr(at.0 + 64), RANGES as u32 * 16)
}

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
fn others(_: &Context) -> Outcome {
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

fn detach(_: &Context) -> Outcome {
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

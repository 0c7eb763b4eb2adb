// SPDX-License-Identifier: GPL-2.0

//! Single requests, one after the other: what each type does and how it is answered.

use crate::{
    context::Pinning,
    disk::NullBlk,
    fixtures::place::{Place, DATA},
    prelude::*,
    vm::{self, UNSUPP},
};
use vblk_core::{
    request::ID_BYTES,
    testing::{join, Buf},
};

pub const TESTS: &[Test] = tests!["harness":
    write_then_read(20),
    flush(20),
    get_id(20),
    unknown_types_are_unsupported(20),
    used_length_claims_only_what_was_written(20),
    requests_beyond_the_disk_fail(20),
    read_only_disk_refuses_writes(20),
    disk_of_4k_blocks(20),
];

fn write_then_read(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let bytes = context.rng().bytes(4096);

    vm.memory.write(DATA, &bytes);
    let answer = vm.queue().request(&place.write(8, 4096));
    assert_eq!(answer, Answer::new(OK, 1));
    assert_eq!(disk.read(4096, 4096)?, bytes, "what is on the disk");

    vm.memory.fill(DATA, 4096, 0);
    let answer = vm.queue().request(&place.read(8, 4096));
    assert_eq!(answer, Answer::new(OK, 4097));
    assert_eq!(vm.memory.read_vec(DATA, 4096), bytes, "what was read");

    let stats = vm.device.stats()?;
    assert_eq!(stats.requests, 2);
    assert_eq!((stats.bytes_read, stats.bytes_written), (4096, 4096));
    assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    Ok(())
}

fn flush(context: &Context) -> Outcome {
    // A disk with a cache, one without, and one whose flush takes a detour through a file.
    let cached = NullBlk {
        cache_mib: 1,
        ..NullBlk::default()
    };
    for disk in [Disk::null(&cached)?, Disk::ram(), Disk::looped(8 << 20)?] {
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let place = Place::of(&vm);
        let bytes = context.rng().bytes(8192);
        vm.memory.write(DATA, &bytes);
        assert_eq!(
            vm.queue().request(&place.write(0, 8192)),
            Answer::new(OK, 1)
        );
        let mut flush = place.of_type(4);
        assert_eq!(vm.queue().request(&flush), Answer::new(OK, 1));
        // "sector" means nothing here (virtio 1.2, 5.2.6: it is unused).
        flush.sector = u64::MAX;
        assert_eq!(vm.queue().request(&flush), Answer::new(OK, 1));
        assert_eq!(vm.device.stats()?.flushes, 2);
        drop(vm);
        assert_eq!(disk.read(0, 8192)?, bytes);
    }
    Ok(())
}

/// Sets the serial number, of a disk that is attached. A vDPA device is made with it.
fn set_serial(vm: &mut Vm, disk: &Disk, serial: &[u8; ID_BYTES]) -> Result<(), Errno> {
    vm.device.set_serial(serial)?;
    if vm::pinning() == Pinning::Mapped {
        vm.device.detach()?;
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
    }
    Ok(())
}

fn get_id(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    // Empty unless the VMM sets one, as with QEMU: nothing of the host shows.
    let serial = vec![0; ID_BYTES];
    let check = |vm: &mut Vm, serial: &[u8]| {
        for (len, used) in [(0, 1), (1, 2), (7, 8), (20, 21), (21, 20), (4096, 20)] {
            vm.memory.fill(DATA, 4097, 0xA5);
            let mut request = place.of_type(8);
            if len > 0 {
                request = request.data(DATA, len);
            }
            assert_eq!(
                vm.queue().request(&request),
                Answer::new(OK, used),
                "buffer of {len}"
            );
            let told = (len as usize).min(ID_BYTES);
            let memory = vm.memory.read_vec(DATA, 4097);
            assert_eq!(memory[..told], serial[..told], "buffer of {len}");
            assert!(
                memory[told..].iter().all(|byte| *byte == 0xA5),
                "written behind the serial"
            );
        }
    };
    check(&mut vm, &serial);
    for serial in [
        *b"0123456789abcdefghij",
        *b"short\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        [0; 20],
    ] {
        set_serial(&mut vm, &disk, &serial)?;
        check(&mut vm, &serial);
    }
    // In pieces, and in one buffer with the status byte.
    set_serial(&mut vm, &disk, b"0123456789abcdefghij")?;
    let request = place
        .of_type(8)
        .data(DATA, 3)
        .data(GuestAddr(DATA.0 + 100), 16)
        .data(GuestAddr(place.status.0 - 1), 1);
    let answer = vm.queue().request_as(&request, &join(&request.buffers()));
    assert_eq!(answer, Answer::new(OK, 21));
    assert_eq!(vm.memory.read_vec(DATA, 3), b"012");
    assert_eq!(
        vm.memory.read_vec(GuestAddr(DATA.0 + 100), 16),
        b"3456789abcdefghi"
    );
    assert_eq!(vm.memory.read_u8(GuestAddr(place.status.0 - 1)), b'j');
    Ok(())
}

fn unknown_types_are_unsupported(_: &Context) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), &Disk::ram())?;
    let place = Place::of(&vm);
    // SCSI commands, lifetime, zones, the old barrier bit. Those about ranges have tests of their own.
    for kind in [2, 3, 5, 6, 7, 9, 10, 12, 15, 16, 0x8000_0000, u32::MAX] {
        let bare = place.of_type(kind);
        assert_eq!(
            vm.queue().request(&bare),
            Answer::new(UNSUPP, 1),
            "type {kind:#x}"
        );
        let mut wants = place.of_type(kind);
        wants.data.push(Buf::writable(DATA, 512));
        assert_eq!(
            vm.queue().request(&wants),
            Answer::new(UNSUPP, 0),
            "type {kind:#x}"
        );
        let mut gives = place.of_type(kind);
        gives.data.push(Buf::readable(DATA, 512));
        assert_eq!(
            vm.queue().request(&gives),
            Answer::new(UNSUPP, 1),
            "type {kind:#x}"
        );
    }
    assert_eq!(vm.device.stats()?.malformed, 0);
    Ok(())
}

fn used_length_claims_only_what_was_written(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let end = disk.bytes()? / 512;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let extra_in = |mut request: BlockRequest| {
        request
            .data
            .push(Buf::writable(GuestAddr(DATA.0 + 8192), 512));
        request
    };
    let no_data = |kind| place.of_type(kind);
    let table = [
        ("read", place.read(0, 512), Answer::new(OK, 513)),
        ("read of nothing", no_data(0), Answer::new(OK, 1)),
        ("write of nothing", no_data(1), Answer::new(OK, 1)),
        (
            "large read",
            place.read(0, 1 << 20),
            Answer::new(OK, (1 << 20) + 1),
        ),
        ("failed read", place.read(end, 512), Answer::new(IOERR, 0)),
        (
            "failed read of a part of a sector",
            place.read(0, 100),
            Answer::new(IOERR, 0),
        ),
        ("failed write", place.write(end, 512), Answer::new(IOERR, 1)),
        // Bytes before the status that the device has no use for are not written.
        (
            "write with space for data",
            extra_in(place.write(8, 512)),
            Answer::new(OK, 0),
        ),
        (
            "flush with space for data",
            extra_in(no_data(4)),
            Answer::new(OK, 0),
        ),
    ];
    for (name, request, answer) in table {
        assert_eq!(vm.queue().request(&request), answer, "{name}");
    }
    Ok(())
}

fn requests_beyond_the_disk_fail(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let end = disk.bytes()? / 512;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    for (sector, len) in [
        (end, 512),
        (end - 1, 1024),
        (end - 7, 4096),
        (end + 1, 512),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
        (0, 1),
    ] {
        let read = vm.queue().request(&place.read(sector, len));
        assert_eq!(read, Answer::new(IOERR, 0), "read {sector} {len}");
        let write = vm.queue().request(&place.write(sector, len));
        assert_eq!(write, Answer::new(IOERR, 1), "write {sector} {len}");
    }
    let last = vm.queue().request(&place.write(end - 1, 512));
    assert_eq!(last, Answer::new(OK, 1), "the last sector");
    let stats = vm.device.stats()?;
    assert_eq!(stats.malformed, 0);
    assert_eq!(stats.io_errors, 0, "the disk was not asked");
    Ok(())
}

fn read_only_disk_refuses_writes(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let bytes = context.rng().bytes(4096);
    disk.write(0, &bytes)?;
    let mut vm = Vm::new(&Setup::default())?;
    vm.attach(&disk.open(Mode::ReadOnly)?)?;
    let place = Place::of(&vm);
    vm.memory.fill(DATA, 4096, 0x11);
    assert_eq!(
        vm.queue().request(&place.write(0, 4096)),
        Answer::new(IOERR, 1)
    );
    assert_eq!(
        vm.queue().request(&place.of_type(1)),
        Answer::new(IOERR, 1),
        "write of nothing"
    );
    assert_eq!(
        vm.queue().request(&place.of_type(4)),
        Answer::new(OK, 1),
        "flush"
    );
    assert_eq!(
        vm.queue().request(&place.read(0, 4096)),
        Answer::new(OK, 4097)
    );
    assert_eq!(vm.memory.read_vec(DATA, 4096), bytes);
    drop(vm);
    assert_eq!(disk.read(0, 4096)?, bytes, "what is on the disk");
    Ok(())
}

fn disk_of_4k_blocks(context: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk {
        block_size: 4096,
        ..NullBlk::default()
    })?;
    assert_eq!(disk.block_size()?, 4096);
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    let bytes = context.rng().bytes(12288);
    vm.memory.write(DATA, &bytes);
    assert_eq!(
        vm.queue().request(&place.write(16, 12288)),
        Answer::new(OK, 1)
    );
    for (sector, len) in [
        (0, 512),
        (0, 2048),
        (1, 4096),
        (7, 4096),
        (8, 4096 + 512),
        (9, 512),
    ] {
        let read = vm.queue().request(&place.read(sector, len));
        assert_eq!(read, Answer::new(IOERR, 0), "read {sector} {len}");
        let write = vm.queue().request(&place.write(sector, len));
        assert_eq!(write, Answer::new(IOERR, 1), "write {sector} {len}");
    }
    vm.memory.fill(DATA, 12288, 0);
    assert_eq!(
        vm.queue().request(&place.read(16, 12288)),
        Answer::new(OK, 12289)
    );
    assert_eq!(vm.memory.read_vec(DATA, 12288), bytes);
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Failures that only the debug kernel can inject: any error that the block layer knows, requests
//! that time out, requests that come back to the queue.

use super::judge::{filled, read, write, BAD};
use crate::{
    disk::{Injection, NullBlk},
    fixtures::place::Place,
    prelude::*,
    vm::UNSUPP,
};

pub const TESTS: &[Test] = tests!["harness":
    every_error_of_the_block_layer_has_its_status(20),
    timed_out_request_fails_and_the_next_works(20),
    requeued_requests_succeed(20),
];

fn every_error_of_the_block_layer_has_its_status(context: &Context) -> Outcome {
    const STATUSES: [(&str, u8); 17] = [
        ("NOTSUPP", UNSUPP),
        ("TIMEOUT", IOERR),
        ("NOSPC", IOERR),
        ("TRANSPORT", IOERR),
        ("TARGET", IOERR),
        ("RESV_CONFLICT", IOERR),
        ("MEDIUM", IOERR),
        ("PROTECTION", IOERR),
        ("RESOURCE", IOERR),
        ("DEV_RESOURCE", IOERR),
        ("AGAIN", IOERR),
        ("OFFLINE", IOERR),
        ("ZONE_OPEN_RESOURCE", IOERR),
        ("ZONE_ACTIVE_RESOURCE", IOERR),
        ("DURATION_LIMIT", IOERR),
        ("INVAL", IOERR),
        ("IOERR", IOERR),
    ];
    context.needs_debug_kernel()?;
    let (disk, mut bytes) = filled(context, &NullBlk::default(), 1 << 20)?;
    let new = context.rng().bytes(4096);
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let place = Place::of(&vm);
    for (status, expected) in STATUSES {
        for op in ["READ", "WRITE"] {
            let sectors = BAD;
            disk.inject(&Injection {
                op,
                status,
                sectors,
            })?;
        }
        let answer = vm.queue().request(&place.read(96, 4096));
        assert_eq!(answer, Answer::new(expected, 0), "read: {status}");
        let answer = vm.queue().request(&place.write(96, 4096));
        assert_eq!(answer, Answer::new(expected, 1), "write: {status}");
        // Nothing was written, and the device goes on.
        disk.inject_nothing()?;
        read(&mut vm, &(96..104), &bytes, false);
        write(&mut vm, &(200..208), &mut bytes, &new, false);
        read(&mut vm, &(200..208), &bytes, false);
    }
    assert_eq!(vm.device.stats()?.io_errors, 2 * STATUSES.len() as u64);
    Ok(())
}

fn timed_out_request_fails_and_the_next_works(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let (disk, mut bytes) = filled(context, &NullBlk::default(), 1 << 20)?;
    // In milliseconds. The block layer looks about once in a second.
    disk.set_queue("io_timeout", 100)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let new = context.rng().bytes(4096);
    disk.time_out_once()?;
    read(&mut vm, &(8..16), &bytes, true);
    read(&mut vm, &(8..16), &bytes, false);
    disk.time_out_once()?;
    write(&mut vm, &(8..16), &mut bytes, &new, true);
    write(&mut vm, &(8..16), &mut bytes, &new, false);
    read(&mut vm, &(0..64), &bytes, false);
    Ok(())
}

fn requeued_requests_succeed(context: &Context) -> Outcome {
    const TIMES: u32 = 40;
    context.needs_debug_kernel()?;
    let (disk, mut bytes) = filled(context, &NullBlk::default(), 1 << 20)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    disk.requeue(TIMES)?;
    for round in 0..u64::from(TIMES) {
        let new = context.rng().bytes(4096);
        let sectors = round * 8..round * 8 + 8;
        write(&mut vm, &sectors, &mut bytes, &new, false);
        read(&mut vm, &sectors, &bytes, false);
    }
    assert_eq!(vm.device.stats()?.io_errors, 0);
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! A bridge that is killed or ended under load, and another in its place: nothing is lost or done
//! twice.

use crate::{
    disk::{NullBlk, TestDisk},
    fixtures::{bridge::Bridge, in_flight::await_full, slow_disk::slow_disk},
    prelude::*,
    rng::Rng,
};
use std::{
    error::Error,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};
use vblk::testing::{
    front_end::{FrontEnd, GuestRing, SharedGuest},
    writer::{Writer, DEPTH, RING},
};
use vblk_core::{features::bit, testing::STATUS_UNWRITTEN};

pub const TESTS: &[Test] = tests!["bridge":
    killed_under_load_and_replaced(90),
    ended_under_load_and_replaced(90),
    io_uring_killed_or_ended_under_load_and_replaced(120),
    a_request_that_was_only_begun_is_done_by_the_next(60),
    a_disk_that_grows_is_told_at_once(40),
    memory_that_is_taken_away_harms_its_own_guest_only(40),
];

/// A back-end of the bridge, with the format of the rings that it serves.
#[derive(Clone, Copy)]
struct Served {
    options: &'static [&'static str],
    without: u64,
}

const SPLIT: u64 = 1 << bit::RING_PACKED;
const BY_THE_MODULE: Served = Served {
    options: &[],
    without: SPLIT,
};
const BY_IO_URING: [Served; 2] = [by_io_uring(SPLIT), by_io_uring(0)];

const fn by_io_uring(without: u64) -> Served {
    Served {
        options: &["--backend", "io-uring"],
        without,
    }
}

fn connect(bridge: &Bridge, without: u64) -> Result<FrontEnd, std::io::Error> {
    let mut front_end = FrontEnd::new(UnixStream::connect(bridge.socket())?);
    front_end.negotiate(without);
    Ok(front_end)
}

/// Replaces the bridge again and again, after a signal to each.
fn replaced(context: &Context, disk: &Disk, served: Served, signal: i32) -> Outcome {
    let mut rng: Rng = context.rng();
    let begin = || -> Result<_, Box<dyn Error>> {
        let bridge = Bridge::on(disk.path(), served.options)?;
        let front_end = connect(&bridge, served.without)?;
        Ok((bridge, front_end))
    };
    let (mut bridge, mut front_end) = begin()?;
    let mut writer = Writer::new(front_end.features);
    let mut notes = None;
    let mut base = writer.told_position();
    for _ in 0..context.times_or(10, 100) {
        front_end.share(&writer.guest);
        front_end.track(&mut notes, RING)?;
        front_end.start(&writer.ring, base)?;
        writer.go_on(rng.index(1..4 * DEPTH));
        bridge.signal(signal)?;
        front_end.must_be_closed();
        // As QEMU does, as soon as the connection is gone. The module may still answer what a killed
        // process has in flight.
        base = writer.told_position();
        bridge.wait()?;
        (bridge, front_end) = begin()?;
    }
    front_end.share(&writer.guest);
    front_end.track(&mut notes, RING)?;
    front_end.start(&writer.ring, base)?;
    writer.finish();
    bridge.end()?;
    writer.check(|at, bytes| disk.read(at, bytes).expect("to read the disk"));
    Ok(())
}

fn killed_under_load_and_replaced(context: &Context) -> Outcome {
    replaced(context, &slow_disk()?, BY_THE_MODULE, libc::SIGKILL)?;
    replaced(context, &Disk::ram(), BY_THE_MODULE, libc::SIGKILL)
}

fn ended_under_load_and_replaced(context: &Context) -> Outcome {
    replaced(context, &slow_disk()?, BY_THE_MODULE, libc::SIGTERM)?;
    replaced(context, &Disk::ram(), BY_THE_MODULE, libc::SIGTERM)
}

/// What is in flight ends with the process, and the next one finds it in its notes.
fn io_uring_killed_or_ended_under_load_and_replaced(context: &Context) -> Outcome {
    for served in BY_IO_URING {
        for signal in [libc::SIGKILL, libc::SIGTERM] {
            replaced(context, &slow_disk()?, served, signal)?;
            replaced(context, &Disk::ram(), served, signal)?;
        }
    }
    Ok(())
}

/// A request that takes more I/Os than a queue has, after a small one. What is left of it can't be
/// submitted when the bridge is gone, and so it has no answer.
fn a_request_that_was_only_begun_is_done_by_the_next(_: &Context) -> Outcome {
    const DATA: GuestAddr = GuestAddr(1 << 32);
    const BYTES: u32 = 8 << 20;
    let disk = Disk::counting(&TestDisk {
        mib: 64,
        ..TestDisk::DEFAULT
    })?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge, SPLIT)?;
    let guest = SharedGuest::new();
    front_end.share(&guest);
    let mut ring = GuestRing::new(&guest, 0, 64, front_end.features);
    front_end.start(&ring, 0)?;
    let hold = disk.hold()?;
    let small = ring.write(0, 0, &[7; 4096]);
    let mut long = ring.write(1, 8, &[9; 4096]);
    for bytes in [BYTES; 7].into_iter().chain([BYTES / 2]) {
        long = long.data(DATA, bytes);
    }
    guest.memory.write(DATA, &[9; BYTES as usize]);
    ring.add(&small);
    let id = ring.add(&long);
    ring.publish();
    await_full(&hold)?;
    bridge.signal(libc::SIGKILL)?;
    hold.stop()?;
    front_end.must_be_closed();
    bridge.wait()?;
    let memory = guest.memory.clone();
    let status = |request: &BlockRequest| memory.read_u8(request.status);
    assert_eq!((status(&small), status(&long)), (OK, STATUS_UNWRITTEN));
    assert_eq!(ring.driver.used_index(), 1);
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge, SPLIT)?;
    front_end.share(&guest);
    front_end.start(&ring, 1)?;
    let answers = [0, 1].map(|_| ring.wait_for(PATIENCE).expect("an answer").id);
    assert_eq!(answers[1], u32::from(id));
    assert_eq!(status(&long), OK);
    assert!(disk.read(4096, BYTES as usize)? == [9; BYTES as usize]);
    bridge.end()
}

fn a_disk_that_grows_is_told_at_once(_: &Context) -> Outcome {
    let disk = Disk::looped(8 << 20)?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge, SPLIT)?;
    let writer = Writer::new(front_end.features);
    front_end.share(&writer.guest);
    front_end.start(&writer.ring, 0)?;
    let (ours, theirs) = UnixStream::pair()?;
    front_end.set_notices(&theirs)?;
    let before = front_end.config(0, 8)?;
    disk.resize(16 << 20)?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0; 12];
    std::io::Read::read_exact(&mut &ours, &mut message)?;
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let after = front_end.config(0, 8)?;
    assert_eq!(before, ((8u64 << 20) / 512).to_le_bytes());
    assert_eq!(after, ((16u64 << 20) / 512).to_le_bytes());
    drop(front_end);
    bridge.end()
}

/// The kernel finds no page where the front-end has cut its file off. The bridge lives, and the next
/// guest is served.
fn memory_that_is_taken_away_harms_its_own_guest_only(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge, SPLIT)?;
    let mut writer = Writer::new(front_end.features);
    front_end.share(&writer.guest);
    front_end.start(&writer.ring, 0)?;
    writer.go_on(DEPTH);
    writer.guest.file.set_len(0)?;
    // The driver of the test must not touch what is gone.
    writer.ring.kick.write(1)?;
    std::thread::sleep(Duration::from_millis(100));
    drop(front_end);
    let start = Instant::now();
    vblk::testing::conformance::still_serves(bridge.socket());
    assert!(start.elapsed() < PATIENCE);
    bridge.end()
}

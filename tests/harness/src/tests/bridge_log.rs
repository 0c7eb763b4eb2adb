// SPDX-License-Identifier: GPL-2.0

//! `vblk serve` with the module, while the guest moves to another host: the log of what is written.

use crate::{
    context::{tests, Context, Outcome, Test, PATIENCE},
    disk::Disk,
    fixtures::bridge::Bridge,
};
use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    time::Instant,
};
use vblk::testing::{
    conformance::still_serves,
    front_end::{shared_file, FrontEnd, GuestRing, SharedGuest, REGIONS},
};
use vblk_core::{
    addr::GuestAddr,
    dirty_log::{bytes_for, LOG_PAGE},
    features::{bit, Features},
};

pub const TESTS: &[Test] = tests!["bridge":
    what_is_written_is_in_the_log(40),
    logs_that_do_not_fit_are_refused(40),
];

/// Entries of the ring.
const SIZE: u32 = 64;
/// Where the log begins in its file.
const OFFSET: u64 = 4096;

/// A log in a file that front-end and bridge map.
struct Log {
    file: File,
    bytes: u64,
}

impl Log {
    /// Creates a log for all of the guest's memory, but for `short` pages of the log.
    fn new(short: u64) -> Self {
        let (start, bytes) = REGIONS[REGIONS.len() - 1];
        let needed = bytes_for(GuestAddr(start + bytes as u64 - 1));
        let bytes = needed.next_multiple_of(LOG_PAGE) - short * LOG_PAGE;
        let file = shared_file(OFFSET + bytes);
        Self { file, bytes }
    }

    /// Hands the log over.
    fn give_to(&self, front_end: &mut FrontEnd) -> Outcome {
        Ok(front_end.set_log(&self.file, self.bytes, OFFSET)?)
    }

    /// Returns whether the page of an address is marked.
    fn has(&self, at: GuestAddr) -> Result<bool, std::io::Error> {
        let page = at.0 / LOG_PAGE;
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, OFFSET + page / 8)?;
        Ok(byte[0] >> (page % 8) & 1 != 0)
    }

    /// Forgets all marks.
    fn clear(&self) -> Result<(), std::io::Error> {
        self.file
            .write_all_at(&vec![0; self.bytes as usize], OFFSET)
    }
}

/// Adds the log to features.
fn with_log(features: Features) -> Features {
    Features(features.0 | 1 << bit::LOG_ALL)
}

fn connect(bridge: &Bridge) -> Result<FrontEnd, std::io::Error> {
    UnixStream::connect(bridge.socket()).map(FrontEnd::new)
}

/// Reads, and returns whether data, status and used ring are marked, or none of them.
fn reads_logged(ring: &mut GuestRing, log: &Log) -> Result<bool, std::io::Error> {
    let read = ring.read(3, 0, 8192);
    assert_eq!(ring.perform(&read), 0);
    let data = read.data[0].addr;
    let places = [
        data,
        GuestAddr(data.0 + LOG_PAGE),
        read.status,
        ring.driver.layout().used,
    ];
    let marks = || {
        places
            .iter()
            .map(|at| log.has(*at))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut marked = marks()?;
    let deadline = Instant::now() + PATIENCE;
    // The data is marked before the driver can see the answer, the rest just after it.
    while marked[0] && marked.contains(&false) && Instant::now() < deadline {
        marked = marks()?;
    }
    assert!(marked.iter().all(|it| *it == marked[0]), "{marked:?}");
    Ok(marked[0])
}

fn what_is_written_is_in_the_log(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let bridge = Bridge::on(disk.path(), &[])?;
    for without in [1 << bit::RING_PACKED, 0] {
        let mut front_end = connect(&bridge)?;
        front_end.negotiate(without);
        let guest = SharedGuest::new();
        front_end.share(&guest);
        let mut ring = GuestRing::new(&guest, 0, SIZE, front_end.features);
        front_end.start(&ring, ring.driver.base())?;
        let (features, logs) = (front_end.features, [Log::new(0), Log::new(0)]);
        assert!(!reads_logged(&mut ring, &logs[0])?);
        // As QEMU does it when a guest moves, or does not after all.
        for _ in 0..2 {
            logs[0].give_to(&mut front_end)?;
            front_end.set_features(with_log(features))?;
            assert!(reads_logged(&mut ring, &logs[0])?, "not logged");
            logs[1].give_to(&mut front_end)?;
            // Not before: the device may still ask for kicks in the used ring.
            logs[0].clear()?;
            assert!(reads_logged(&mut ring, &logs[1])?, "not in the other log");
            assert!(!reads_logged(&mut ring, &logs[0])?, "in the old log");
            front_end.set_features(features)?;
            logs[1].clear()?;
            assert!(!reads_logged(&mut ring, &logs[1])?, "logged for nothing");
        }
        // The ring begins while what is written is logged.
        let base = front_end.stop(&ring)?;
        front_end.set_features(with_log(features))?;
        logs[0].give_to(&mut front_end)?;
        front_end.start(&ring, base)?;
        assert!(
            reads_logged(&mut ring, &logs[0])?,
            "not logged from the start"
        );
    }
    still_serves(bridge.socket());
    bridge.end()
}

fn logs_that_do_not_fit_are_refused(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let bridge = Bridge::on(disk.path(), &[])?;
    let guest = SharedGuest::new();
    let log = Log::new(0);
    let file = log.file.as_raw_fd();
    let served = || -> Result<_, Box<dyn std::error::Error>> {
        let mut front_end = connect(&bridge)?;
        front_end.negotiate(1 << bit::RING_PACKED);
        front_end.share(&guest);
        let ring = GuestRing::new(&guest, 0, SIZE, front_end.features);
        front_end.start(&ring, ring.driver.base())?;
        Ok((front_end, ring))
    };
    // A front-end would not know that it was refused, and is sent away.
    for (bytes, offset) in [
        (0, 0),
        (u64::MAX, 1),
        (log.bytes + LOG_PAGE, OFFSET),
        (4096, 1),
    ] {
        let (front_end, _) = served()?;
        let payload = [bytes, offset].map(u64::to_ne_bytes).concat();
        front_end.send(6, 1, &payload, &[file])?;
        front_end.must_be_closed();
    }
    let (mut front_end, mut ring) = served()?;
    let features = front_end.features;
    let logging = with_log(features);
    assert!(front_end.set_features(logging).is_err(), "no log");
    Log::new(1).give_to(&mut front_end)?;
    assert!(front_end.set_features(logging).is_err(), "a short log");
    // The ring is served as before.
    assert!(!reads_logged(&mut ring, &log)?);
    log.give_to(&mut front_end)?;
    front_end.set_features(logging)?;
    assert!(reads_logged(&mut ring, &log)?);
    let short = Log::new(1);
    assert!(
        short.give_to(&mut front_end).is_err(),
        "an exchange for a short log"
    );
    front_end.must_be_closed();
    drop(front_end);
    still_serves(bridge.socket());
    bridge.end()
}

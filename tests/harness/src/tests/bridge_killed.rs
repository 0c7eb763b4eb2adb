// SPDX-License-Identifier: GPL-2.0

//! A bridge that is killed or ended under load, and another in its place: nothing is lost or done
//! twice.

use crate::{
    context::{Context, Outcome, Test, PATIENCE},
    disk::{Disk, NullBlk},
    fixtures::{bridge::Bridge, slow_disk::slow_disk},
    rng::Rng,
};
use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};
use vblk::testing::front_end::{FrontEnd, GuestRing, SharedGuest};
use vblk_core::{features::bit, testing::DriverMemory};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "bridge/killed_under_load_and_replaced", limit: 90, run: killed },
    Test { name: "bridge/ended_under_load_and_replaced", limit: 90, run: ended },
    Test { name: "bridge/a_disk_that_grows_is_told_at_once", limit: 40, run: grown },
    Test { name: "bridge/memory_that_is_taken_away_harms_its_own_guest_only", limit: 40, run: taken_away },
];

const BLOCK: usize = 4096;
/// Requests in flight, each on a block of its own.
const DEPTH: usize = 32;
const RING: u32 = 128;

/// A guest that writes to each of its blocks again and again, another number each time.
struct Writer {
    guest: SharedGuest,
    ring: GuestRing,
    /// For each block: the number that is being written, and the head of its request.
    blocks: Vec<(u32, u16)>,
    answers: u64,
}

impl Writer {
    fn new(features: vblk::backend::Features) -> Self {
        let guest = SharedGuest::new();
        let ring = GuestRing::new(&guest, 0, RING, features);
        let mut writer = Self {
            guest,
            ring,
            blocks: vec![(0, 0); DEPTH],
            answers: 0,
        };
        (0..DEPTH).for_each(|block| writer.write(block));
        writer.ring.publish();
        writer
    }

    fn contents(block: usize, number: u32) -> Vec<u8> {
        let unit = [block as u32, number].map(u32::to_le_bytes).concat();
        unit.repeat(BLOCK / unit.len())
    }

    /// Begins the next write to a block.
    fn write(&mut self, block: usize) {
        let number = self.blocks[block].0 + 1;
        let contents = Self::contents(block, number);
        let sector = (block * BLOCK / 512) as u64;
        let request = self.ring.write(block as u64, sector, &contents);
        self.blocks[block] = (number, self.ring.add(&request));
    }

    /// Takes an answer, which must be one that is waited for. Returns its block.
    fn answer(&mut self, limit: Duration) -> Option<usize> {
        let entry = self.ring.wait_for(limit)?;
        let of = |(_, head): &(u32, u16)| u32::from(*head) == entry.id;
        let block = self.blocks.iter().position(of);
        let block = block.expect("an answer to a request that is in flight");
        self.answers += 1;
        Some(block)
    }

    /// Goes on for so many answers.
    fn go_on(&mut self, count: usize) {
        for _ in 0..count {
            let block = self.answer(PATIENCE).expect("an answer");
            self.write(block);
            self.ring.publish();
        }
    }

    /// Waits for the last answers, one for each block.
    fn finish(&mut self) {
        let mut left: Vec<bool> = vec![true; DEPTH];
        for _ in 0..DEPTH {
            let block = self.answer(PATIENCE).expect("an answer");
            assert!(
                std::mem::take(&mut left[block]),
                "two answers to one request"
            );
        }
        assert!(self.answer(Duration::from_millis(100)).is_none());
    }

    /// Looks at the disk itself.
    fn check(&self, disk: &Disk) -> Outcome {
        for (block, (number, _)) in self.blocks.iter().enumerate() {
            let have = disk.read((block * BLOCK) as u64, BLOCK)?;
            assert!(have == Self::contents(block, *number), "block {block}");
        }
        Ok(())
    }
}

fn connect(bridge: &Bridge) -> Result<FrontEnd, std::io::Error> {
    let mut front_end = FrontEnd::new(UnixStream::connect(bridge.socket())?);
    front_end.negotiate(1 << bit::RING_PACKED);
    Ok(front_end)
}

/// Replaces the bridge again and again, after a signal to each.
fn replaced(context: &Context, disk: &Disk, signal: i32) -> Outcome {
    let mut rng: Rng = context.rng();
    let mut bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge)?;
    let mut writer = Writer::new(front_end.features);
    let mut base = 0;
    for _ in 0..context.times_or(10, 100) {
        front_end.share(&writer.guest);
        front_end.start(&writer.ring, base)?;
        writer.go_on(rng.index(1..4 * DEPTH));
        bridge.signal(signal)?;
        front_end.must_be_closed();
        // As QEMU does, as soon as the connection is gone. The module may still answer what a killed
        // process has in flight.
        base = u32::from(used_index(&writer));
        bridge.wait()?;
        bridge = Bridge::on(disk.path(), &[])?;
        front_end = connect(&bridge)?;
    }
    front_end.share(&writer.guest);
    front_end.start(&writer.ring, base)?;
    writer.finish();
    bridge.end()?;
    writer.check(disk)
}

fn used_index(writer: &Writer) -> u16 {
    let at = writer.ring.driver.layout().used_index();
    writer.ring.driver.memory().load_u16(at)
}

fn killed(context: &Context) -> Outcome {
    replaced(context, &slow_disk()?, libc::SIGKILL)?;
    replaced(context, &Disk::ram(), libc::SIGKILL)
}

fn ended(context: &Context) -> Outcome {
    replaced(context, &slow_disk()?, libc::SIGTERM)?;
    replaced(context, &Disk::ram(), libc::SIGTERM)
}

fn grown(_: &Context) -> Outcome {
    let disk = Disk::looped(8 << 20)?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge)?;
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
fn taken_away(_: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk::default())?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let mut front_end = connect(&bridge)?;
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

// SPDX-License-Identifier: GPL-2.0

//! A guest for a case, and what is to be seen of its ring.

use super::super::front_end::{FrontEnd, GuestRing, SharedGuest};
use std::{os::unix::net::UnixStream, path::Path, time::Duration};
use vblk_core::features::bit;

/// The least length of the disk.
pub const DISK_BYTES: u64 = 4 << 20;
/// Long enough to see that nothing happens.
pub const A_WHILE: Duration = Duration::from_millis(300);
/// The status of a request that was done.
pub const OK: u8 = 0;
/// The feature of packed rings.
pub const PACKED: u64 = 1 << bit::RING_PACKED;
/// Entries of a ring.
pub const SIZE: u32 = 64;

/// Connects to a bridge.
pub fn connect(path: &Path) -> FrontEnd {
    FrontEnd::new(UnixStream::connect(path).expect("to connect"))
}

/// A guest whose ring 0 is being served.
pub fn served(path: &Path, without: u64) -> (FrontEnd, SharedGuest, GuestRing) {
    let mut front_end = connect(path);
    front_end.negotiate(without);
    let guest = SharedGuest::new();
    front_end.share(&guest);
    let ring = GuestRing::new(&guest, 0, SIZE, front_end.features);
    front_end
        .start(&ring, ring.driver.base())
        .expect("to start");
    (front_end, guest, ring)
}

/// Bytes that differ from those of another seed.
pub fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

/// Writes and reads back through a ring.
pub fn works(ring: &mut GuestRing, seed: u8) {
    let contents = pattern(seed, 8192);
    let sector = u64::from(seed) * 16;
    let write = ring.write(0, sector, &contents);
    assert_eq!(ring.perform(&write), OK);
    let read = ring.read(1, sector, 8192);
    assert_eq!(ring.perform(&read), OK);
    assert!(ring.contents(&read) == contents, "other data");
}

/// Checks that a ring is not served.
pub fn rests(ring: &mut GuestRing) {
    let read = ring.read(3, 0, 512);
    ring.add(&read);
    ring.publish();
    assert!(ring.wait_for(A_WHILE).is_none(), "the ring is served");
}

/// Checks that the next front-end is served as if nothing had been.
pub fn still_serves(path: &Path) {
    let (_front_end, _guest, mut ring) = served(path, PACKED);
    works(&mut ring, 200);
}

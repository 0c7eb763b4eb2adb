// SPDX-License-Identifier: GPL-2.0

//! Cases about rings: where they stand, when they are served, and those that are none.

use super::{
    super::front_end::{addresses, GuestRing, PATIENCE},
    guest::{connect, pattern, rests, served, works, OK, PACKED, SIZE},
};
use crate::backend::Format;
use std::path::Path;
use vblk_core::features::bit;
use vhost::{vhost_user::VhostUserFrontend, VhostBackend, VringConfigData};

pub fn data(path: &Path) {
    for without in [PACKED, 0, PACKED | 1 << bit::RING_EVENT_IDX] {
        let (_front_end, _guest, mut ring) = served(path, without);
        for seed in 0..100 {
            works(&mut ring, seed);
        }
    }
}

pub fn positions(path: &Path) {
    for without in [PACKED, 0] {
        let (mut front_end, _guest, mut ring) = served(path, without);
        // More often than the ring is long.
        for seed in 0..SIZE as u8 + 8 {
            works(&mut ring, seed);
            let base = front_end.stop(&ring).expect("a position");
            if Format::of(front_end.features) == Format::Split {
                assert_eq!(base, u32::from(ring.driver.next_avail()));
            }
            front_end.start(&ring, base).expect("to start again");
        }
    }
}

pub fn one_by_one(path: &Path) {
    let (mut front_end, guest, mut first) = served(path, PACKED);
    let mut second = GuestRing::new(&guest, 1, 2 * SIZE, front_end.features);
    works(&mut first, 1);
    front_end.start(&second, 0).expect("to start the second");
    works(&mut second, 2);
    works(&mut first, 3);
    let base = front_end.stop(&first).expect("a position");
    works(&mut second, 4);
    rests(&mut first);
    front_end.start(&first, base).expect("to start the first");
    // What came while it was not served.
    assert!(first.wait_for(PATIENCE).is_some());
    works(&mut first, 5);
    works(&mut second, 6);
}

pub fn kick_and_switch(path: &Path) {
    let (mut front_end, guest, _) = served(path, PACKED);
    let mut ring = GuestRing::new(&guest, 1, SIZE, front_end.features);
    front_end.set_up(&ring, 0).expect("to set it up");
    front_end
        .vhost
        .set_vring_enable(1, true)
        .expect("to enable it");
    rests(&mut ring);
    front_end
        .vhost
        .set_vring_kick(1, &ring.kick)
        .expect("a kick");
    assert!(ring.wait_for(PATIENCE).is_some());
    front_end
        .vhost
        .set_vring_enable(1, false)
        .expect("to disable it");
    rests(&mut ring);
    front_end
        .vhost
        .set_vring_enable(1, true)
        .expect("to enable it");
    assert!(ring.wait_for(PATIENCE).is_some());
    works(&mut ring, 1);
    // A message without a descriptor takes it away.
    let no_file = (1u64 | 1 << 8).to_ne_bytes();
    assert_eq!(front_end.ask(12, &no_file, &[]).expect("an answer"), 0);
    rests(&mut ring);
}

pub fn bad_rings(path: &Path) {
    let (mut front_end, guest, _) = served(path, PACKED);
    let ring = GuestRing::new(&guest, 1, SIZE, front_end.features);
    let number = |code: u32, index: u32, number: u32| {
        let words = [index, number].map(u32::to_ne_bytes).concat();
        (code, words)
    };
    for (code, payload) in [
        // No such ring.
        number(8, 2, 64),
        number(10, 256, 0),
        number(18, u32::MAX, 1),
        // No such size.
        number(8, 1, 0),
        number(8, 1, 3),
        number(8, 1, 65536),
        number(8, 1, u32::MAX),
        // Neither on nor off.
        number(18, 1, 2),
        // In use.
        number(8, 0, 64),
        number(10, 0, 0),
    ] {
        let answer = front_end.ask(code, &payload, &[]).expect("an answer");
        assert_eq!(answer, 1, "{code} {payload:?}");
    }
    let good = addresses(ring.driver.layout());
    let changes: [fn(&mut VringConfigData); 6] = [
        |it| it.desc_table_addr = 4096,
        |it| it.avail_ring_addr += 1 << 31,
        |it| it.used_ring_addr = u64::MAX - 3,
        |it| it.desc_table_addr += 8,
        |it| it.used_ring_addr += 2,
        // All but the last bytes are in memory.
        |it| it.desc_table_addr += (6 << 20) - 32,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut bad = good;
        change(&mut bad);
        front_end.set_up(&ring, 0).expect("to set it up");
        front_end.vhost.set_vring_addr(1, &bad).expect("addresses");
        front_end
            .vhost
            .set_vring_enable(1, true)
            .expect("to enable it");
        let refused = front_end.vhost.set_vring_kick(1, &ring.kick);
        assert!(refused.is_err(), "ring {number}");
    }
    let mut flagged = good;
    flagged.flags = 2;
    assert!(front_end.vhost.set_vring_addr(1, &flagged).is_err());
}

pub fn bad_neighbour(path: &Path) {
    let (mut front_end, guest, mut ring) = served(path, PACKED);
    let bad = GuestRing::new(&guest, 1, SIZE, front_end.features);
    // Neither size nor addresses.
    front_end
        .vhost
        .set_vring_enable(1, true)
        .expect("to enable it");
    assert!(front_end.vhost.set_vring_kick(1, &bad.kick).is_err());
    works(&mut ring, 1);
    let mut bad = bad;
    front_end.start(&bad, 0).expect("to start");
    works(&mut bad, 2);
    works(&mut ring, 3);
}

pub fn reset(path: &Path) {
    let (mut front_end, guest, mut ring) = served(path, PACKED);
    works(&mut ring, 1);
    front_end.vhost.reset_device().expect("a reset");
    rests(&mut ring);
    assert_eq!(front_end.vhost.get_vring_base(0).expect("a position"), 0);
    // Memory stays. Rings start anew, once features are agreed on again.
    front_end
        .vhost
        .set_features(front_end.features.0)
        .expect("features");
    let mut ring = GuestRing::new(&guest, 0, 2 * SIZE, front_end.features);
    ring.driver.layout().clear(&guest.memory);
    front_end.start(&ring, 0).expect("to start");
    works(&mut ring, 2);
    front_end.vhost.reset_owner().expect("a reset of old");
    rests(&mut ring);
}

/// A front-end that has lost a connection says where the ring stood at that moment. What was
/// answered since then is done.
pub fn answered(path: &Path) {
    let (mut front_end, guest, mut ring) = served(path, PACKED);
    let old = pattern(1, 4096);
    let write = ring.write(0, 0, &old);
    assert_eq!(ring.perform(&write), OK);
    drop(front_end);
    // Another writes to the same place meanwhile.
    let new = pattern(2, 4096);
    let (other, _other_guest, mut other_ring) = served(path, PACKED);
    let write = other_ring.write(0, 0, &new);
    assert_eq!(other_ring.perform(&write), OK);
    drop(other);
    front_end = connect(path);
    front_end.negotiate(PACKED);
    front_end.share(&guest);
    front_end.start(&ring, 0).expect("to start");
    let read = ring.read(1, 0, 4096);
    assert_eq!(ring.perform(&read), OK);
    assert!(
        ring.contents(&read) == new,
        "the first write was done twice"
    );
}

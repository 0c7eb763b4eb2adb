// SPDX-License-Identifier: GPL-2.0

//! Cases about front-ends that come and go.

use super::{
    super::front_end::{FrontEnd, GuestRing, SharedGuest, PATIENCE},
    guest::{connect, served, still_serves, works, A_WHILE, PACKED, SIZE},
};
use crate::backend::Features;
use std::{io::Read, path::Path};
use vhost::{vhost_user::VhostUserFrontend, VhostBackend};

pub fn second(path: &Path) {
    let (front_end, _guest, mut ring) = served(path, PACKED);
    let other = connect(path);
    other.send(1, 1, &[], &[]).expect("to send");
    works(&mut ring, 1);
    other
        .socket
        .set_read_timeout(Some(A_WHILE))
        .expect("a timeout");
    let mut answer = [0; 20];
    assert!((&other.socket).read(&mut answer).is_err());
    drop(front_end);
    other
        .socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    (&other.socket).read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[..4], [1, 0, 0, 0]);
}

pub fn hang_up(path: &Path) {
    type Step = fn(&mut FrontEnd, &SharedGuest, &mut GuestRing);
    let steps: [Step; 8] = [
        |it, _, _| it.negotiate(PACKED),
        |it, guest, _| it.share(guest),
        |it, _, ring| it.set_up(ring, 0).expect("to set it up"),
        |it, _, ring| it.vhost.set_vring_kick(0, &ring.kick).expect("a kick"),
        |it, _, _| it.vhost.set_vring_enable(0, true).expect("to enable it"),
        |_, _, ring| {
            for slot in 0..16 {
                let write = ring.write(slot, slot * 8, &[slot as u8; 4096]);
                ring.add(&write);
            }
            ring.publish();
        },
        |_, _, ring| assert!(ring.wait_for(PATIENCE).is_some()),
        |it, _, _| drop(it.vhost.get_vring_base(0)),
    ];
    for count in 0..=steps.len() {
        let mut front_end = connect(path);
        let guest = SharedGuest::new();
        let mut ring = GuestRing::new(&guest, 0, SIZE, split());
        for step in &steps[..count] {
            step(&mut front_end, &guest, &mut ring);
        }
        drop(front_end);
        still_serves(path);
    }
}

fn split() -> Features {
    Features(Features::SUPPORTED.0 & !PACKED)
}

// SPDX-License-Identifier: GPL-2.0

//! Cases about messages: what is agreed on, and what is not as the protocol has it.

use super::{
    super::front_end::{shared_file, FrontEnd, PROTOCOL_FEATURES},
    guest::{connect, served, works, DISK_BYTES, PACKED},
};
use std::{
    io::{Read, Write},
    net::Shutdown,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};
use vblk_core::features::bit;
use vhost::{
    vhost_user::{message::VhostUserConfigFlags, VhostUserFrontend},
    VhostBackend,
};

pub fn features(path: &Path) {
    let front_end = connect(path);
    let offered = front_end.vhost.get_features().expect("features");
    for wanted in [1 << bit::VERSION_1, 1 << bit::BLK_FLUSH, PROTOCOL_FEATURES] {
        assert_eq!(offered & wanted, wanted);
    }
    // Another transport's feature, and one that nobody has.
    for unknown in [33, 63] {
        assert_eq!(offered >> unknown & 1, 0);
        let mut front_end = connect_after(path, front_end.socket.try_clone().expect("a duplicate"));
        front_end.negotiate(0);
        let more = (front_end.features.0 | 1 << unknown).to_ne_bytes();
        assert_eq!(front_end.ask(2, &more, &[]).expect("an answer"), 1);
        let more = (1u64 << 40).to_ne_bytes();
        assert_eq!(front_end.ask(16, &more, &[]).expect("an answer"), 1);
    }
    let (front_end, _guest, mut ring) = served(path, PACKED);
    let fewer = (front_end.features.0 & !(1 << bit::RING_EVENT_IDX)).to_ne_bytes();
    assert_eq!(front_end.ask(2, &fewer, &[]).expect("an answer"), 1);
    works(&mut ring, 1);
}

/// Connects when the front-end before has hung up.
fn connect_after(path: &Path, earlier: UnixStream) -> FrontEnd {
    earlier.shutdown(Shutdown::Both).expect("to hang up");
    connect(path)
}

pub fn config(path: &Path) {
    const WCE: u32 = 32;
    let (mut front_end, _guest, mut ring) = served(path, PACKED);
    let space = front_end.config(0, 60).expect("the space");
    let sectors = u64::from_ne_bytes(*space.first_chunk().expect("a capacity"));
    assert!(sectors * 512 >= DISK_BYTES);
    assert_eq!(front_end.config(34, 2).expect("queues"), [2, 0]);
    assert_eq!(front_end.config(0, 256).expect("all of it")[..60], space);
    for (offset, bytes) in [(0, 257), (256, 1), (255, 2), (4095, 1)] {
        let message = [offset, bytes, 0].map(u32::to_ne_bytes).concat();
        let message = [message, vec![0; bytes as usize]].concat();
        no_config(&front_end, &message);
    }
    let flags = VhostUserConfigFlags::WRITABLE;
    for on in [0, 1, 0] {
        front_end
            .vhost
            .set_config(WCE, flags, &[on])
            .expect("to switch");
        assert_eq!(front_end.config(WCE, 1).expect("the switch"), [on]);
        works(&mut ring, on);
    }
    for (offset, bytes) in [(0, &[1][..]), (WCE, &[1, 0]), (WCE + 1, &[1])] {
        assert!(front_end.vhost.set_config(offset, flags, bytes).is_err());
    }
    // It is as it was for the next one.
    drop(front_end);
    let (mut front_end, _guest, _) = served(path, PACKED);
    assert_eq!(front_end.config(WCE, 1).expect("the switch"), [1]);
}

/// Asks for a part of the configuration space that is none: the answer has no bytes of it.
fn no_config(front_end: &FrontEnd, message: &[u8]) {
    front_end.send(24, 1, message, &[]).expect("to send");
    let mut answer = [0; 24];
    (&front_end.socket)
        .read_exact(&mut answer)
        .expect("an answer");
    let bytes = [&answer[8..12], &answer[16..20]];
    assert_eq!(bytes, [[12, 0, 0, 0], [0; 4]], "more than a head");
}

pub fn not_agreed(path: &Path) {
    let file = shared_file(4096);
    for (code, payload, files) in [
        (17, vec![], vec![]),
        (21, vec![], vec![file.as_raw_fd()]),
        (25, vec![0; 13], vec![]),
        (31, vec![0; 24], vec![]),
        (32, vec![0; 24], vec![file.as_raw_fd()]),
        (34, vec![], vec![]),
        (36, vec![], vec![]),
        (37, vec![0; 40], vec![file.as_raw_fd()]),
        (38, vec![0; 40], vec![]),
        (18, vec![0; 8], vec![]),
    ] {
        let front_end = connect(path);
        front_end.send(code, 1, &payload, &files).expect("to send");
        // Nobody waits for an answer: it can only be told by hanging up.
        front_end.must_be_closed();
    }
}

/// Numbers of the requests, and the length of their payloads.
const REQUESTS: [(u32, usize); 23] = [
    (1, 0),
    (2, 8),
    (3, 0),
    (4, 0),
    (8, 8),
    (9, 40),
    (10, 8),
    (11, 8),
    (12, 8),
    (13, 8),
    (14, 8),
    (15, 0),
    (16, 8),
    (17, 0),
    (18, 8),
    (24, 13),
    (25, 13),
    (31, 24),
    (32, 24),
    (34, 0),
    (36, 0),
    (37, 40),
    (38, 40),
];

pub fn wrong_sizes(path: &Path) {
    for (code, right) in REQUESTS {
        for bytes in [0, 1, right.wrapping_sub(1), right + 1, 4096] {
            if bytes == right || bytes > 4096 {
                continue;
            }
            let mut front_end = connect(path);
            front_end.negotiate(PACKED);
            match code {
                // Its refusal is an answer without bytes.
                24 => no_config(&front_end, &vec![0xff; bytes]),
                _ => {
                    let payload = vec![0xff; bytes];
                    front_end.send(code, 1, &payload, &[]).expect("to send");
                    front_end.must_be_closed();
                }
            }
        }
    }
    // A table that has not as many regions as it says.
    for count in [0u32, 2, 9, u32::MAX] {
        let mut front_end = connect(path);
        front_end.negotiate(PACKED);
        let file = shared_file(4096);
        let table = [&count.to_ne_bytes()[..], &[0; 36]].concat();
        let answer = front_end.ask(5, &table, &[file.as_raw_fd()]);
        assert_eq!(answer.expect("an answer"), 1, "{count}");
    }
}

pub fn wrong_descriptors(path: &Path) {
    let file = shared_file(4096);
    let many = vec![file.as_raw_fd(); 33];
    let fds = |count: usize| &many[..count];
    for (code, payload, files) in [
        (12, vec![0; 8], fds(0)),
        (13, vec![0; 8], fds(2)),
        (14, [0u32, 1].map(u32::to_ne_bytes).concat(), fds(0)),
        (14, (1u64 << 8).to_ne_bytes().to_vec(), fds(1)),
        // A file that is no eventfd.
        (12, vec![0; 8], fds(1)),
        (13, vec![0; 8], fds(1)),
        (1, vec![], fds(1)),
        (2, vec![0; 8], fds(1)),
        (21, vec![], fds(0)),
        (21, vec![], fds(2)),
        (21, vec![], fds(1)),
        (37, vec![0; 40], fds(0)),
        (37, vec![0; 40], fds(2)),
        (38, vec![0; 40], fds(2)),
        (
            5,
            [&[2, 0, 0, 0, 0, 0, 0, 0][..], &[0; 64]].concat(),
            fds(1),
        ),
        (
            5,
            [&[2, 0, 0, 0, 0, 0, 0, 0][..], &[0; 64]].concat(),
            fds(3),
        ),
    ] {
        let mut front_end = connect(path);
        front_end.negotiate(PACKED);
        let answer = front_end.ask(code, &payload, files).expect("an answer");
        assert_eq!(answer, 1, "{code} with {} descriptors", files.len());
    }
    let front_end = connect(path);
    front_end.send(1, 1, &[], &many).expect("to send");
    front_end.must_be_closed();
}

pub fn no_messages(path: &Path) {
    for head in [
        [1, 0, 0],
        [1, 2, 0],
        [1, 3, 0],
        // A reply.
        [1, 5, 0],
        // Longer than any.
        [2, 1, 4097],
        [2, 1, u32::MAX],
        // No such request.
        [0, 1, 0],
        [39, 1, 0],
        [u32::MAX, 1, 8],
    ] {
        let front_end = connect(path);
        let bytes = [head[0], head[1], head[2], 0, 0].map(u32::to_ne_bytes);
        (&front_end.socket)
            .write_all(&bytes.concat())
            .expect("to send");
        front_end.must_be_closed();
    }
    // The end in the middle.
    for bytes in [1, 11, 12, 15] {
        let front_end = connect(path);
        let message = [2u32, 1, 8, 0, 0].map(u32::to_ne_bytes).concat();
        (&front_end.socket)
            .write_all(&message[..bytes])
            .expect("to send");
        front_end.socket.shutdown(Shutdown::Write).expect("to end");
        front_end.must_be_closed();
    }
    // A front-end that does not go on is not waited for.
    let front_end = connect(path);
    (&front_end.socket).write_all(&[1, 0, 0]).expect("to send");
    front_end.must_be_closed();
}

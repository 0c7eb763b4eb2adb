// SPDX-License-Identifier: GPL-2.0

//! The host's page cache of the disk: a program that used the disk through it before sees and loses
//! the same with both back-ends, as with QEMU's `cache=none`. The harness tests the module further.

use super::{
    features::on_split_rings,
    layout::BORDER,
    recipe::{Recipe, Ring},
    side::Side,
};
use crate::{
    area::Area,
    disk::{self, NullBlk},
    prelude::*,
};
use std::{error::Error, os::unix::fs::FileExt};
use vblk::backend::Kind;
use vblk_core::testing::STATUS_UNWRITTEN;

const BYTES: usize = 4096;
const BEFORE: u8 = b'.';
const HOST: u8 = b'H';
const GUEST: u8 = b'G';

const STATUS_AT: usize = 16;
const DATA_AT: usize = 4096;

/// Performs one request on the beginning of the disk, and returns its data afterwards.
fn perform(side: &mut Side, kind: u32, data: u8) -> Result<Vec<u8>, Box<dyn Error>> {
    let area = Area {
        start: GuestAddr(BORDER),
        bytes: (DATA_AT + BYTES) as u64,
    };
    let (header, status) = (area.start, GuestAddr(area.start.0 + STATUS_AT as u64));
    let mut request = BlockRequest::new(kind, 0, header, status);
    if kind != FLUSH {
        request = request.data(GuestAddr(area.start.0 + DATA_AT as u64), BYTES as u32);
    }
    let recipe = Recipe {
        area,
        content: vec![data; area.bytes as usize],
        writes: vec![
            (header, request.header_bytes().to_vec()),
            (status, vec![STATUS_UNWRITTEN]),
        ],
        ring: Ring::Direct(request.buffers()),
    };
    let outcome = side.perform(&[recipe])?;
    let memory = outcome.memory.into_iter().next().ok_or("no outcome")?;
    assert_eq!(memory[STATUS_AT], OK, "type {kind}");
    Ok(memory[DATA_AT..].to_vec())
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;

/// Returns what a guest reads, what is on the disk after its flush and a sync of the host, and what
/// the host reads through its cache when the guest is gone.
fn story(kind: Kind) -> Result<[u8; 3], Box<dyn Error>> {
    let disk = Disk::null(&NullBlk::default())?;
    disk.write(0, &[BEFORE; BYTES])?;
    let host = disk::open(disk.path(), Mode::ReadWrite, 0)?;
    host.write_all_at(&[HOST; BYTES], 0)?;
    let mut side = Side::new(kind, disk.path(), on_split_rings())?;
    let read = perform(&mut side, READ, 0)?;
    perform(&mut side, WRITE, GUEST)?;
    perform(&mut side, FLUSH, 0)?;
    host.sync_all()?;
    let on_disk = disk.read(0, BYTES)?;
    side.stop()?;
    drop(side);
    let mut cached = vec![0; BYTES];
    host.read_exact_at(&mut cached, 0)?;
    let whole = |bytes: &[u8]| bytes.iter().all(|byte| *byte == bytes[0]);
    assert!(
        [&read, &on_disk, &cached].iter().all(|bytes| whole(bytes)),
        "{kind}: mixed"
    );
    Ok([read[0], on_disk[0], cached[0]])
}

pub fn page_cache_of_the_host(_: &Context) -> Outcome {
    for kind in Kind::ALL {
        let [read, on_disk, cached] = story(kind)?.map(char::from);
        assert_eq!(
            (read, on_disk, cached),
            (HOST.into(), GUEST.into(), GUEST.into()),
            "{kind}: read by the guest, on the disk, read by the host afterwards"
        );
    }
    Ok(())
}

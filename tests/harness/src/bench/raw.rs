// SPDX-License-Identifier: GPL-2.0

//! The same requests without a device in between: what the host's own interfaces cost.

use super::load::{sample, Direction, Load, BLOCK};
use crate::{
    disk::Disk,
    sys::{
        aio::{Aio, Transfer},
        map::Mapping,
        tsc,
    },
};
use std::{error::Error, os::unix::fs::FileExt};

/// Linux AIO with O_DIRECT: a batch by one call, then waiting until all of it is done.
pub fn libaio(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    let file = disk.open_direct()?;
    let buffer = Mapping::anonymous(load.depth * BLOCK)?;
    let mut aio = Aio::new(&file, &buffer, load.depth)?;
    sample(load, |blocks| {
        let transfer = |(slot, block): (usize, &u64)| Transfer {
            write: load.direction == Direction::Write,
            offset: block * BLOCK as u64,
            at: slot * BLOCK,
            len: BLOCK,
            tag: slot as u64,
        };
        let transfers: Vec<_> = blocks.iter().enumerate().map(transfer).collect();
        let (mut left, mut good) = (transfers.len(), true);

        let start = tsc::now();
        aio.submit(&transfers)?;
        while left > 0 {
            left -= aio.wait(|_, result| good &= result == BLOCK as i64)?;
        }
        let time = tsc::now() - start;

        if good {
            Ok(time)
        } else {
            Err("a request failed".into())
        }
    })
}

/// `pread` and `pwrite` with O_DIRECT.
pub fn synchronous(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    let file = disk.open_direct()?;
    let mut memory = vec![0; 2 * BLOCK];
    let skip = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[skip..skip + BLOCK];
    sample(load, |blocks| {
        let offset = blocks[0] * BLOCK as u64;
        let start = tsc::now();
        let len = match load.direction {
            Direction::Read => file.read_at(buffer, offset)?,
            Direction::Write => file.write_at(buffer, offset)?,
        };
        let time = tsc::now() - start;
        if len == BLOCK {
            Ok(time)
        } else {
            Err("a request failed".into())
        }
    })
}

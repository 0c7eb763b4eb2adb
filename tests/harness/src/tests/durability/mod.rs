// SPDX-License-Identifier: GPL-2.0

//! Content of a disk after its power was cut.
//!
//! Two kinds of disk can tell. A null_blk with a write cache forgets the cache, and nothing else,
//! when its power is cut; but it caches only blocks that were never written before. dm-log-writes,
//! of the debug kernel, logs what becomes durable, whatever was there. Each test has its own proof
//! that the cut is one: a write without a request to be durable, which is gone afterwards.

mod history;
mod log;
mod power;

use crate::{
    disk::{Target, RAM, SECOND_RAM},
    fixtures::place::{Place, DATA},
    prelude::*,
};
use history::{any_history_of_overwrites_survives_a_power_cut, any_history_survives_a_power_cut};
use power::{cached, cut_and_restore, SECTOR};
use std::{path::Path, time::Duration};
use vblk_core::features::bit;

pub const TESTS: &[Test] = tests!["harness":
    flushed_writes_survive_a_power_cut(30),
    flush_is_not_answered_before_its_writes_are(30),
    written_through_survives_a_power_cut(30),
    any_history_survives_a_power_cut(60),
];

/// Tests that need the debug kernel.
pub const LOGGED: &[Test] = tests!["harness":
    whatever_is_overwritten_is_durable_when_flushed(30),
    any_history_of_overwrites_survives_a_power_cut(60),
];

/// Sectors that a request writes: enough for several bios.
const SECTORS: u64 = 3 << 10;
const BYTES: usize = SECTORS as usize * SECTOR;

/// Ways to change what is on a disk, each a path of its own through the module.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A write of one block.
    Small,
    /// A write of several bios.
    Large,
    /// A write from buffers that must be copied.
    Copied,
    /// Zeroes instead of data, which may or may not keep their space.
    Zeroes { unmap: bool },
}

impl Way {
    /// Returns what can be seen on a disk without content. There zeroes look like nothing at all.
    const OF_DATA: [Self; 3] = [Self::Small, Self::Large, Self::Copied];

    const ALL: [Self; 5] = [
        Self::Small,
        Self::Large,
        Self::Copied,
        Self::Zeroes { unmap: false },
        Self::Zeroes { unmap: true },
    ];

    /// Writes `bytes`, or a part of them, to `sector`, and waits for the answer. Gives what must
    /// then be there.
    fn write(self, vm: &mut Vm, sector: u64, bytes: &[u8]) -> Vec<u8> {
        let place = Place::of(vm);
        let (mut request, data) = match self {
            Self::Small => (place.write(sector, 4096), bytes[..4096].to_vec()),
            Self::Large | Self::Copied => (place.write(sector, BYTES as u32), bytes.to_vec()),
            Self::Zeroes { unmap } => {
                vm.memory.write(DATA, &range(sector, unmap));
                let request = BlockRequest::new(13, 0, place.header, place.status);
                (request.data(DATA, 16), vec![0; BYTES])
            }
        };
        if !matches!(self, Self::Zeroes { .. }) {
            vm.memory.write(DATA, &data);
        }
        if matches!(self, Self::Copied) {
            let mut rest = request.data[0];
            request.data[0].len = 1001;
            rest.addr = GuestAddr(DATA.0 + 1001);
            rest.len -= 1001;
            request.data.push(rest);
        }
        let answer = vm.queue().request(&request);
        assert_eq!(answer, Answer::new(OK, 1), "{self:?}");
        data
    }
}

/// The bytes of `struct virtio_blk_discard_write_zeroes`.
fn range(sector: u64, unmap: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&(SECTORS as u32).to_le_bytes());
    bytes[12] = unmap.into();
    bytes
}

fn flush(vm: &mut Vm) -> Answer {
    let place = Place::of(vm);
    let request = BlockRequest::flush(place.header, place.status);
    vm.queue().request(&request)
}

/// Fails unless exactly the first of two writes is there: the other one was in the cache.
fn judge(now: &[u8], kept: &[u8], old: u8, what: &str) {
    assert!(now[..kept.len()] == *kept, "{what}: lost");
    let gone = now[BYTES..].iter().all(|byte| *byte == old);
    assert!(gone, "{what}: the power was not cut");
}

fn flushed_writes_survive_a_power_cut(context: &Context) -> Outcome {
    let new = context.rng().bytes(BYTES);
    for delay in [None, Some(Duration::from_micros(100))] {
        for way in Way::OF_DATA {
            let disk = cached(true, delay)?;
            let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
            let kept = way.write(&mut vm, 0, &new);
            assert_eq!(flush(&mut vm), Answer::new(OK, 1));
            way.write(&mut vm, SECTORS, &new);
            cut_and_restore(&disk, vm)?;
            judge(&disk.read(0, 2 * BYTES)?, &kept, 0, &format!("{way:?}"));
        }
    }
    Ok(())
}

/// A disk on which a flush overtakes writes. Who answers a write before the disk did loses it.
fn flush_is_not_answered_before_its_writes_are(context: &Context) -> Outcome {
    const MILLIS: u32 = 20;
    let new = context.rng().bytes(BYTES);
    for way in Way::OF_DATA {
        let below = cached(true, None)?;
        let sectors = below.bytes()? / 512;
        let disk = Disk::mapped(&[Target::delayed_writes(below.path(), sectors, MILLIS)])?;
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        let kept = way.write(&mut vm, 0, &new);
        assert_eq!(flush(&mut vm), Answer::new(OK, 1));
        way.write(&mut vm, SECTORS, &new);
        below.cut_power()?;
        drop(vm);
        drop(disk);
        below.restore_power()?;
        judge(&below.read(0, 2 * BYTES)?, &kept, 0, &format!("{way:?}"));
    }
    Ok(())
}

/// Ways in which a guest asks that its writes are durable when they are answered.
#[derive(Clone, Copy, Debug)]
enum Through {
    /// By the writeback switch.
    Switch,
    /// By not negotiating that there are flushes.
    NoFlush,
}

impl Through {
    const BOTH: [Self; 2] = [Self::Switch, Self::NoFlush];

    fn attach(self, disk: &Disk) -> Result<Vm, Errno> {
        match self {
            Self::Switch => {
                let vm = Vm::with_disk(&Setup::default(), disk)?;
                vm.device.set_writeback(0)?;
                Ok(vm)
            }
            Self::NoFlush => Vm::with_disk(&Setup::default().without(bit::BLK_FLUSH), disk),
        }
    }
}

fn written_through_survives_a_power_cut(context: &Context) -> Outcome {
    let new = context.rng().bytes(BYTES);
    for through in Through::BOTH {
        for fua in [true, false] {
            for way in Way::OF_DATA {
                let disk = cached(fua, None)?;
                let mut vm = through.attach(&disk)?;
                let kept = way.write(&mut vm, 0, &new);
                // From here on it is not asked for.
                vm.device.set_writeback(1)?;
                way.write(&mut vm, SECTORS, &new);
                cut_and_restore(&disk, vm)?;
                let what = format!("{way:?}, {through:?}, fua {fua}");
                judge(&disk.read(0, 2 * BYTES)?, &kept, 0, &what);
            }
        }
    }
    Ok(())
}

/// Writes in all ways, over something that was there before.
fn whatever_is_overwritten_is_durable_when_flushed(context: &Context) -> Outcome {
    const OLD: u8 = 0x0D;
    const LOG: usize = 5 << 20;
    context.needs_debug_kernel()?;
    let new = context.rng().bytes(BYTES);
    let modes = [None, Some(Through::Switch), Some(Through::NoFlush)];
    for (mode, way) in modes
        .iter()
        .flat_map(|mode| Way::ALL.map(|way| (*mode, way)))
    {
        let log = Target::log_writes(Path::new(RAM), Path::new(SECOND_RAM), 2 * SECTORS);
        let disk = Disk::mapped(&[log])?;
        let mut vm = match mode {
            None => Vm::with_disk(&Setup::default(), &disk)?,
            Some(through) => through.attach(&disk)?,
        };
        let kept = way.write(&mut vm, 0, &new);
        match mode {
            None => assert_eq!(flush(&mut vm), Answer::new(OK, 1)),
            Some(_) => vm.device.set_writeback(1)?,
        }
        way.write(&mut vm, SECTORS, &new);
        disk.mark_log("cut")?;
        drop(vm);
        drop(disk);
        let mut image = vec![OLD; 2 * BYTES];
        log::replay(&Disk::second_ram(), &mut image, "cut", LOG)?;
        judge(&image, &kept, OLD, &format!("{way:?}, {mode:?}"));
    }
    Ok(())
}

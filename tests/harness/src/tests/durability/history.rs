// SPDX-License-Identifier: GPL-2.0

//! Random writes and flushes with many under way, cut off anywhere.
//!
//! The rule: a sector has the content of the last write that was answered before a flush was
//! submitted that was answered too, or of a later write. A write that is answered in writethrough
//! mode needs no flush.

use super::{
    log,
    power::{cached, SECTOR},
};
use crate::{
    disk::{Target, RAM, SECOND_RAM},
    memory::MIDDLE,
    prelude::*,
    rng::Rng,
};
use std::time::Duration;

/// Requests that are under way at once.
const DEPTH: usize = 16;
const SLOT_SECTORS: usize = 8;
const SLOT_BYTES: usize = SLOT_SECTORS * SECTOR;
/// Most answers before a cut.
const STEPS: u64 = 300;
/// Cuts.
const ROUNDS: u64 = 12;

/// A part of the disk, with at most one write under way. Versions count up, over all cuts; version
/// 0 is what was there before any write.
#[derive(Clone, Copy, Default)]
struct Slot {
    busy: bool,
    /// The last version that was submitted.
    submitted: u64,
    /// The last one that was answered.
    answered: u64,
    /// The oldest that may be there after a cut.
    durable: u64,
}

/// Purpose of a request under way.
enum Job {
    Write {
        slot: usize,
        version: u64,
    },
    /// A flush, with what was answered when it was submitted.
    Flush(Vec<u64>),
}

struct Flying {
    head: u16,
    room: usize,
    job: Job,
}

/// A run up to a cut.
struct History<'a> {
    vm: Vm,
    rng: &'a mut Rng,
    slots: &'a mut Vec<Slot>,
    /// Set when each write goes where none was before.
    fresh: bool,
    through: bool,
    flying: Vec<Flying>,
    /// Places for headers, status bytes and data.
    rooms: Vec<usize>,
}

/// Parts that were found as they must be, and writes that were answered and then lost. A model in
/// which either can't happen shows nothing.
#[derive(Default)]
struct Tally {
    kept: u64,
    lost: u64,
}

/// On null_blk, of whose cache only fresh writes tell.
pub fn any_history_survives_a_power_cut(context: &Context) -> Outcome {
    let mut rng = context.rng();
    let (mut slots, mut tally) = (Vec::new(), Tally::default());
    let below = cached(true, Some(Duration::from_micros(50)))?;
    let sectors = below.bytes()? / 512;
    for round in 0..context.rounds(ROUNDS) {
        // Directly, and where a flush overtakes writes.
        let above = match round % 2 {
            0 => None,
            _ => Some(Disk::mapped(&[Target::delayed_writes(
                below.path(),
                sectors,
                3,
            )])?),
        };
        let disk = above.as_ref().unwrap_or(&below);
        let through = round % 3 == 2;
        let mut history = History::new(disk, &mut rng, &mut slots, through)?;
        history.fresh = true;
        history.run(|| below.cut_power())?;
        drop(history);
        drop(above);
        below.restore_power()?;
        let image = below.read(0, slots.len() * SLOT_BYTES)?;
        judge(&image, &mut slots, &mut tally).map_err(|error| format!("round {round}: {error}"))?;
    }
    tally.conclude()
}

/// On dm-log-writes, where few parts are written again and again.
pub fn any_history_of_overwrites_survives_a_power_cut(context: &Context) -> Outcome {
    const SLOTS: usize = 48;
    const LOG: usize = 4 << 20;
    context.needs_debug_kernel()?;
    let mut rng = context.rng();
    let (mut slots, mut tally) = (vec![Slot::default(); SLOTS], Tally::default());
    let mut image = vec![0; SLOTS * SLOT_BYTES];
    let sectors = (SLOTS * SLOT_SECTORS) as u64;
    for round in 0..context.rounds(ROUNDS) {
        let disk = Disk::mapped(&[Target::log_writes(
            RAM.as_ref(),
            SECOND_RAM.as_ref(),
            sectors,
        )])?;
        let through = round % 3 == 2;
        let mut history = History::new(&disk, &mut rng, &mut slots, through)?;
        history.run(|| disk.mark_log("cut"))?;
        drop(history);
        drop(disk);
        log::replay(&Disk::second_ram(), &mut image, "cut", LOG)?;
        judge(&image, &mut slots, &mut tally).map_err(|error| format!("round {round}: {error}"))?;
    }
    tally.conclude()
}

impl Tally {
    fn conclude(self) -> Outcome {
        let Self { kept, lost } = self;
        assert!(kept > 0 && lost > 0, "{kept} parts kept, {lost} lost");
        Ok(())
    }
}

impl<'a> History<'a> {
    fn new(
        disk: &Disk,
        rng: &'a mut Rng,
        slots: &'a mut Vec<Slot>,
        through: bool,
    ) -> Result<Self, Errno> {
        let vm = Vm::with_disk(&Setup::default(), disk)?;
        vm.device.set_writeback(u32::from(!through))?;
        Ok(Self {
            vm,
            rng,
            slots,
            fresh: false,
            through,
            flying: Vec::new(),
            rooms: (0..DEPTH).collect(),
        })
    }

    /// Writes for a while, and cuts with all requests under way.
    fn run(&mut self, cut: impl FnOnce() -> Result<(), Errno>) -> Outcome {
        for _ in 0..self.rng.within(1..STEPS) {
            while let Some(room) = self.rooms.pop() {
                self.submit(room);
            }
            self.vm.queue().notify();
            self.answer(true)?;
        }
        cut()?;
        // Nothing is forgotten. What is answered from here on may be there or not.
        while !self.flying.is_empty() {
            self.answer(false)?;
        }
        Ok(())
    }

    fn submit(&mut self, room: usize) {
        let header = GuestAddr(self.vm.free().0 + room as u64 * 64);
        let status = GuestAddr(header.0 + 32);
        let (request, job) = if self.rng.one_in(10) {
            let answered = self.slots.iter().map(|slot| slot.answered).collect();
            (BlockRequest::flush(header, status), Job::Flush(answered))
        } else {
            let number = self.pick();
            let slot = &mut self.slots[number];
            slot.busy = true;
            slot.submitted += 1;
            let version = slot.submitted;
            let data = GuestAddr(MIDDLE.guest + (room * SLOT_BYTES) as u64);
            self.vm.memory.write(data, &content(number, version));
            let sector = (number * SLOT_SECTORS) as u64;
            let write = BlockRequest::write(sector, header, status);
            let job = Job::Write {
                slot: number,
                version,
            };
            (write.data(data, SLOT_BYTES as u32), job)
        };
        request.prepare(&*self.vm.memory);
        let head = self
            .vm
            .queue()
            .driver
            .add(&request.buffers())
            .expect("room");
        self.flying.push(Flying { head, room, job });
    }

    /// A part of the disk without a write under way.
    fn pick(&mut self) -> usize {
        if self.fresh {
            self.slots.push(Slot::default());
            return self.slots.len() - 1;
        }
        loop {
            let number = self.rng.index(0..self.slots.len());
            if !self.slots[number].busy {
                return number;
            }
        }
    }

    /// Takes an answer. Promises count only while there is power.
    fn answer(&mut self, powered: bool) -> Outcome {
        let used = self.vm.queue().next_used();
        let at = self
            .flying
            .iter()
            .position(|job| u32::from(job.head) == used.id);
        let Flying { room, job, .. } = self.flying.swap_remove(at.ok_or("not ours")?);
        self.rooms.push(room);
        let status = GuestAddr(self.vm.free().0 + room as u64 * 64 + 32);
        let status = self.vm.memory.read_u8(status);
        if used.len != 1 || ![OK, IOERR].contains(&status) {
            return Err(format!("status {status}, length {}", used.len).into());
        }
        let good = status == OK && powered;
        match job {
            Job::Write { slot, version } => {
                let slot = &mut self.slots[slot];
                slot.busy = false;
                if good {
                    slot.answered = version;
                }
                if good && self.through {
                    slot.durable = version;
                }
            }
            Job::Flush(answered) if good => {
                for (slot, version) in self.slots.iter_mut().zip(answered) {
                    slot.durable = slot.durable.max(version);
                }
            }
            Job::Flush(_) => {}
        }
        Ok(())
    }
}

/// Each 16 bytes of a sector after a write: its version, and where it belongs.
fn stamp(slot: usize, sector: usize, version: u64) -> [u8; 16] {
    let place = (slot * SLOT_SECTORS + sector) as u128;
    (u128::from(version) | place << 64).to_le_bytes()
}

/// Returns the bytes that a write puts there.
fn content(slot: usize, version: u64) -> Vec<u8> {
    let sector = |number| stamp(slot, number, version).repeat(SECTOR / 16);
    (0..SLOT_SECTORS).flat_map(sector).collect()
}

/// Judges what a cut left behind, with which the next round begins.
fn judge(image: &[u8], slots: &mut [Slot], tally: &mut Tally) -> Outcome {
    let parts = image.chunks(SLOT_BYTES).zip(slots).enumerate();
    for (number, (bytes, slot)) in parts {
        let found =
            check(bytes, number, slot).map_err(|error| format!("part {number}: {error}"))?;
        tally.kept += u64::from(slot.durable > 0);
        tally.lost += u64::from(found < slot.answered);
        (slot.answered, slot.durable, slot.busy) = (found, found, false);
    }
    Ok(())
}

/// Judges a part; the oldest version that is found in it.
fn check(bytes: &[u8], number: usize, slot: &Slot) -> Result<u64, String> {
    let mut oldest = u64::MAX;
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        let version = u64::from_le_bytes(sector[..8].try_into().expect("a sector"));
        let stamp = match version {
            0 => [0; 16],
            _ => stamp(number, index, version),
        };
        if sector.chunks(16).any(|part| part != stamp) {
            return Err(format!("sector {index} is no write of ours"));
        }
        let (oldest_allowed, newest) = (slot.durable, slot.submitted);
        if !(oldest_allowed..=newest).contains(&version) {
            return Err(format!(
                "version {version}, where {oldest_allowed} to {newest} may be"
            ));
        }
        oldest = oldest.min(version);
    }
    Ok(oldest)
}

// SPDX-License-Identifier: GPL-2.0

//! Random chains, each with a part of the ring and of guest memory for itself.

use super::model::{skipped, Verdict};
use crate::{
    memory::{GuestMemory, MIDDLE},
    rng::Rng,
    vm::Queue,
};
use std::{ops::Range, sync::Arc};
use vblk_core::{
    addr::GuestAddr,
    packed,
    split::Descriptor,
    testing::{
        reference::{self, Expected},
        BlockRequest, Driver, DriverMemory, STATUS_UNWRITTEN,
    },
};

/// Chains at a time.
pub const AREAS: u64 = 16;
/// Descriptors of the ring for each.
const DIRECT: u16 = 8;
/// Entries of its indirect table.
const TABLE: u16 = 20;
/// Places for buffers in an area, and their lengths.
const PLACES: u64 = 4;
const PLACE: u64 = 5000;
const FIRST_PLACE: u64 = 1024;
/// Place of a second copy of a chain for a packed ring: behind the table.
const SCRATCH: u64 = 512;
const AREA: u64 = FIRST_PLACE + PLACES * PLACE;
/// Start of the areas: one of them lies across the border of two regions.
pub const START: u64 = MIDDLE.guest - 5 * AREA - 2500;
/// End of the areas.
pub const END: u64 = START + AREAS * AREA;
/// The end of guest memory below 4 GiB.
const HOLE: u64 = MIDDLE.guest + MIDDLE.bytes as u64;

const NEXT: u16 = Descriptor::F_NEXT;
const WRITE: u16 = Descriptor::F_WRITE;
const INDIRECT: u16 = Descriptor::F_INDIRECT;

/// Returns whether an address of an area is neither in its table nor in a header.
pub fn is_data(area: GuestAddr, at: GuestAddr) -> bool {
    let offset = at.0.wrapping_sub(area.0 + FIRST_PLACE);
    offset < PLACES * PLACE && offset % PLACE >= 16
}

/// Makes chains and puts them into a ring.
pub struct Cook {
    rng: Rng,
    window: u64,
}

impl Cook {
    /// Starts from a seed, for a disk of whose beginning `window` bytes are used.
    pub fn new(rng: Rng, window: u64) -> Self {
        Self { rng, window }
    }

    /// Puts a chain in, and tells what `judge` makes of it.
    pub fn post(
        &mut self,
        area: u64,
        queue: &mut Queue,
        judge: impl Fn(Expected) -> Verdict,
    ) -> Verdict {
        let start = GuestAddr(START + area * AREA);
        let memory = queue.driver.memory().clone();
        self.write_headers(start, &memory);
        match queue.driver {
            Driver::Split(_) => self.post_split(area, start, queue, &memory, judge),
            Driver::Packed(_) => self.post_packed(area, start, queue, &memory, judge),
        }
    }

    /// The heads that were no descriptors do not come back.
    pub fn forget(&self, queue: &mut Queue) {
        if let Driver::Split(driver) = &mut queue.driver {
            driver.forget_posted();
        }
    }

    /// A header at each place, most of them sensible, and in front of a range.
    fn write_headers(&mut self, start: GuestAddr, memory: &GuestMemory) {
        let rng = &mut self.rng;
        for place in 0..PLACES {
            let kinds = [0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 14, 99];
            let kind = kinds[rng.index(0..kinds.len())];
            let sector = match rng.one_in(6) {
                true => rng.bits(),
                false => rng.within(0..self.window / 512 - 64),
            };
            let at = buffer(start, place);
            memory.write(at, &BlockRequest::new(kind, sector, at, at).header_bytes());
            let sectors = rng.within(0..20) as u32;
            let flags = if rng.one_in(4) { rng.within(0..4) } else { 0 } as u32;
            let mut range = rng.within(0..self.window / 512 - 64).to_le_bytes().to_vec();
            range.extend(sectors.to_le_bytes());
            range.extend(flags.to_le_bytes());
            memory.write(GuestAddr(at.0 + 16), &range);
        }
    }

    fn post_split(
        &mut self,
        area: u64,
        start: GuestAddr,
        queue: &mut Queue,
        memory: &Arc<GuestMemory>,
        judge: impl Fn(Expected) -> Verdict,
    ) -> Verdict {
        let layout = *queue.driver.layout();
        let size = layout.size.get();
        // The lower half is for well-formed requests.
        let head = size / 2 + area as u16 * DIRECT;
        let driver = queue.driver.split();
        let blocks = memory.blocks();
        let reference = reference::Memory {
            memory: &**memory,
            blocks: &blocks,
        };
        loop {
            let last = self.rng.index(1..usize::from(DIRECT)) as u16;
            let middle = self.rng.within(0..u64::from(last)) as u16;
            for index in 0..DIRECT {
                let mut desc = self.descriptor(start, index, middle, last);
                desc.next = self.next(desc.next, index, head..head + DIRECT, size);
                driver.write_descriptor(head + index, &desc);
            }
            let entries = self.rng.within(1..u64::from(TABLE)) as u16;
            let middle = self.rng.within(0..u64::from(entries)) as u16;
            for index in 0..entries {
                let mut desc = self.descriptor(start, index, middle, entries - 1);
                desc.next = self.next(desc.next, index, 0..TABLE, size);
                let at = start.0 + u64::from(index) * Descriptor::BYTES as u64;
                driver.write_raw_descriptor(GuestAddr(at), &desc);
            }
            let expected = reference::walk(&reference, layout.desc.0, size.into(), head, true);
            if expected.or_fault && expected.result.is_ok() {
                // How far tables are read ahead is up to the device.
                continue;
            }
            if self.rng.one_in(40) {
                let wrong = [size, size + 1, u16::MAX];
                driver.post(wrong[self.rng.index(0..wrong.len())]);
                return skipped();
            }
            let verdict = judge(expected);
            mark(&**memory, start, &verdict);
            driver.post(head);
            let id = Some(head);
            return Verdict { id, ..verdict };
        }
    }

    fn post_packed(
        &mut self,
        area: u64,
        start: GuestAddr,
        queue: &mut Queue,
        memory: &Arc<GuestMemory>,
        judge: impl Fn(Expected) -> Verdict,
    ) -> Verdict {
        let layout = *queue.driver.layout();
        let size = layout.size.get();
        let driver = queue.driver.packed();
        let count = self.rng.index(1..usize::from(DIRECT) + 1) as u16;
        let middle = self.rng.within(0..u64::from(count)) as u16;
        // Beyond those that well-formed requests have.
        let id = 0x8000 | (self.rng.bits() as u16) << 4 | area as u16;
        let chain: Vec<_> = (0..count)
            .map(|index| {
                let desc = self.descriptor(start, index, middle, count - 1);
                let next = if index + 1 < count { NEXT } else { 0 };
                packed::Descriptor {
                    addr: desc.addr,
                    len: desc.len,
                    id,
                    flags: desc.flags & !NEXT & 0x7f7f | next,
                }
            })
            .collect();
        let entries = self.rng.within(1..u64::from(TABLE)) as u16;
        let middle = self.rng.within(0..u64::from(entries)) as u16;
        for index in 0..entries {
            let desc = self.descriptor(start, index, middle, entries - 1);
            let entry = packed::Descriptor {
                addr: desc.addr,
                len: desc.len,
                id: self.rng.bits() as u16,
                flags: desc.flags,
            };
            let at = start.0 + u64::from(index) * Descriptor::BYTES as u64;
            driver.write_raw_descriptor(GuestAddr(at), &entry);
        }
        // Not from the ring, where the first of all heads is not to be seen yet.
        let scratch = start.0 + SCRATCH;
        for (at, desc) in (scratch..).step_by(Descriptor::BYTES).zip(&chain) {
            driver.write_raw_descriptor(GuestAddr(at), desc);
        }
        driver.post(&chain);
        let blocks = memory.blocks();
        let reference = reference::Memory {
            memory: &**memory,
            blocks: &blocks,
        };
        let expected = reference::walk_packed(&reference, scratch, size.into(), 0, count, true);
        let verdict = judge(expected);
        mark(&**memory, start, &verdict);
        let id = Some(id);
        Verdict { id, ..verdict }
    }

    fn descriptor(&mut self, start: GuestAddr, index: u16, middle: u16, last: u16) -> Descriptor {
        let rng = &mut self.rng;
        let lens = [0, 1, 15, 16, 511, 512, 512, 512, 1024, 1024, 4096];
        let mut desc = Descriptor {
            addr: buffer(start, rng.within(0..PLACES)).0,
            len: lens[rng.index(0..lens.len())],
            flags: 0,
            next: index + 1,
        };
        // Readable, then writable, with exceptions.
        let writable = (index > middle) != rng.one_in(20);
        if index == 0 && !rng.one_in(8) {
            desc.len = 16;
        } else if writable {
            desc.flags |= WRITE;
        } else if rng.one_in(3) {
            // Ranges.
            desc.addr += 16;
            desc.len = 16 * rng.within(1..3) as u32;
        }
        if index < last {
            desc.flags |= NEXT;
        } else if !rng.one_in(8) {
            desc.flags |= WRITE;
            desc.len = 1;
            // Behind a header, and within the place although ranges began 16 bytes later.
            desc.addr += rng.within(16..PLACE - 16);
        }
        if rng.one_in(20) {
            desc.flags |= INDIRECT;
            desc.addr = start.0;
            desc.len = 16 * rng.within(1..u64::from(TABLE)) as u32;
            if rng.one_in(3) {
                // Sometimes as both formats allow it.
                desc.flags &= !NEXT;
            } else if rng.one_in(8) {
                desc.len += 8;
            }
        } else if rng.one_in(30) {
            let nowhere = [HOLE, HOLE + 511, u64::MAX, 0u64.wrapping_sub(512)];
            desc.addr = nowhere[rng.index(0..nowhere.len())];
        } else if rng.one_in(60) {
            desc.len = u32::MAX - rng.within(0..20) as u32;
        }
        if rng.one_in(20) {
            // Bits that mean nothing.
            desc.flags |= (rng.bits() as u16) & 0x7f78;
        }
        desc
    }

    /// Mostly the one behind it; otherwise a loop, or not in the table.
    fn next(&mut self, next: u16, index: u16, own: Range<u16>, size: u16) -> u16 {
        let at = |offset| own.start + offset % own.len() as u16;
        let wrong = [at(0), at(index), at(index + 2), u16::MAX, size];
        match self.rng.one_in(30) {
            true => wrong[self.rng.index(0..wrong.len())],
            false => own.start + next,
        }
    }
}

/// Returns an address at which a buffer of an area may begin.
fn buffer(start: GuestAddr, place: u64) -> GuestAddr {
    GuestAddr(start.0 + FIRST_PLACE + place * PLACE)
}

/// Puts a mark where a status is to be written, for what it is worth: not over what counts.
fn mark(memory: &impl DriverMemory, area: GuestAddr, verdict: &Verdict) {
    if let Some((at, _)) = verdict.status {
        if verdict.marks && is_data(area, at) {
            memory.write(at, &[STATUS_UNWRITTEN]);
        }
    }
}

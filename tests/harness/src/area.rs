// SPDX-License-Identifier: GPL-2.0

//! Requests in random layouts within an area of guest memory.

use crate::{rng::Rng, vm::Queue};
use vblk_core::{
    addr::GuestAddr,
    testing::{cut, join, BlockRequest, Buf, DriverMemory},
};

/// A part of guest memory that one request has for itself.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Where it begins.
    pub start: GuestAddr,
    /// Its length.
    pub bytes: u64,
}

/// What kind of I/O a random request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// A request and how it lies in guest memory.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The parts of the request.
    pub request: BlockRequest,
    /// The buffers to put into the ring for it.
    pub bufs: Vec<Buf>,
    /// Where an indirect table can go.
    pub table: GuestAddr,
}

impl Area {
    /// Bytes that stay free for header, status, gaps and an indirect table of `segments`.
    pub fn overhead(segments: usize) -> u64 {
        16 * segments as u64 + 17 + MAX_GAP * (MAX_PARTS + 2)
    }

    /// Cuts memory into areas of equal length.
    pub fn split(start: GuestAddr, bytes: u64, count: usize) -> Vec<Self> {
        let each = bytes / count as u64 & !15;
        let area = |index| Self {
            start: GuestAddr(start.0 + index as u64 * each),
            bytes: each,
        };
        (0..count).map(area).collect()
    }

    /// Places a read or write of `len` bytes at random: in at most `segments` buffers of any
    /// length and alignment, with or without gaps, header and status alone, cut up, or in one
    /// buffer with data.
    pub fn place(&self, rng: &mut Rng, kind: Kind, sector: u64, len: u32, segments: usize) -> Placed {
        assert!(u64::from(len) + Self::overhead(segments) <= self.bytes, "area too small");
        let mut at = self.start.0 + 16 * segments as u64;
        let mut take = |rng: &mut Rng, len: u64| {
            let start = at + gap(rng);
            at = start + len;
            GuestAddr(start)
        };
        let header = take(rng, 16);
        let parts: Vec<_> = parts(rng, len, segments.saturating_sub(2).clamp(1, MAX_PARTS as usize))
            .map(|len| (take(rng, len.into()), len))
            .collect();
        let status = take(rng, 1);
        let mut request = match kind {
            Kind::Read => BlockRequest::read(sector, header, status),
            Kind::Write => BlockRequest::write(sector, header, status),
        };
        for (addr, len) in parts {
            request = request.data(addr, len);
        }
        let bufs = recut(rng, &request.buffers(), len, segments);
        let table = self.start;
        Placed { request, bufs, table }
    }
}

/// Largest space between two parts.
const MAX_GAP: u64 = 1024;
/// Most parts that are placed on their own; cutting makes more buffers of them.
const MAX_PARTS: u64 = 24;

/// Often none, so that parts are neighbours; otherwise of any alignment.
fn gap(rng: &mut Rng) -> u64 {
    match rng.bits() % 4 {
        0 | 1 => 0,
        2 => rng.within(1..16),
        _ => rng.within(1..MAX_GAP),
    }
}

/// Cuts `len` bytes into at most `count` parts of random length.
fn parts(rng: &mut Rng, len: u32, count: usize) -> impl Iterator<Item = u32> {
    let count = rng.index(1..count + 1);
    let mut ends: Vec<u32> = (1..count).map(|_| rng.within(0..u64::from(len) + 1) as u32).collect();
    ends.push(len);
    ends.sort_unstable();
    let mut before = 0;
    ends.into_iter().filter_map(move |end| {
        let part = end - std::mem::replace(&mut before, end);
        (part > 0).then_some(part)
    })
}

/// Joins neighbours or not, then cuts at random places, up to `segments` buffers.
fn recut(rng: &mut Rng, bufs: &[Buf], len: u32, segments: usize) -> Vec<Buf> {
    let bufs = if rng.one_in(2) { join(bufs) } else { bufs.to_vec() };
    let spare = segments.saturating_sub(bufs.len());
    let count = match rng.bits() % 3 {
        0 => 0,
        1 => rng.index(0..spare.min(4) + 1),
        _ => rng.index(0..spare + 1),
    };
    let total = u64::from(len) + 17;
    let mut positions: Vec<u64> = (0..count).map(|_| rng.within(1..total)).collect();
    positions.sort_unstable();
    positions.dedup();
    cut(&bufs, &positions)
}

impl Placed {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.request.data.iter().map(|buf| buf.len as usize).sum()
    }

    /// Writes `bytes` to where the data lies.
    pub fn scatter(&self, memory: &impl DriverMemory, bytes: &[u8]) {
        let mut done = 0;
        for buf in &self.request.data {
            memory.write(buf.addr, &bytes[done..done + buf.len as usize]);
            done += buf.len as usize;
        }
    }

    /// The data in one piece.
    pub fn gather(&self, memory: &impl DriverMemory) -> Vec<u8> {
        let parts = self.request.data.iter();
        parts.flat_map(|buf| memory.read_vec(buf.addr, buf.len as usize)).collect()
    }

    /// Puts it into the ring, to be seen after the next notification; directly or indirectly.
    /// Gives the head, or `None` when there is no room.
    pub fn add(&self, rng: &mut Rng, queue: &mut Queue, indirect: bool) -> Option<u16> {
        self.request.prepare(queue.driver.memory());
        if !indirect {
            return queue.driver.add(&self.bufs);
        }
        // Some descriptors in the ring, the others in the table (virtio 1.2, 2.7.5.3).
        let direct = if rng.one_in(4) { rng.index(0..self.bufs.len()).min(3) } else { 0 };
        let (direct, rest) = self.bufs.split_at(direct);
        queue.driver.add_chain(direct, Some((self.table, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_stays_in_its_area_and_keeps_all_bytes() {
        let mut rng = Rng::new(1);
        for round in 0..2000 {
            let segments = 3 + round % 200;
            let len = 512 * (1 + round % 64) as u32;
            let area = Area {
                start: GuestAddr(0x10_0000),
                bytes: u64::from(len) + Area::overhead(segments),
            };
            let kind = if rng.one_in(2) { Kind::Read } else { Kind::Write };
            let placed = area.place(&mut rng, kind, 0, len, segments);
            assert_eq!(placed.len(), len as usize);
            assert!(placed.bufs.len() <= segments, "{} > {segments}", placed.bufs.len());
            let bytes: u64 = placed.bufs.iter().map(|buf| u64::from(buf.len)).sum();
            assert_eq!(bytes, u64::from(len) + 17);
            for buf in &placed.bufs {
                assert!(buf.addr.0 >= area.start.0 + 16 * segments as u64);
                assert!(buf.addr.0 + u64::from(buf.len) <= area.start.0 + area.bytes);
            }
        }
    }
}

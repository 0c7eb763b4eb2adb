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
    /// The first address.
    pub start: GuestAddr,
    /// Length in bytes.
    pub bytes: u64,
}

/// Kind of I/O of a random request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// I/O of a request.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// Direction.
    pub kind: Kind,
    /// First sector.
    pub sector: u64,
    /// Bytes of data.
    pub len: u32,
}

/// A request and how it lies in guest memory.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The parts of the request.
    pub request: BlockRequest,
    /// The buffers to put into the ring for it.
    pub bufs: Vec<Buf>,
    /// Room for an indirect table.
    pub table: GuestAddr,
}

impl Area {
    /// Bytes that stay free for header, status, gaps and an indirect table of `segments`.
    pub fn overhead(segments: usize, align: u64) -> u64 {
        16 * segments as u64 + 17 + (MAX_GAP + align) * (max_parts(align) as u64 + 2)
    }

    /// Cuts memory into areas of equal length.
    pub fn split(start: GuestAddr, bytes: u64, count: usize) -> Vec<Self> {
        let each = (bytes / count as u64) & !15;
        let area = |index| Self {
            start: GuestAddr(start.0 + index as u64 * each),
            bytes: each,
        };
        (0..count).map(area).collect()
    }

    /// Places a read or write of `len` bytes at random: in at most `segments` buffers of any
    /// length and alignment, with or without gaps, header and status alone, cut up, or in one
    /// buffer with data.
    ///
    /// With `align` above 1, all parts of the data begin at multiples of it and are cut there only.
    pub fn place(&self, rng: &mut Rng, what: &Io, segments: usize, align: u64) -> Placed {
        let Io { kind, sector, len } = *what;
        let space = u64::from(len) + Self::overhead(segments, align);
        assert!(space <= self.bytes, "area too small");
        let mut at = self.start.0 + 16 * segments as u64;
        let mut take = |rng: &mut Rng, len: u64, align: u64| {
            let start = (at + gap(rng)).next_multiple_of(align);
            at = start + len;
            GuestAddr(start)
        };
        let header = take(rng, 16, 1);
        let most = segments.saturating_sub(2).clamp(1, max_parts(align));
        let parts: Vec<_> = parts(rng, len, most, align as u32)
            .map(|len| (take(rng, len.into(), align), len))
            .collect();
        let status = take(rng, 1, 1);
        let mut request = match kind {
            Kind::Read => BlockRequest::read(sector, header, status),
            Kind::Write => BlockRequest::write(sector, header, status),
        };
        for (addr, len) in parts {
            request = request.data(addr, len);
        }
        let bufs = recut(rng, &request, len, segments, align);
        let table = self.start;
        Placed {
            request,
            bufs,
            table,
        }
    }
}

/// Largest space between two parts.
const MAX_GAP: u64 = 1024;

/// Most parts that are placed on their own; cutting makes more buffers of them.
fn max_parts(align: u64) -> usize {
    if align > 1 {
        8
    } else {
        24
    }
}

/// Returns the space between two parts: often none, so that they are neighbours; otherwise of any
/// alignment.
fn gap(rng: &mut Rng) -> u64 {
    match rng.bits() % 4 {
        0 | 1 => 0,
        2 => rng.within(1..16),
        _ => rng.within(1..MAX_GAP),
    }
}

/// Cuts `len` bytes into at most `count` parts of random length, at multiples of `unit`.
fn parts(rng: &mut Rng, len: u32, count: usize, unit: u32) -> impl Iterator<Item = u32> {
    let count = rng.index(1..count + 1);
    let mut end = |_| rng.within(0..u64::from(len / unit) + 1) as u32 * unit;
    let mut ends: Vec<u32> = (1..count).map(&mut end).collect();
    ends.push(len);
    ends.sort_unstable();
    let mut before = 0;
    ends.into_iter().filter_map(move |end| {
        let part = end - std::mem::replace(&mut before, end);
        (part > 0).then_some(part)
    })
}

/// Joins neighbours or not, then cuts at random places, up to `segments` buffers. Data is cut at
/// multiples of `align`.
fn recut(rng: &mut Rng, request: &BlockRequest, len: u32, segments: usize, align: u64) -> Vec<Buf> {
    const HEADER: u64 = 16;
    let bufs = request.buffers();
    let bufs = if rng.one_in(2) { join(&bufs) } else { bufs };
    let spare = segments.saturating_sub(bufs.len());
    let count = match rng.bits() % 3 {
        0 => 0,
        1 => rng.index(0..spare.min(4) + 1),
        _ => rng.index(0..spare + 1),
    };
    let total = u64::from(len) + 17;
    let position = |_| match rng.within(1..total) {
        in_header @ ..=HEADER => in_header,
        in_data => HEADER + (in_data - HEADER) / align * align,
    };
    let mut positions: Vec<u64> = (0..count).map(position).collect();
    positions.sort_unstable();
    positions.dedup();
    cut(&bufs, &positions)
}

impl Placed {
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
        parts
            .flat_map(|buf| memory.read_vec(buf.addr, buf.len as usize))
            .collect()
    }

    /// Puts it into the ring, to be seen after the next notification; directly or indirectly.
    /// Gives the head, or `None` when there is no room.
    pub fn add(&self, rng: &mut Rng, queue: &mut Queue, indirect: bool) -> Option<u16> {
        self.request.prepare(queue.driver.memory());
        if !indirect {
            return queue.driver.add(&self.bufs);
        }
        // Some descriptors in the ring, the others in the table (virtio 1.2, 2.7.5.3).
        let direct = if rng.one_in(4) {
            rng.index(0..self.bufs.len()).min(3)
        } else {
            0
        };
        let (direct, rest) = self.bufs.split_at(direct);
        queue.driver.add_mixed(direct, self.table, rest)
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
            let align = [1, 512, 4096][round % 3];
            let len = 512 * (1 + round % 64) as u32;
            let area = Area {
                start: GuestAddr(0x10_0000),
                bytes: u64::from(len) + Area::overhead(segments, align),
            };
            let kind = if rng.one_in(2) {
                Kind::Read
            } else {
                Kind::Write
            };
            let placed = area.place(
                &mut rng,
                &Io {
                    kind,
                    sector: 0,
                    len,
                },
                segments,
                align,
            );
            let parts = &placed.request.data;
            assert_eq!(parts.iter().map(|part| part.len).sum::<u32>(), len);
            assert!(parts.iter().all(|part| part.addr.0 % align == 0));
            let mut at = 0;
            for buf in &placed.bufs {
                let in_data = at > 16 && at < u64::from(len) + 16;
                assert!(!in_data || (at - 16) % align == 0, "cut within a block");
                at += u64::from(buf.len);
            }
            assert!(
                placed.bufs.len() <= segments,
                "{} > {segments}",
                placed.bufs.len()
            );
            let bytes: u64 = placed.bufs.iter().map(|buf| u64::from(buf.len)).sum();
            assert_eq!(bytes, u64::from(len) + 17);
            for buf in &placed.bufs {
                assert!(buf.addr.0 >= area.start.0 + 16 * segments as u64);
                assert!(buf.addr.0 + u64::from(buf.len) <= area.start.0 + area.bytes);
            }
        }
    }
}

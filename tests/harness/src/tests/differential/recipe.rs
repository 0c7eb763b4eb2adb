// SPDX-License-Identifier: GPL-2.0

//! Random requests as data, so that two back-ends can be given the same ones.

use super::layout::{BORDER, MEMORY_END, QUEUE_SIZE};
use crate::{
    area::{Area, Io, Kind, Placed},
    rng::Rng,
};
use std::ops::Range;
use vblk_core::{
    addr::GuestAddr,
    split::Descriptor,
    testing::{cut, BlockRequest, Buf, STATUS_UNWRITTEN},
};

/// Form in which a request gets into the ring.
#[derive(Clone, Debug)]
pub enum Ring {
    /// A chain of these.
    Direct(Vec<Buf>),
    /// An indirect table at some address.
    Indirect(GuestAddr, Vec<Buf>),
    /// Descriptors, whatever they are, and a head.
    Raw {
        descriptors: Vec<(u16, Descriptor)>,
        head: u16,
    },
}

/// A request.
#[derive(Clone)]
pub struct Recipe {
    /// The part of guest memory that it has for itself.
    pub area: Area,
    /// Content before the request.
    pub content: Vec<u8>,
    /// Bytes that are written over it.
    pub writes: Vec<(GuestAddr, Vec<u8>)>,
    /// The request itself.
    pub ring: Ring,
}

/// Leaves the content out.
impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe")
            .field("area", &self.area)
            .field("writes", &self.writes)
            .field("ring", &self.ring)
            .finish()
    }
}

const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const AREAS: u64 = 16;
/// The areas lie around the border of the two regions, up to the end of memory.
const FIRST_AREA: u64 = BORDER - (64 << 10);
const LONGEST: u64 = 32 << 10;
const SEGMENTS: usize = 12;

/// Makes requests.
pub struct Recipes {
    rng: Rng,
    /// Bytes of the disk that are used.
    window: u64,
    indirect: bool,
    areas: Vec<Area>,
}

impl Recipes {
    /// Starts from a seed.
    pub fn new(rng: Rng, window: u64, indirect: bool) -> Self {
        let bytes = Area::overhead(SEGMENTS, 1) + LONGEST;
        let area = |index| Area {
            start: GuestAddr(FIRST_AREA + index * bytes.next_multiple_of(4096)),
            bytes,
        };
        let areas: Vec<_> = (0..AREAS).map(area).collect();
        assert!(areas
            .iter()
            .all(|area| area.start.0 + area.bytes <= MEMORY_END));
        Self {
            rng,
            window,
            indirect,
            areas,
        }
    }

    /// Requests that succeed, none of which depends on another.
    pub fn good_batch(&mut self) -> Vec<Recipe> {
        let mut taken: Vec<Range<u64>> = Vec::new();
        let count = self.rng.index(1..AREAS as usize + 1);
        let areas = self.areas[..count].to_vec();
        let mut recipes = Vec::new();
        for area in areas {
            if self.rng.one_in(8) {
                recipes.push(self.without_sectors(area));
                continue;
            }
            let len = self.rng.within(1..LONGEST / 512 + 1) * 512;
            let start = self.rng.within(0..(self.window - len) / 512 + 1) * 512;
            let range = start..start + len;
            if taken
                .iter()
                .all(|other| other.end <= range.start || range.end <= other.start)
            {
                let sector = range.start / 512;
                recipes.push(match self.rng.one_in(4) {
                    true => self.good_ranges(area, sector, len / 512),
                    false => self.transfer(area, sector, len as u32),
                });
                taken.push(range);
            }
        }
        recipes
    }

    /// Requests that are well-formed, and mostly can't be done.
    pub fn failing_batch(&mut self) -> Vec<Recipe> {
        let end = u64::MAX / 512;
        let sectors = [end, end - 1, u64::MAX, 1 << 40, (1 << 55) - 1, 1 << 55];
        let count = self.rng.index(1..AREAS as usize + 1);
        let areas = self.areas[..count].to_vec();
        let mut recipes = Vec::new();
        for area in areas {
            let recipe = match self.rng.bits() % 5 {
                // Beyond the disk.
                0 => {
                    let sector = sectors[self.rng.index(0..sectors.len())];
                    self.transfer(area, sector, 512)
                }
                // Not whole sectors.
                1 => {
                    let len = self.rng.within(1..2048) as u32;
                    let len = if len % 512 == 0 { len + 1 } else { len };
                    self.transfer(area, 0, len)
                }
                // Data that is not in memory.
                2 => self.data_nowhere(area),
                3 => self.failing_ranges(area, &sectors),
                _ => self.without_sectors(area),
            };
            recipes.push(recipe);
        }
        recipes
    }

    fn transfer(&mut self, area: Area, sector: u64, len: u32) -> Recipe {
        let kind = if self.rng.one_in(2) {
            Kind::Read
        } else {
            Kind::Write
        };
        let io = Io { kind, sector, len };
        let placed = area.place(&mut self.rng, &io, SEGMENTS, 1);
        self.recipe(area, placed)
    }

    /// Discards or zeroes these sectors, in up to four ranges.
    fn good_ranges(&mut self, area: Area, sector: u64, sectors: u64) -> Recipe {
        let mut cuts: Vec<_> = (0..3).map(|_| self.rng.within(0..sectors + 1)).collect();
        cuts.push(sectors);
        cuts.sort_unstable();
        let kind = self.range_kind();
        let mut before = 0;
        let range = |end| {
            let start = std::mem::replace(&mut before, end);
            let unmap = kind == WRITE_ZEROES && self.rng.one_in(2);
            (sector + start, (end - start) as u32, u32::from(unmap))
        };
        let ranges: Vec<_> = cuts.into_iter().map(range).collect();
        self.ranges(area, kind, &ranges)
    }

    /// A good range and a bad one, in any order.
    fn failing_ranges(&mut self, area: Area, beyond: &[u64]) -> Recipe {
        let bad = match self.rng.bits() % 3 {
            0 => (beyond[self.rng.index(0..beyond.len())], 1, 0),
            // Longer than any range may be.
            1 => (0, (1 << 22) + 1, 0),
            // An unknown flag.
            _ => (0, 8, 2),
        };
        let mut ranges = [(8, 8, 0), bad];
        if self.rng.one_in(2) {
            ranges.reverse();
        }
        let kind = self.range_kind();
        self.ranges(area, kind, &ranges)
    }

    fn range_kind(&mut self) -> u32 {
        [DISCARD, WRITE_ZEROES][self.rng.index(0..2)]
    }

    /// A request about ranges, each given by its first sector, its length in sectors, and flags.
    fn ranges(&mut self, area: Area, kind: u32, ranges: &[(u64, u32, u32)]) -> Recipe {
        let at = |offset: u64| GuestAddr(area.start.0 + offset);
        let encode = |(sector, sectors, flags): &(u64, u32, u32)| {
            [
                &sector.to_le_bytes()[..],
                &sectors.to_le_bytes(),
                &flags.to_le_bytes(),
            ]
            .concat()
        };
        let bytes: Vec<u8> = ranges.iter().flat_map(encode).collect();
        let request = BlockRequest::new(kind, self.rng.bits(), at(512), at(8192))
            .data(at(1024), bytes.len() as u32);
        let bufs = cut(&request.buffers(), &[self.rng.within(1..60)]);
        let mut recipe = self.simple(area, request, bufs);
        recipe.writes.push((at(1024), bytes));
        recipe
    }

    /// Leaves room for an indirect table at the beginning of the area.
    fn simple(&mut self, area: Area, request: BlockRequest, bufs: Vec<Buf>) -> Recipe {
        let table = area.start;
        self.recipe(
            area,
            Placed {
                request,
                bufs,
                table,
            },
        )
    }

    fn recipe(&mut self, area: Area, placed: Placed) -> Recipe {
        let Placed {
            request,
            bufs,
            table,
        } = placed;
        let ring = if self.indirect && self.rng.one_in(2) {
            Ring::Indirect(table, bufs)
        } else {
            Ring::Direct(bufs)
        };
        Recipe {
            area,
            content: self.rng.bytes(area.bytes as usize),
            writes: vec![
                (request.header, request.header_bytes().to_vec()),
                (request.status, vec![STATUS_UNWRITTEN]),
            ],
            ring,
        }
    }

    /// Returns a flush, a serial number, or an unknown type, with any buffers.
    fn without_sectors(&mut self, area: Area) -> Recipe {
        let kinds = [4, 8, 8, 2, 11, 13, 0x8000_0000, u64::from(u32::MAX)];
        let kind = kinds[self.rng.index(0..kinds.len())] as u32;
        let at = |offset: u64| GuestAddr(area.start.0 + offset);
        let mut request = BlockRequest::new(kind, self.rng.bits(), at(512), at(8192));
        if self.rng.one_in(3) {
            let len = self.rng.within(1..64) as u32;
            request.data.push(Buf::readable(at(1024), len));
        }
        if !self.rng.one_in(3) {
            let len = self.rng.within(1..64) as u32;
            request.data.push(Buf::writable(at(2048), len));
        }
        let position = self.rng.within(1..60);
        let bufs = cut(&request.buffers(), &[position]);
        self.simple(area, request, bufs)
    }

    fn data_nowhere(&mut self, area: Area) -> Recipe {
        let nowhere = [
            MEMORY_END,
            MEMORY_END - 512,
            1 << 40,
            u64::MAX - 100,
            u64::MAX,
        ];
        let addr = GuestAddr(nowhere[self.rng.index(0..nowhere.len())]);
        let at = |offset: u64| GuestAddr(area.start.0 + offset);
        let mut request = BlockRequest::read(0, at(512), at(8192));
        request.kind = self.rng.within(0..2) as u32;
        let request = request.data(addr, 1024);
        let mut bufs = request.buffers();
        bufs[1].writable = request.kind == 0;
        self.simple(area, request, bufs)
    }

    /// Descriptors of all kinds, in one area.
    pub fn soup(&mut self) -> Recipe {
        const DIRECT: u16 = 8;
        const TABLE: u64 = 16;
        let area = self.areas[self.rng.index(0..self.areas.len())];
        let table = area.start;
        let mut writes = Vec::new();
        // A header at each place where a buffer may begin, most of them sensible.
        for place in 0..4 {
            let kinds = [0, 1, 1, 4, 8, 11, 13, 99];
            let kind = kinds[self.rng.index(0..kinds.len())];
            let sector = match self.rng.one_in(6) {
                true => self.rng.bits(),
                false => self.rng.within(0..self.window / 512 - 64),
            };
            let at = buffer(table, place);
            let request = BlockRequest::new(kind, sector, at, at);
            writes.push((at, request.header_bytes().to_vec()));
        }
        // Mostly a chain in order, so that much of it is walked.
        let last = self.rng.index(1..usize::from(DIRECT)) as u16;
        let middle = self.rng.within(0..u64::from(last)) as u16;
        let descriptor = |index| (index, self.descriptor(area, index, middle, last));
        let descriptors = (0..DIRECT).map(descriptor).collect();
        let entries = self.rng.within(1..TABLE) as u16;
        let middle = self.rng.within(0..u64::from(entries)) as u16;
        for index in 0..entries {
            let descriptor = self.descriptor(area, index, middle, entries - 1);
            let at = GuestAddr(table.0 + u64::from(index) * Descriptor::BYTES as u64);
            writes.push((at, to_bytes(&descriptor)));
        }
        let wrong = [QUEUE_SIZE, QUEUE_SIZE + 1, u16::MAX];
        let head = match self.rng.one_in(30) {
            true => wrong[self.rng.index(0..wrong.len())],
            false => 0,
        };
        let content = self.rng.bytes(area.bytes as usize);
        let ring = Ring::Raw { descriptors, head };
        Recipe {
            area,
            content,
            writes,
            ring,
        }
    }

    fn descriptor(&mut self, area: Area, index: u16, middle: u16, last: u16) -> Descriptor {
        let rng = &mut self.rng;
        let lens = [0, 1, 15, 16, 511, 512, 512, 512, 1024, 1024, 4096];
        let mut desc = Descriptor {
            addr: buffer(area.start, rng.within(0..4)).0,
            len: lens[rng.index(0..lens.len())],
            flags: 0,
            next: index + 1,
        };
        // Readable, then writable, with exceptions.
        let writable = (index > middle) != rng.one_in(20);
        if index == 0 && !rng.one_in(8) {
            desc.len = 16;
        } else if writable {
            desc.flags |= Descriptor::F_WRITE;
        }
        if index < last {
            desc.flags |= Descriptor::F_NEXT;
        } else if !rng.one_in(8) {
            desc.flags |= Descriptor::F_WRITE;
            desc.len = 1;
        }
        if rng.one_in(20) {
            desc.flags |= Descriptor::F_INDIRECT;
            desc.addr = area.start.0;
            desc.len = 16 * rng.within(1..20) as u32;
        } else if rng.one_in(30) {
            let wrong = [0, index, u16::MAX, QUEUE_SIZE, index + 2];
            desc.next = wrong[rng.index(0..wrong.len())];
        } else if rng.one_in(30) {
            let nowhere = [MEMORY_END, MEMORY_END - 1, u64::MAX, 0u64.wrapping_sub(512)];
            desc.addr = nowhere[rng.index(0..nowhere.len())];
        } else if rng.one_in(60) {
            desc.len = u32::MAX - rng.within(0..20) as u32;
        }
        desc
    }
}

/// The places for buffers in an area. They may overlap nothing but themselves.
fn buffer(start: GuestAddr, place: u64) -> GuestAddr {
    GuestAddr(start.0 + 1024 + place * 5000)
}

fn to_bytes(desc: &Descriptor) -> Vec<u8> {
    let mut bytes = desc.addr.to_le_bytes().to_vec();
    bytes.extend(desc.len.to_le_bytes());
    bytes.extend(desc.flags.to_le_bytes());
    bytes.extend(desc.next.to_le_bytes());
    bytes
}

// SPDX-License-Identifier: GPL-2.0

//! Model of the answer to a chain (docs/uapi.md, Requests), from its buffers and the disk's size.

use crate::vm::{IOERR, OK, UNSUPP};
use std::ops::Range;
use vblk_core::{
    addr::GuestAddr,
    chain::Segment,
    testing::{
        reference::{self, Expected, Memory, Parsed},
        DriverMemory,
    },
};

/// Kinds of verdicts, each of which must be met.
pub const KINDS: [&str; 8] = [
    "skipped",
    "no chain",
    "no request",
    "no place",
    "done",
    "failed",
    "unsupported",
    "refused",
];

/// The right answer to a chain.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// The id of the used entry, unless there is none.
    pub id: Option<u16>,
    /// The used length.
    pub len: u32,
    /// The status byte and where it is, if there is one.
    pub status: Option<(GuestAddr, u8)>,
    /// Set when it counts as malformed.
    pub malformed: bool,
    /// Set when the disk can't do it, which counts as its error.
    pub refused_by_disk: bool,
    /// Sectors of the disk that it may change.
    pub changes: Vec<Range<u64>>,
    /// Set when a mark may be put where the status goes, without another verdict.
    pub marks: bool,
    /// The request, if it is one: for who reads a message.
    #[allow(dead_code)]
    pub request: Option<Parsed>,
}

/// The disk properties that matter.
pub struct Device {
    pub sectors: u64,
    pub discards: bool,
}

fn lost(kind: &'static str) -> Verdict {
    Verdict {
        kind,
        id: None,
        len: 0,
        status: None,
        malformed: true,
        refused_by_disk: false,
        changes: Vec::new(),
        marks: false,
        request: None,
    }
}

/// An available entry that names no descriptor.
pub fn skipped() -> Verdict {
    lost("skipped")
}

impl Device {
    /// Judges a chain; the id is the caller's.
    pub fn judge<M: DriverMemory>(&self, memory: &Memory<'_, M>, expected: Expected) -> Verdict {
        let Ok(bufs) = expected.result else {
            return lost("no chain");
        };
        let there = |addr: u64| memory.has(addr.into(), 1);
        match reference::parse(memory, &bufs) {
            Ok(request) if there(request.status) => self.execute(memory, request),
            Ok(_) => lost("no place"),
            Err(Some(at)) if there(at) => Verdict {
                len: status_len(&bufs),
                status: Some((GuestAddr(at), IOERR)),
                ..lost("no request")
            },
            Err(_) => lost("no request"),
        }
    }

    fn execute<M: DriverMemory>(&self, memory: &Memory<'_, M>, request: Parsed) -> Verdict {
        let kind = u32::from_le_bytes(request.header[..4].try_into().expect("4 bytes"));
        let sector = u64::from_le_bytes(request.header[8..].try_into().expect("8 bytes"));
        let room = total(&request.data_in);
        let mut changes = Vec::new();
        let (status, filled) = match kind {
            0 => match self.has(sector, room) && all_there(memory, &request.data_in) {
                true => (OK, room),
                false => (IOERR, 0),
            },
            1 => {
                let bytes = total(&request.data_out);
                let fits = self.has(sector, bytes);
                if fits {
                    changes.push(sector..sector + bytes / 512);
                }
                match fits && all_there(memory, &request.data_out) {
                    true => (OK, 0),
                    false => (IOERR, 0),
                }
            }
            4 => (OK, 0),
            8 => match all_there(memory, &first(&request.data_in, 20)) {
                true => (OK, room.min(20)),
                false => (IOERR, 0),
            },
            11 | 13 => {
                let status = self.ranges(memory, kind == 11, &request.data_out, &mut changes);
                (status, 0)
            }
            _ => (UNSUPP, 0),
        };
        let refused = kind == 11 && status == UNSUPP && !self.discards;
        Verdict {
            kind: match status {
                OK => "done",
                IOERR => "failed",
                _ if kind == 13 || kind == 11 => "refused",
                _ => "unsupported",
            },
            id: None,
            len: if filled >= room { room + 1 } else { filled } as u32,
            status: Some((GuestAddr(request.status), status)),
            malformed: false,
            refused_by_disk: refused && self.refuses(memory, &request.data_out),
            marks: kind != 11 && kind != 13,
            changes,
            request: Some(request),
        }
    }

    fn has(&self, sector: u64, bytes: u64) -> bool {
        let end = u128::from(sector) * 512 + u128::from(bytes);
        bytes % 512 == 0 && end <= u128::from(self.sectors) * 512
    }

    /// The status of a discard, or of writing zeroes.
    fn ranges<M: DriverMemory>(
        &self,
        memory: &Memory<'_, M>,
        discard: bool,
        data: &[(u64, u32)],
        changes: &mut Vec<Range<u64>>,
    ) -> u8 {
        let bytes = total(data);
        if bytes == 0 || bytes % 16 != 0 || bytes > 16 * 16 {
            return IOERR;
        }
        for index in 0..bytes / 16 {
            let Some(range) = bytes_of(memory, data, index * 16, 16) else {
                return IOERR;
            };
            let (sector, sectors, flags) = fields(&range);
            if flags & !u32::from(!discard) != 0 {
                return UNSUPP;
            }
            if sectors > 1 << 22 || !self.has(sector, u64::from(sectors) * 512) {
                return IOERR;
            }
            changes.push(sector..sector + u64::from(sectors));
        }
        let work = changes.iter().any(|range| !range.is_empty());
        match work && discard && !self.discards {
            true => UNSUPP,
            false => OK,
        }
    }

    /// Returns whether it is the disk that does not support a discard, and not its flags.
    fn refuses<M: DriverMemory>(&self, memory: &Memory<'_, M>, data: &[(u64, u32)]) -> bool {
        let flags = |index| bytes_of(memory, data, index * 16, 16).map(|range| fields(&range).2);
        (0..total(data) / 16).all(|index| flags(index) == Some(0))
    }
}

fn fields(range: &[u8]) -> (u64, u32, u32) {
    let word = |at: usize| u32::from_le_bytes(range[at..at + 4].try_into().expect("4 bytes"));
    let sector = u64::from(word(4)) << 32 | u64::from(word(0));
    (sector, word(8), word(12))
}

fn total(data: &[(u64, u32)]) -> u64 {
    data.iter().map(|(_, len)| u64::from(*len)).sum()
}

fn all_there<M: DriverMemory>(memory: &Memory<'_, M>, data: &[(u64, u32)]) -> bool {
    data.iter()
        .all(|(addr, len)| memory.has((*addr).into(), (*len).into()))
}

/// The first `most` bytes.
fn first(data: &[(u64, u32)], most: u32) -> Vec<(u64, u32)> {
    let mut left = most;
    let parts = data.iter().map(|(addr, len)| {
        let now = left.min(*len);
        left -= now;
        (*addr, now)
    });
    parts.filter(|(_, len)| *len > 0).collect()
}

/// `len` bytes after the first `skip`, if all are there.
fn bytes_of<M: DriverMemory>(
    memory: &Memory<'_, M>,
    data: &[(u64, u32)],
    skip: u64,
    len: u64,
) -> Option<Vec<u8>> {
    let parts = data
        .iter()
        .flat_map(|(addr, len)| (0..u128::from(*len)).map(|at| u128::from(*addr) + at));
    let mut bytes = Vec::new();
    for at in parts.skip(skip as usize).take(len as usize) {
        bytes.extend(memory.bytes(at, 1)?);
    }
    Some(bytes)
}

/// 1 if the status is all that there is to write, and nothing to read comes behind it.
fn status_len(bufs: &[Segment]) -> u32 {
    let writable = bufs.iter().filter(|buf| buf.writable);
    let room: u64 = writable.map(|buf| u64::from(buf.len)).sum();
    u32::from(room == 1)
}

// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard and write zeroes.

use super::request::Next;
use crate::{
    disk,
    sys::uring::Operation, //
};
use std::io;
use vblk_core::{
    addr::SECTOR_SIZE,
    range::{
        Range,
        MAX_RANGES, //
    },
};

/// What to do with the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Their content is not needed any more.
    Discard,
    /// Their content shall be zero.
    Zero {
        /// It must be so for good when the request is answered.
        durable: bool,
    },
}

/// A request about ranges, which are done one after the other.
pub struct Ranges {
    what: What,
    disk: disk::Kind,
    ranges: [Range; MAX_RANGES],
    /// The one that the disk works on.
    current: usize,
    /// Bytes of it that are done.
    done: u32,
    /// The disk can't make zeroes by giving space up.
    must_write: bool,
}

impl Ranges {
    /// `ranges` may have empty ones among them.
    pub fn new(what: What, disk: disk::Kind, ranges: [Range; MAX_RANGES]) -> Self {
        Self {
            what,
            disk,
            ranges,
            current: 0,
            done: 0,
            must_write: false,
        }
    }

    /// What the disk is to do next.
    pub fn next(&mut self) -> Next {
        while let Some(range) = self.ranges.get(self.current) {
            if self.done < range.bytes {
                return Next::Again(self.operation(range));
            }
            self.current += 1;
            self.done = 0;
        }
        Next::Done(0)
    }

    fn operation(&self, range: &Range) -> Operation {
        // The range was checked against the disk: no overflow.
        let offset = range.sector.0 * SECTOR_SIZE + u64::from(self.done);
        let len = range.bytes - self.done;
        match self.what {
            What::Discard if self.disk == disk::Kind::Block => Operation::Discard { offset, len },
            What::Discard => Operation::PunchHole { offset, len },
            // As the module does: what a device makes of zeroes by itself can't be made durable at
            // once, and zeroes that keep their space are written.
            What::Zero { durable: false } if range.unmap && !self.must_write => {
                Operation::PunchHole { offset, len }
            }
            What::Zero { durable } => Operation::WriteZeroes {
                offset,
                len,
                durable,
            },
        }
    }

    /// Takes note of what the disk did.
    ///
    /// # Errors
    ///
    /// The disk's error, or that it wrote nothing.
    pub fn advance(&mut self, result: io::Result<usize>) -> io::Result<Next> {
        if let Some(range) = self.ranges.get(self.current) {
            match (self.operation(range), result) {
                (Operation::WriteZeroes { .. }, Ok(0)) => {
                    return Err(io::ErrorKind::UnexpectedEof.into())
                }
                (Operation::WriteZeroes { len, .. }, Ok(written)) => {
                    self.done += len.min(u32::try_from(written).unwrap_or(len));
                }
                (_, Ok(_)) => self.done = range.bytes,
                (Operation::PunchHole { .. }, Err(e))
                    if self.what != What::Discard && e.raw_os_error() == Some(libc::EOPNOTSUPP) =>
                {
                    self.must_write = true;
                }
                (_, Err(e)) => return Err(e),
            }
        }
        Ok(self.next())
    }
}

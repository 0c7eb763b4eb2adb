// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard and write zeroes.

use super::next::Next;
use crate::{disk, sys::uring::Operation};
use std::io;
use vblk_core::{
    addr::SECTOR_SIZE,
    range::{Range, MAX_RANGES},
};

/// The operation on the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
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
    kind: RangeKind,
    disk: disk::DiskKind,
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
    pub fn new(kind: RangeKind, disk: disk::DiskKind, ranges: [Range; MAX_RANGES]) -> Self {
        Self {
            kind,
            disk,
            ranges,
            current: 0,
            done: 0,
            must_write: false,
        }
    }

    /// Returns the disk's next operation.
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
        match self.kind {
            RangeKind::Discard if self.disk == disk::DiskKind::Block => {
                Operation::Discard { offset, len }
            }
            RangeKind::Discard => Operation::PunchHole { offset, len },
            // As the module does: what a device makes of zeroes by itself can't be made durable at
            // once, and zeroes that keep their space are written.
            RangeKind::Zero { durable: false } if range.unmap && !self.must_write => {
                Operation::PunchHole { offset, len }
            }
            RangeKind::Zero { durable } => Operation::WriteZeroes {
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
                (operation, Err(e)) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    match (self.kind, operation) {
                        // Discarding is a hint: a disk that takes none does what it can.
                        (RangeKind::Discard, _) => self.done = range.bytes,
                        (_, Operation::PunchHole { .. }) => self.must_write = true,
                        _ => return Err(e),
                    }
                }
                (_, Err(e)) => return Err(e),
            }
        }
        Ok(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vblk_core::addr::Sector;

    fn ranges(kind: RangeKind, disk: disk::DiskKind) -> Ranges {
        let mut ranges = [Range::default(); MAX_RANGES];
        for (sector, range) in (0..2).zip(&mut ranges) {
            *range = Range {
                sector: Sector(sector * 8),
                bytes: 4096,
                unmap: true,
            };
        }
        Ranges::new(kind, disk, ranges)
    }

    fn unsupported() -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    #[test]
    fn a_disk_that_can_not_discard_does_nothing_and_succeeds() {
        for disk in [disk::DiskKind::File, disk::DiskKind::Block] {
            let mut ranges = ranges(RangeKind::Discard, disk);
            assert!(matches!(ranges.next(), Next::Again(_)));
            assert!(matches!(ranges.advance(unsupported()), Ok(Next::Again(_))));
            assert!(matches!(ranges.advance(unsupported()), Ok(Next::Done(0))));
        }
    }

    #[test]
    fn a_disk_that_can_not_punch_holes_is_written() {
        let mut ranges = ranges(RangeKind::Zero { durable: false }, disk::DiskKind::File);
        let is_hole = |next: &Next| matches!(next, Next::Again(Operation::PunchHole { .. }));
        assert!(is_hole(&ranges.next()));
        let next = ranges.advance(unsupported()).unwrap();
        let expected = Operation::WriteZeroes {
            offset: 0,
            len: 4096,
            durable: false,
        };
        assert!(matches!(next, Next::Again(operation) if operation == expected));
        // What can't be written has failed.
        assert!(ranges.advance(unsupported()).is_err());
    }

    #[test]
    fn another_error_is_an_error() {
        for kind in [RangeKind::Discard, RangeKind::Zero { durable: true }] {
            let mut ranges = ranges(kind, disk::DiskKind::File);
            ranges.next();
            let failed = ranges.advance(Err(io::Error::from_raw_os_error(libc::EIO)));
            assert_eq!(failed.err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
        }
    }
}

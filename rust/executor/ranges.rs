// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard, write zeroes, secure erase.

use super::{
    Executor,
    Unanswerable, //
};
use crate::{
    memory::Copier,
    reply::{
        Failure,
        Job,
        Moved,
        Reply,
        Split, //
    },
    sys::{
        bio::Op,
        thread::{
            give_way,
            gives_up, //
        },
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::SECTOR_SIZE,
    priority::Priority,
    queue::Head,
    range::{
        Range,
        RangeOp,
        MAX_RANGES,
        RANGE_BYTES, //
    },
    request::{
        Disk,
        Payload,
        Request,
        Status, //
    },
};

impl Executor {
    /// Does something with ranges of sectors; how many bytes they have.
    pub(super) fn ranges(
        &mut self,
        head: Head,
        request: &Request<'_>,
        op: RangeOp,
        data: &Payload<'_>,
        disk: &Disk,
        alone: bool,
    ) -> Result<u32, Unanswerable> {
        let ranges = match self.read_ranges(op, data, disk) {
            Ok(ranges) => ranges,
            Err(status) => {
                self.answer(head, request.status, status, request.used_len(0))?;
                return Ok(0);
            }
        };
        let Ok(status) = self.status_byte(request.status, alone) else {
            self.completion.give_back(head, 0);
            return Err(Unanswerable);
        };
        let len = request.used_len(0);
        let reply = Reply {
            head,
            alone,
            len,
            failed_len: len,
            status,
            moved: Moved::default(),
        };
        let split = match Split::new(reply) {
            Ok(split) => split,
            Err(reply) => {
                self.completion.answer(reply, Err(Failure::Memory));
                return Ok(0);
            }
        };
        let priority = Priority::grant(request.ioprio, self.realtime);
        let mut result = Ok(());
        for range in ranges.iter().filter(|range| range.bytes > 0) {
            result = match op {
                RangeOp::Discard => self.range(&split, Op::Discard, priority, range),
                RangeOp::SecureErase => self.range(&split, Op::SecureErase, priority, range),
                RangeOp::WriteZeroes => self.write_zeroes(&split, priority, range),
            };
            if result.is_err() {
                break;
            }
        }
        split.record(result.map_err(|_| Failure::Memory));
        self.completion.release(split);
        Ok(ranges
            .iter()
            .fold(0, |sum: u32, range| sum.saturating_add(range.bytes)))
    }

    /// Reads all ranges of a request. The rest is empty.
    ///
    /// # Errors
    ///
    /// The status to answer.
    fn read_ranges(
        &self,
        op: RangeOp,
        data: &Payload<'_>,
        disk: &Disk,
    ) -> Result<[Range; MAX_RANGES], Status> {
        let mut copier = Copier::new(&self.table, data, 0);
        let mut ranges = [Range::default(); MAX_RANGES];
        let count = data.bytes() as usize / RANGE_BYTES;
        for range in ranges.iter_mut().take(count) {
            let mut bytes = [0; RANGE_BYTES];
            copier.copy_in(&mut bytes).map_err(|_| Status::IoError)?;
            *range = Range::parse(&bytes, op, disk)?;
        }
        Ok(ranges)
    }

    fn range(&mut self, split: &Arc<Split>, op: Op, priority: Priority, range: &Range) -> Result {
        let unit = self.units.take(false)?;
        self.submitted += 1;
        let job = Job::Part(split.clone());
        unit.begin_range(op, priority, range.sector.0, range.bytes, job)
            .submit();
        Ok(())
    }

    fn write_zeroes(&mut self, split: &Arc<Split>, priority: Priority, range: &Range) -> Result {
        // What a device makes of zeroes by itself it can't be told to make durable at once; and
        // zeroes that keep their space many a device only claims to know how to make.
        if range.unmap && self.write == Op::Write && self.file.writes_zeroes() {
            return self.range(split, Op::Zero, priority, range);
        }
        let mut written = 0;
        while written < range.bytes {
            if gives_up() {
                return Err(EINTR);
            }
            let unit = self.units.take(true)?;
            let job = Job::Part(split.clone());
            let sector = range.sector.0 + u64::from(written) / SECTOR_SIZE;
            let left = range.bytes - written;
            let zeroes = unit.begin_zeroes(self.write, priority, sector, left, job);
            written += zeroes.bytes();
            self.submitted += 1;
            zeroes.submit();
            give_way();
        }
        Ok(())
    }
}

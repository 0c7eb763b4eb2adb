// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard, write zeroes, secure erase.

use super::{
    Executor,
    Pending,
    Unanswerable, //
};
use crate::{
    completion::{
        Failure,
        Job,
        Moved,
        Reply, //
    },
    memory::Copier,
    sys::{
        bio::Op,
        thread::give_way, //
    },
};
use kernel::prelude::*;
use vblk_core::{
    addr::SECTOR_SIZE,
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
    /// Does something with ranges of sectors.
    pub(super) fn ranges(
        &mut self,
        head: Head,
        request: &Request<'_>,
        op: RangeOp,
        data: &Payload<'_>,
        disk: &Disk,
        alone: bool,
    ) -> Result<(), Unanswerable> {
        let ranges = match self.read_ranges(op, data, disk) {
            Ok(ranges) => ranges,
            Err(status) => return self.answer(head, request.status, status, request.used_len(0)),
        };
        let Ok(status) = self.status_byte(request.status, alone) else {
            self.completion.give_back(head, 0);
            return Err(Unanswerable);
        };
        let len = request.used_len(0);
        let mut pending = Pending::Whole(Reply {
            head,
            status,
            len,
            failed_len: len,
            moved: Moved::Nothing,
        });
        let mut result = Ok(());
        for range in ranges.iter().filter(|range| range.bytes > 0) {
            result = match op {
                RangeOp::Discard => self.range(&mut pending, Op::Discard, range),
                RangeOp::SecureErase => self.range(&mut pending, Op::SecureErase, range),
                RangeOp::WriteZeroes => self.write_zeroes(&mut pending, range),
            };
            if result.is_err() {
                break;
            }
        }
        self.end(pending, result.map_err(|_| Failure::Memory));
        Ok(())
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

    fn range(&mut self, pending: &mut Pending, op: Op, range: &Range) -> Result {
        let split = pending.split()?;
        let unit = self.units.take(false)?;
        self.submitted += 1;
        unit.begin_range(op, range.sector.0, range.bytes)
            .submit(Job::Part(split));
        Ok(())
    }

    fn write_zeroes(&mut self, pending: &mut Pending, range: &Range) -> Result {
        // What a device makes of zeroes by itself it can't be told to make durable at once; and
        // zeroes that keep their space many a device only claims to know how to make.
        if range.unmap && self.write == Op::Write && self.file.writes_zeroes() {
            return self.range(pending, Op::Zero, range);
        }
        let mut written = 0;
        while written < range.bytes {
            let split = pending.split()?;
            let unit = self.units.take(true)?;
            let sector = range.sector.0 + u64::from(written) / SECTOR_SIZE;
            let zeroes = unit.begin_zeroes(self.write, sector, range.bytes - written);
            written += zeroes.bytes();
            self.submitted += 1;
            zeroes.submit(Job::Part(split));
            give_way();
        }
        Ok(())
    }
}

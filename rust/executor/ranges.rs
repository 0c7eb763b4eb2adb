// SPDX-License-Identifier: GPL-2.0

//! Requests about ranges of sectors: discard, write zeroes, secure erase.

use super::{
    Executor,
    Unanswerable,
    TURN_BYTES, //
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
        op::Op,
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

/// A request about ranges, of which something is left to do.
pub(super) struct Unfinished {
    split: Arc<Split>,
    op: RangeOp,
    /// How to write zeroes.
    write: Op,
    priority: Priority,
    /// What is left of them.
    ranges: [Range; MAX_RANGES],
}

impl Unfinished {
    /// What comes next.
    fn next(&self) -> Option<Range> {
        self.ranges.iter().find(|range| range.bytes > 0).copied()
    }

    /// The first `bytes` of [`Self::next`] are done.
    fn advance(&mut self, bytes: u32) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.bytes > 0) {
            range.sector.0 += u64::from(bytes) / SECTOR_SIZE;
            range.bytes = range.bytes.saturating_sub(bytes);
        }
    }
}

impl Executor {
    /// Begins to do something with ranges of sectors; how many bytes that is so far.
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
        let unfinished = Unfinished {
            split,
            op,
            write: self.write,
            priority: Priority::grant(request.ioprio, self.realtime),
            ranges,
        };
        Ok(self.some_ranges(unfinished))
    }

    /// Whether a request takes more than one turn, and goes on with it.
    #[inline]
    pub(crate) fn go_on(&mut self) -> bool {
        self.unfinished.is_some() && self.one_more_turn()
    }

    #[cold]
    fn one_more_turn(&mut self) -> bool {
        let Some(unfinished) = self.unfinished.take() else {
            return false;
        };
        self.some_ranges(unfinished);
        self.completion.announce();
        true
    }

    /// Does a part of what is left of a request, or all of it; how many bytes that was.
    fn some_ranges(&mut self, mut unfinished: Unfinished) -> u32 {
        let mut bytes = 0;
        let result = loop {
            let Some(range) = unfinished.next() else {
                break Ok(());
            };
            if bytes >= TURN_BYTES {
                self.unfinished = Some(unfinished);
                return bytes;
            }
            match self.begin_of(&unfinished, &range) {
                Ok(done) => {
                    unfinished.advance(done);
                    bytes += done;
                }
                Err(_) => break Err(Failure::Memory),
            }
        };
        unfinished.split.record(result);
        self.completion.release(unfinished.split);
        bytes
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

    /// Submits an I/O for the beginning of a range; how many bytes that is.
    ///
    /// # Errors
    ///
    /// ENOMEM; EINTR when nobody waits for it any more.
    fn begin_of(&mut self, unfinished: &Unfinished, range: &Range) -> Result<u32> {
        let Unfinished {
            write, priority, ..
        } = *unfinished;
        let job = Job::Part(unfinished.split.clone());
        let whole = match unfinished.op {
            RangeOp::Discard => Op::Discard,
            RangeOp::SecureErase => Op::SecureErase,
            // What a device makes of zeroes by itself it can't be told to make durable at once; and
            // zeroes that keep their space many a device only claims to know how to make.
            RangeOp::WriteZeroes
                if range.unmap && write == Op::Write && self.file.writes_zeroes() =>
            {
                Op::Zero
            }
            RangeOp::WriteZeroes => {
                if gives_up() {
                    return Err(EINTR);
                }
                let unit = self.units.take(true)?;
                let zeroes = unit.begin_zeroes(write, priority, range.sector.0, range.bytes, job);
                let bytes = zeroes.bytes();
                self.submitted += 1;
                zeroes.submit();
                give_way();
                return Ok(bytes);
            }
        };
        let unit = self.units.take(false)?;
        self.submitted += 1;
        unit.begin_range(whole, priority, range.sector.0, range.bytes, job)
            .submit();
        Ok(range.bytes)
    }
}

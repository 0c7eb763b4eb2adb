// SPDX-License-Identifier: GPL-2.0

//! Requests on ranges of sectors: discard, write zeroes, secure erase.

use super::{
    context::{
        Progress,
        RequestContext, //
    },
    in_flight::{
        Failure,
        IoOwner,
        SharedRequest, //
    },
};
use crate::{
    memory::{
        copy_in,
        GuestMemory, //
    },
    sys::{
        io::SectorOp,
        task::{
            give_way,
            gives_up, //
        },
    },
};
use kernel::sync::Arc;
use vblk_core::{
    addr::SECTOR_SIZE,
    drain::VQ_BYTE_WEIGHT,
    range::{
        Range,
        RangeOp,
        MAX_RANGES,
        RANGE_BYTES, //
    },
    request::{
        Payload,
        Status, //
    },
};

/// What is left of a request on ranges.
pub(super) struct Ranges {
    op: RangeOp,
    /// Zeroes that are written are durable before the request is answered.
    durable: bool,
    priority: u16,
    ranges: [Range; MAX_RANGES],
}

impl Ranges {
    /// Returns the range that comes next.
    fn next(&self) -> Option<Range> {
        self.ranges.iter().find(|range| range.bytes > 0).copied()
    }

    /// Takes the first `bytes` of [`Self::next`] away.
    fn advance(&mut self, bytes: u32) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.bytes > 0) {
            range.sector.0 += u64::from(bytes) / SECTOR_SIZE;
            range.bytes = range.bytes.saturating_sub(bytes);
        }
    }

    /// Reads and judges all ranges of a request.
    ///
    /// # Errors
    ///
    /// The status to answer.
    pub(super) fn read<M: GuestMemory>(
        context: &RequestContext<M>,
        op: RangeOp,
        data: Payload<'_>,
        priority: u16,
    ) -> Result<Self, Status> {
        let mut ranges = [Range::default(); MAX_RANGES];
        let count = data.bytes() as usize / RANGE_BYTES;
        for (number, range) in ranges.iter_mut().take(count).enumerate() {
            let mut bytes = [0; RANGE_BYTES];
            let pieces = data.pieces_after((number * RANGE_BYTES) as u32);
            copy_in(&context.memory, pieces, &mut bytes).map_err(|_| Status::IoError)?;
            *range = Range::parse(&bytes, op, &context.disk)?;
        }
        Ok(Self {
            op,
            durable: context.rules.durable,
            priority,
            ranges,
        })
    }

    /// Goes on with a request on ranges.
    pub(super) fn resume<M: GuestMemory>(
        &mut self,
        context: &mut RequestContext<M>,
        shared: &Arc<SharedRequest>,
    ) -> Progress {
        let mut done = 0;
        while let Some(range) = self.next() {
            if gives_up() {
                return Progress::Over(Err(Failure::Memory));
            }
            if done >= VQ_BYTE_WEIGHT {
                return Progress::Soon;
            }
            let Some(bytes) = self.submit(context, &range, shared) else {
                return Progress::Starved;
            };
            self.advance(bytes);
            done += bytes;
            give_way();
        }
        Progress::Over(Ok(()))
    }

    /// Submits an I/O for the beginning of a range. Returns how many bytes that is; `None` when there
    /// is no free I/O.
    fn submit<M: GuestMemory>(
        &self,
        context: &mut RequestContext<M>,
        range: &Range,
        shared: &Arc<SharedRequest>,
    ) -> Option<u32> {
        let priority = self.priority;
        let op = match self.op {
            RangeOp::Discard => Some(SectorOp::Discard),
            RangeOp::SecureErase => Some(SectorOp::SecureErase),
            // What a device makes of zeroes by itself it can't be told to make durable at once; and
            // zeroes that keep their space many a device only claims to know how to make.
            RangeOp::WriteZeroes => {
                let by_itself = range.unmap && !self.durable && context.file.writes_zeroes();
                by_itself.then_some(SectorOp::WriteZeroes)
            }
        };
        let io = context.pool.take(op.is_none())?;
        let owner = IoOwner::Part(shared.clone());
        let used = context.pool.submitting();
        let sector = range.sector.0;
        Some(match op {
            Some(op) => {
                io.sectors(op, priority, sector, range.bytes, used, owner);
                range.bytes
            }
            None => io.zeroes(self.durable, priority, sector, range.bytes, used, owner),
        })
    }
}

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
    transfer::COPY_BYTES,
};
use crate::{
    memory::{
        copy_in,
        GuestMemory, //
    },
    sys::{
        gfp_user_sized,
        io::{
            DataOp,
            SectorOp, //
        },
        task::{
            give_way,
            gives_up, //
        },
    },
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
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
    /// The operation that writes zeroes.
    write: DataOp,
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
            write: context.rules.write_op(),
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
            match self.submit(context, &range, shared) {
                Ok(Some(bytes)) => {
                    self.advance(bytes);
                    done += bytes;
                }
                Ok(None) => return Progress::Starved,
                Err(failure) => return Progress::Over(Err(failure)),
            }
            give_way();
        }
        Progress::Over(Ok(()))
    }

    /// Submits an I/O for the beginning of a range. Returns how many bytes that is; `None` when there
    /// is no free I/O.
    ///
    /// # Errors
    ///
    /// [`Failure::Memory`] when there is none.
    fn submit<M: GuestMemory>(
        &self,
        context: &mut RequestContext<M>,
        range: &Range,
        shared: &Arc<SharedRequest>,
    ) -> Result<Option<u32>, Failure> {
        let priority = self.priority;
        let op = match self.op {
            RangeOp::Discard => Some(SectorOp::Discard),
            RangeOp::SecureErase => Some(SectorOp::SecureErase),
            // What a device makes of zeroes by itself it can't be told to make durable at once; and
            // zeroes that keep their space many a device only claims to know how to make.
            RangeOp::WriteZeroes => {
                let by_itself =
                    self.write == DataOp::Write && range.unmap && context.file.writes_zeroes();
                by_itself.then_some(SectorOp::WriteZeroes)
            }
        };
        // One vector of a block at least: vectors of pages can be too many for an ordinary I/O, and for
        // the disk.
        let block = context.disk.block_size;
        let buffer = if op.is_none() && block as usize > PAGE_SIZE {
            let bytes = COPY_BYTES.max(block).min(range.bytes) as usize;
            KVec::from_elem(0, bytes, gfp_user_sized()).map_err(|_| Failure::Memory)?
        } else {
            KVec::new()
        };
        let Some(io) = context.pool.take(op.is_none() && buffer.is_empty()) else {
            return Ok(None);
        };
        let owner = IoOwner::Part(shared.clone());
        let used = context.pool.submitting();
        let sector = range.sector.0;
        Ok(Some(match op {
            Some(op) => {
                io.sectors(op, priority, sector, range.bytes, used, owner);
                range.bytes
            }
            None if buffer.is_empty() => {
                io.zeroes(self.write, priority, sector, range.bytes, used, owner)
            }
            None => {
                let bytes = buffer.len() as u32;
                io.copied(self.write, priority, sector, buffer, used, owner);
                bytes
            }
        }))
    }
}

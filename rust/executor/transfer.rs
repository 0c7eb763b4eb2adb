// SPDX-License-Identifier: GPL-2.0

//! Reads and writes: between the disk and guest memory.

use super::Executor;
use crate::{
    completion::Completion,
    memory::Copier,
    reply::{
        Failure,
        Job,
        Reply, //
    },
    sys::{
        bio::{
            Filling,
            SMALL_PAGES, //
        },
        op::Op,
        thread::{
            give_way,
            gives_up, //
        },
    },
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use vblk_core::{
    addr::{
        Sector,
        SECTOR_SIZE, //
    },
    priority::Priority,
    request::Payload, //
};

/// Bytes that are copied at a time where the device can't reach the guest's buffers itself.
const BOUNCE_BYTES: u32 = 32768;

/// Bytes of an ordinary request: it has room wherever in its first page it begins.
const SMALL_BYTES: u32 = ((SMALL_PAGES - 1) * PAGE_SIZE) as u32;

/// One transfer between the disk and guest memory, on its way to becoming I/Os.
pub(super) struct Transfer<'a> {
    pub(super) op: Op,
    pub(super) priority: Priority,
    pub(super) sector: Sector,
    pub(super) data: Payload<'a>,
    /// Logical block size in bytes.
    pub(super) block: u32,
    /// Bits of an address that the device can't reach.
    pub(super) alignment_mask: u32,
}

/// Why a transfer stopped before all of it was submitted.
enum Stopped {
    /// The device can't reach the buffers after these many bytes.
    Unaligned(u32),
    /// There is no such memory, or no memory for the I/O.
    Failed,
}

impl Executor {
    pub(super) fn transfer(&mut self, transfer: &Transfer<'_>, reply: impl FnOnce() -> Reply) {
        let Ok(unit) = self.units.take(transfer.data.bytes() > SMALL_BYTES) else {
            return self.completion.answer(reply(), Err(Failure::Memory));
        };
        let filling = unit.begin(
            transfer.op,
            transfer.priority,
            transfer.sector.0,
            Job::Whole(reply()),
        );
        match self.fill(transfer, filling) {
            Ok(filling) => {
                self.submitted += 1;
                filling.submit();
            }
            Err((filling, stopped)) => {
                let (unit, job) = filling.abandon();
                self.units.put(unit);
                let result = match stopped {
                    Stopped::Unaligned(done) => self.bounce(transfer, done),
                    Stopped::Failed => Err(Failure::Memory),
                };
                match job {
                    Some(Job::Whole(reply)) => self.completion.answer(reply, result),
                    Some(Job::Part(split)) => {
                        split.record(result);
                        self.completion.release(split);
                    }
                    None => (),
                }
            }
        }
    }

    /// Pins the buffers of a transfer, and submits all of it but the last I/O, which is returned.
    fn fill(
        &mut self,
        transfer: &Transfer<'_>,
        mut filling: Filling<Completion>,
    ) -> Result<Filling<Completion>, (Filling<Completion>, Stopped)> {
        let mut submitted_bytes = 0;
        for piece in transfer.data.pieces() {
            let mut addr = piece.addr;
            let mut left = u64::from(piece.len);
            while left > 0 {
                let Ok(span) = self.table.span(addr, left) else {
                    return Err((filling, Stopped::Failed));
                };
                let misplaced = span.addr.0 & u64::from(transfer.alignment_mask)
                    | span.len & u64::from(transfer.block).wrapping_sub(1);
                if misplaced != 0 {
                    return Err((filling, Stopped::Unaligned(submitted_bytes)));
                }
                match filling.pin(span.addr, span.len, transfer.block, &mut self.scratch) {
                    Ok(0) => {
                        let bytes = filling.bytes();
                        filling = self.next_unit(transfer, filling, submitted_bytes)?;
                        submitted_bytes += bytes;
                    }
                    Ok(added) => {
                        left = left.saturating_sub(added as u64);
                        if left == 0 {
                            break;
                        }
                        let Some(next) = addr.checked_add(added as u64) else {
                            return Err((filling, Stopped::Failed));
                        };
                        addr = next;
                    }
                    Err(_) => return Err((filling, Stopped::Failed)),
                }
            }
        }
        Ok(filling)
    }

    /// Submits an I/O that is full. The next one begins where it ends.
    fn next_unit(
        &mut self,
        transfer: &Transfer<'_>,
        mut full: Filling<Completion>,
        submitted_bytes: u32,
    ) -> Result<Filling<Completion>, (Filling<Completion>, Stopped)> {
        // Not even one block has room; or nobody waits for so much any more.
        if full.bytes() == 0 && full.is_large() || gives_up() {
            return Err((full, Stopped::Failed));
        }
        let Ok(unit) = self.units.take(true) else {
            return Err((full, Stopped::Failed));
        };
        let Some(job) = full.job().take() else {
            return Err((full, Stopped::Failed));
        };
        if full.bytes() == 0 {
            // A small one, for blocks that it has no room for.
            let (small, _) = full.abandon();
            self.units.put(small);
            return Ok(unit.begin(transfer.op, transfer.priority, transfer.sector.0, job));
        }
        match job.split() {
            Ok((this, next)) => {
                *full.job() = Some(this);
                let done = submitted_bytes + full.bytes();
                let sector = transfer.sector.0 + u64::from(done) / SECTOR_SIZE;
                self.submitted += 1;
                full.submit();
                // A request can be gigabytes long, and a disk as fast as memory.
                give_way();
                Ok(unit.begin(transfer.op, transfer.priority, sector, next))
            }
            Err(job) => {
                *full.job() = Some(job);
                self.units.put(unit);
                Err((full, Stopped::Failed))
            }
        }
    }

    /// Transfers through memory of our own, after the first `done` bytes, and waits for it.
    ///
    /// For buffers that the device can't reach where they are. No driver of an operating system
    /// has any, so simple is better than fast.
    fn bounce(&mut self, transfer: &Transfer<'_>, done: u32) -> Result<(), Failure> {
        self.completion.announce();
        let Transfer {
            op, sector, data, ..
        } = transfer;
        // At least one block, and a whole number of them: both are powers of two.
        let most = BOUNCE_BYTES.max(transfer.block);
        while self.bounce.len() < most as usize {
            self.bounce
                .push(0, GFP_KERNEL_ACCOUNT)
                .map_err(|_| Failure::Memory)?;
        }
        let mut copier = Copier::new(&self.table, data, done);
        let mut at = done;
        while at < data.bytes() {
            if gives_up() {
                return Err(Failure::Memory);
            }
            let len = most.min(data.bytes() - at);
            let sector = sector.0 + u64::from(at) / SECTOR_SIZE;
            at += len;
            let len = len as usize;
            if *op == Op::Read {
                self.file.read(sector, &mut self.bounce, len)?;
                let bytes = self.bounce.get(..len).ok_or(Failure::Memory)?;
                copier.copy_out(bytes).map_err(|_| Failure::Memory)?;
            } else {
                let bytes = self.bounce.get_mut(..len).ok_or(Failure::Memory)?;
                copier.copy_in(bytes).map_err(|_| Failure::Memory)?;
                let durable = *op == Op::WriteDurable;
                self.file.write(sector, &mut self.bounce, len, durable)?;
            }
            give_way();
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Reads and writes: between the disk and guest memory.

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
    io_pool::SMALL_BYTES,
    used_side::UsedSide, //
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
            IoBuilder, //
        },
        io_vectors::SMALL_VECTORS,
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
    request::{
        Payload,
        Piece, //
    },
};

/// Bytes that are copied at a time where the device can't reach the guest's buffers itself.
pub(super) const COPY_BYTES: u32 = 32768;

/// Pieces that are copied to at a time, unless a block has more of them.
const COPY_PIECES: usize = 1024;

/// A transfer between the disk and guest memory.
pub(super) struct Transfer {
    pub(super) op: DataOp,
    pub(super) priority: u16,
    /// First sector, in units of 512 bytes.
    pub(super) sector: u64,
    /// Logical block size in bytes.
    pub(super) block: u32,
    /// Bits of addresses and lengths that must be 0 for the device to reach memory.
    pub(super) alignment_mask: u32,
    /// Buffers on the data's side of the chain. Header or status have one of them to themselves,
    /// most often.
    pub(super) buffers: usize,
    /// Bytes that were submitted.
    pub(super) done: u32,
    /// The rest is copied: the device can't reach it.
    pub(super) is_copied: bool,
}

/// An I/O with as much of a transfer as it takes.
pub(super) enum Filled {
    /// All that is left, or whole blocks of it.
    Io(IoBuilder<UsedSide>),
    /// The device can't reach the memory, or no I/O on it that has whole blocks (a block has too many
    /// parts, or gaps between them), or must not write it unseen.
    Unreachable,
    /// There is no free I/O.
    Starved,
    /// There is no such memory, or no memory for the I/O.
    Failed,
}

impl Transfer {
    /// Returns the sector of the first byte that was not submitted.
    fn next_sector(&self) -> u64 {
        self.sector + u64::from(self.done) / SECTOR_SIZE
    }

    /// Goes on with a transfer.
    pub(super) fn resume<M: GuestMemory>(
        &mut self,
        context: &mut RequestContext<M>,
        data: &Payload<'_>,
        shared: &Arc<SharedRequest>,
    ) -> Progress {
        let begin = self.done;
        while self.done < data.bytes() {
            if gives_up() {
                return Progress::Over(Err(Failure::Memory));
            }
            if self.done - begin >= VQ_BYTE_WEIGHT {
                return Progress::Soon;
            }
            if self.is_copied {
                match self.copy_some(context, data, shared) {
                    Ok(Some(bytes)) => self.done += bytes,
                    Ok(None) => return Progress::Starved,
                    Err(failure) => return Progress::Over(Err(failure)),
                }
            } else {
                match self.fill(context, data) {
                    Filled::Io(io) => {
                        self.done += io.bytes();
                        io.submit(context.pool.submitting(), IoOwner::Part(shared.clone()));
                    }
                    Filled::Unreachable => self.is_copied = true,
                    Filled::Starved => return Progress::Starved,
                    Filled::Failed => return Progress::Over(Err(Failure::Memory)),
                }
            }
            give_way();
        }
        Progress::Over(Ok(()))
    }

    /// Prepares an I/O with as much of what is left as it takes.
    #[inline(always)]
    pub(super) fn fill<M: GuestMemory>(
        &self,
        context: &mut RequestContext<M>,
        data: &Payload<'_>,
    ) -> Filled {
        if self.op == DataOp::Read && context.copies_reads() {
            return Filled::Unreachable;
        }
        let left = data.bytes() - self.done;
        let is_large = left > SMALL_BYTES || self.buffers > SMALL_VECTORS + 1;
        let Some(io) = context.pool.take(is_large) else {
            return Filled::Starved;
        };
        let mut io = io.begin(self.op, self.priority, self.next_sector());
        for piece in data.pieces_after(self.done) {
            match add(&mut context.memory, &mut io, piece) {
                Some(true) => (),
                Some(false) => break,
                None => {
                    context.pool.put(io.abandon());
                    return Filled::Failed;
                }
            }
        }
        let added = io.bytes();
        if added < left {
            // Each I/O has whole blocks.
            io.data().trim(added & self.block.wrapping_sub(1));
        }
        let is_reachable = io.data().is_aligned(self.alignment_mask);
        if io.bytes() == 0 || !is_reachable || !self.has_whole_blocks(context, &mut io) {
            context.pool.put(io.abandon());
            return Filled::Unreachable;
        }
        Filled::Io(io)
    }

    /// Returns whether each block of an I/O can be one of its own, as the block layer may have it.
    #[inline(always)]
    fn has_whole_blocks<M: GuestMemory>(
        &self,
        context: &RequestContext<M>,
        io: &mut IoBuilder<UsedSide>,
    ) -> bool {
        // Most often each block is in one page.
        let is_in_pages = io.data().is_aligned(PAGE_SIZE as u32 - 1);
        is_in_pages && self.block as usize <= PAGE_SIZE
            || io
                .data()
                .has_whole_blocks(self.block, &context.file.segment_limits())
    }

    /// Submits the next bytes through memory of our own. Returns how many; `None` when there is no
    /// free I/O.
    fn copy_some<M: GuestMemory>(
        &self,
        context: &mut RequestContext<M>,
        data: &Payload<'_>,
        shared: &Arc<SharedRequest>,
    ) -> Result<Option<u32>, Failure> {
        // Whole blocks: both bounds are, and so is the rest.
        let most = COPY_BYTES.max(self.block).min(data.bytes() - self.done);
        // kmalloc aligns a power of two to itself.
        let room = most
            .max(self.alignment_mask.saturating_add(1))
            .checked_next_power_of_two()
            .ok_or(Failure::Memory)?;
        let Some(io) = context.pool.take(false) else {
            return Ok(None);
        };
        let prepare = || {
            let (bytes, pieces) = match self.op {
                DataOp::Read => self.pieces_to_fill(data, most)?,
                DataOp::Write | DataOp::WriteDurable => (most, KVec::new()),
            };
            let mut buffer = KVec::with_capacity(room as usize, gfp_user_sized())?;
            buffer.resize(bytes as usize, 0, gfp_user_sized())?;
            if self.op != DataOp::Read {
                let from = data.pieces_after(self.done);
                copy_in(&context.memory, from, &mut buffer).map_err(|_| EFAULT)?;
            }
            Ok::<_, Error>((buffer, pieces))
        };
        let (buffer, pieces) = match prepare() {
            Ok(prepared) => prepared,
            Err(_) => {
                context.pool.put(io);
                return Err(Failure::Memory);
            }
        };
        let bytes = buffer.len() as u32;
        let owner = if self.op == DataOp::Read {
            IoOwner::CopyOut(shared.clone(), pieces)
        } else {
            IoOwner::Part(shared.clone())
        };
        io.copied(
            self.op,
            self.priority,
            self.next_sector(),
            buffer,
            context.pool.submitting(),
            owner,
        );
        Ok(Some(bytes))
    }

    /// Returns whole blocks of what is left, at most `most` bytes, and at least the pieces that they
    /// are copied to.
    fn pieces_to_fill(&self, data: &Payload<'_>, most: u32) -> Result<(u32, KVec<Piece>)> {
        let mut pieces = KVec::new();
        let mut bytes = 0;
        for piece in data.pieces_after(self.done) {
            if bytes >= most || pieces.len() >= COPY_PIECES && bytes >= self.block {
                break;
            }
            pieces.push(piece, gfp_user_sized())?;
            bytes = bytes.saturating_add(piece.len);
        }
        let bytes = if bytes < most {
            bytes & !self.block.wrapping_sub(1)
        } else {
            most
        };
        Ok((bytes, pieces))
    }
}

/// Adds a piece of guest memory to an I/O. Returns whether all of it had room; `None` when there is
/// no such memory.
#[inline(always)]
fn add<M: GuestMemory>(memory: &mut M, io: &mut IoBuilder<UsedSide>, piece: Piece) -> Option<bool> {
    let mut at = piece.addr;
    let mut left = u64::from(piece.len);
    loop {
        let added = memory.add_to(io.data(), at, left).ok()?;
        if added == 0 {
            return Some(false);
        }
        left = left.saturating_sub(added);
        if left == 0 {
            return Some(true);
        }
        at = at.checked_add(added)?;
    }
}

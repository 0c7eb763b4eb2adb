// SPDX-License-Identifier: GPL-2.0

//! What the requests of a queue work with.

use super::{
    in_flight::Failure,
    io_pool::IoPool,
    ring_log::RingLog, //
};
use crate::{
    memory::{
        for_each_part,
        GuestMemory, //
    },
    sys::{
        block_file::BlockFile,
        io::DataOp, //
    },
};
use kernel::sync::Arc;
use vblk_core::{
    disk::Disk,
    memory::Fault,
    range::RangeOps,
    request::{
        Piece,
        ID_BYTES, //
    },
};

/// The rules that requests are executed by.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Requests on ranges that may be made.
    pub(crate) range_ops: RangeOps,
    /// Writes are durable before they are answered.
    pub(crate) durable: bool,
    /// Requests may have the real-time class of I/O priorities.
    pub(crate) realtime: bool,
    /// Chains may have indirect tables.
    pub(crate) indirect: bool,
    /// The answer to GET_ID.
    pub(crate) serial: [u8; ID_BYTES],
}

impl Rules {
    /// Returns the operation of a write.
    #[inline]
    pub(super) fn write_op(&self) -> DataOp {
        if self.durable {
            DataOp::WriteDurable
        } else {
            DataOp::Write
        }
    }
}

/// What the requests of a queue work with.
pub(super) struct RequestContext<M> {
    pub(super) memory: M,
    pub(super) pool: IoPool,
    pub(super) file: Arc<BlockFile>,
    /// The disk as it was when chains were last looked for.
    pub(super) disk: Disk,
    /// The bits of a memory address that must be 0 for the disk to reach the memory; as old.
    pub(super) alignment_mask: u32,
    pub(super) rules: Rules,
    /// Where writes to guest memory are logged, if they are.
    pub(super) log: Option<RingLog>,
}

impl<M: GuestMemory> RequestContext<M> {
    /// Creates the context of a queue, and looks at its disk.
    pub(super) fn new(memory: M, pool: IoPool, file: Arc<BlockFile>, rules: Rules) -> Self {
        let (disk, alignment_mask) = look_at(&file, &rules);
        Self {
            memory,
            pool,
            file,
            disk,
            alignment_mask,
            rules,
            log: None,
        }
    }

    /// Writes `from` to the first bytes of `pieces`. May sleep.
    ///
    /// # Errors
    ///
    /// [`Fault`], also when there is too little room; some bytes may have been written.
    pub(super) fn copy_out(
        &self,
        pieces: impl Iterator<Item = Piece>,
        from: &[u8],
    ) -> Result<(), Fault> {
        for_each_part(pieces, from.len(), |addr, part| {
            let bytes = part.len() as u64;
            let written = self
                .memory
                .write(addr, from.get(part).ok_or(Fault::OutsideTable)?);
            if let Some(ring) = &self.log {
                // Also after a failure: some of it may be there.
                ring.log.mark(addr, bytes);
            }
            written
        })
    }

    /// Returns whether data for the guest goes through memory of our own: what is copied to the guest
    /// can be logged when it is, while a disk that writes it itself may be at it for long.
    #[inline]
    pub(super) fn copies_reads(&self) -> bool {
        self.log.is_some()
    }

    /// Looks again at what a chain that comes now may find changed.
    #[inline]
    pub(super) fn refresh(&mut self) {
        self.memory.refresh();
        (self.disk, self.alignment_mask) = look_at(&self.file, &self.rules);
    }
}

/// Returns what a disk is like now, and its mask of address bits.
#[inline]
fn look_at(file: &BlockFile, rules: &Rules) -> (Disk, u32) {
    let geometry = file.geometry();
    let disk = Disk {
        sectors: geometry.sectors,
        block_size: geometry.block_size,
        read_only: geometry.read_only,
        range_ops: rules.range_ops,
    };
    (disk, geometry.alignment_mask)
}

/// The progress of a request that takes several I/Os.
pub(super) enum Progress {
    /// All of it was submitted, or the rest failed.
    Over(Result<(), Failure>),
    /// The rest is for later: soon.
    Soon,
    /// The rest is for later: there is no free I/O.
    Starved,
}

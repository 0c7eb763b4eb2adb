// SPDX-License-Identifier: GPL-2.0

//! From a request to I/O on the disk.

mod ranges;

use crate::{
    completion::{
        Completion,
        Failure,
        Job,
        Moved,
        Reply,
        Split,
        StatusByte, //
    },
    memory::{
        write_byte,
        Copier,
        Table, //
    },
    sys::{
        bio::{
            Filling,
            Op,
            PageScratch,
            SMALL_PAGES, //
        },
        block_file::BlockFile,
        errno::eopnotsupp,
        pin::{
            LastPage,
            PinnedByte, //
        },
        thread::give_way, //
    },
    units::Units, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr,
        Sector,
        SECTOR_SIZE, //
    },
    queue::Head,
    range::RangeOps,
    request::{
        Action,
        Disk,
        Payload,
        Request,
        Status,
        ID_BYTES, //
    },
    table::HostSpan, //
};

/// Bytes that are copied at a time where the device can't reach the guest's buffers itself.
const BOUNCE_BYTES: u32 = 32768;

/// The chain has no place for an answer: it was given back without one.
pub(crate) struct Unanswerable;

/// What it takes to execute requests.
pub(crate) struct Executor {
    pub(crate) table: Arc<Table>,
    pub(crate) id: [u8; ID_BYTES],
    completion: Arc<Completion>,
    file: Arc<BlockFile>,
    units: Units,
    scratch: PageScratch,
    status_page: LastPage,
    /// Allocated when first needed.
    bounce: KVec<u8>,
    write: Op,
    range_ops: RangeOps,
    /// I/Os submitted since the start.
    submitted: u64,
}

/// One transfer between the disk and guest memory, on its way to becoming I/Os.
struct Transfer<'a> {
    op: Op,
    sector: Sector,
    data: Payload<'a>,
    /// Logical block size in bytes.
    block: u32,
    /// Bits of an address that the device can't reach.
    alignment_mask: u32,
}

/// Why a transfer stopped before all of it was submitted.
enum Stopped {
    /// The device can't reach the buffers after these many bytes.
    Unaligned(u32),
    /// There is no such memory, or no memory for the I/O.
    Failed,
}

impl Executor {
    /// Executes requests on the disk of `file` with the I/Os of `units`. Writes are durable before
    /// they are answered if `durable`.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        completion: Arc<Completion>,
        file: Arc<BlockFile>,
        table: Arc<Table>,
        units: Units,
        id: [u8; ID_BYTES],
        range_ops: RangeOps,
        durable: bool,
    ) -> Result<Self> {
        Ok(Self {
            table,
            id,
            completion,
            file,
            units,
            scratch: PageScratch::new()?,
            status_page: LastPage::default(),
            bounce: KVec::new(),
            write: write_op(durable),
            range_ops,
            submitted: 0,
        })
    }

    /// Switches between writing back and writing through, for the requests that follow.
    pub(crate) fn set_durable(&mut self, durable: bool) {
        self.write = write_op(durable);
    }

    /// I/Os submitted since the start.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Takes care of what could not be done where I/O finished.
    pub(crate) fn tidy(&mut self) {
        if self.completion.take_leftovers() {
            self.units.tidy();
            self.completion.answer_late();
        }
    }

    /// How many requests had no place for their status.
    pub(crate) fn unanswerable(&self) -> u64 {
        self.completion.unanswerable()
    }

    /// The ring was looked at again: what follows may rely on memory that changed since.
    pub(crate) fn forget_status_page(&mut self) {
        self.status_page = LastPage::default();
    }

    /// The batch is over.
    pub(crate) fn end_batch(&mut self) {
        self.forget_status_page();
        self.completion.announce();
    }

    /// The position in the ring behind all answers so far.
    pub(crate) fn position(&self) -> u16 {
        self.completion.position()
    }

    /// Gives a chain back without an answer.
    pub(crate) fn give_back(&self, head: Head) {
        self.completion.give_back(head, 0);
    }

    /// Answers a chain without I/O.
    ///
    /// # Errors
    ///
    /// [`Unanswerable`].
    pub(crate) fn answer(
        &self,
        head: Head,
        at: GuestAddr,
        status: Status,
        len: u32,
    ) -> Result<(), Unanswerable> {
        let written = write_byte(&self.table, at, status as u8);
        let len = if written.is_ok() { len } else { 0 };
        self.completion.give_back(head, len);
        written.map_err(|_| Unanswerable)
    }

    /// Executes a request; the bytes it moves. `alone` says that no other is known to follow in the
    /// batch.
    ///
    /// # Errors
    ///
    /// [`Unanswerable`].
    pub(crate) fn execute(
        &mut self,
        head: Head,
        request: &Request<'_>,
        alone: bool,
    ) -> Result<u32, Unanswerable> {
        let geometry = self.file.geometry();
        let disk = Disk {
            sectors: geometry.sectors,
            block_size: geometry.block_size,
            read_only: geometry.read_only,
            range_ops: self.range_ops,
        };
        let (op, sector, data) = match request.action(&disk) {
            Action::Answer(status) => {
                self.answer(head, request.status, status, request.used_len(0))?;
                return Ok(0);
            }
            Action::GetId { data } => {
                self.tell_id(head, request, &data)?;
                return Ok(0);
            }
            Action::Ranges { op, data } => {
                self.ranges(head, request, op, &data, &disk, alone)?;
                return Ok(0);
            }
            Action::Flush => (Op::Flush, Sector(0), None),
            Action::Read { sector, data } => (Op::Read, sector, Some(data)),
            Action::Write { sector, data } => (self.write, sector, Some(data)),
        };
        let Ok(status) = self.status_byte(request.status, alone) else {
            self.completion.give_back(head, 0);
            return Err(Unanswerable);
        };
        let bytes = data.map_or(0, |data| data.bytes());
        let (read, moved) = match op {
            Op::Read => (bytes, Moved::Read(bytes)),
            Op::Write | Op::WriteDurable => (0, Moved::Written(bytes)),
            _ => (0, Moved::Flushed),
        };
        let reply = Reply {
            head,
            status,
            len: request.used_len(read),
            failed_len: request.used_len(0),
            moved,
        };
        match data {
            Some(data) => {
                let transfer = Transfer {
                    op,
                    sector,
                    data,
                    block: geometry.block_size,
                    alignment_mask: geometry.alignment_mask,
                };
                self.transfer(&transfer, reply);
            }
            None => self.flush(reply),
        }
        Ok(bytes)
    }

    /// How the status byte will be written, from wherever the I/O finishes.
    fn status_byte(&mut self, at: GuestAddr, alone: bool) -> Result<StatusByte> {
        let at = self.table.span(at, 1).map_err(|_| EFAULT)?.addr;
        if self.completion.finishes_in_worker() {
            return Ok(StatusByte::At(at));
        }
        let byte = if alone {
            PinnedByte::new(at)?
        } else {
            self.status_page.pin(at)?
        };
        Ok(StatusByte::Pinned(byte))
    }

    fn tell_id(
        &self,
        head: Head,
        request: &Request<'_>,
        data: &Payload<'_>,
    ) -> Result<(), Unanswerable> {
        // As for I/O: nothing is done that could not be answered.
        if self.table.span(request.status, 1).is_err() {
            self.completion.give_back(head, 0);
            return Err(Unanswerable);
        }
        let bytes = data.bytes().min(ID_BYTES as u32);
        let id = self.id.get(..bytes as usize).unwrap_or(&[]);
        match Copier::new(&self.table, data, 0).copy_out(id) {
            Ok(()) => self.answer(head, request.status, Status::Ok, request.used_len(bytes)),
            Err(_) => self.answer(head, request.status, Status::IoError, request.used_len(0)),
        }
    }

    /// Ends the submission of a request none of whose I/Os is left to be submitted.
    fn end(&self, pending: Pending, result: Result<(), Failure>) {
        match pending {
            Pending::Whole(reply) => self.completion.answer(reply, result),
            Pending::Split(split) => {
                split.record(result);
                self.completion.release(split);
            }
            Pending::Lost => (),
        }
    }

    fn flush(&mut self, reply: Reply) {
        match self.units.take(false) {
            Ok(unit) => {
                self.submitted += 1;
                unit.begin(Op::Flush, 0).submit(Job::Whole(reply));
            }
            Err(_) => self.completion.answer(reply, Err(Failure::Memory)),
        }
    }

    fn transfer(&mut self, transfer: &Transfer<'_>, reply: Reply) {
        // Room for an ordinary request wherever in its first page it begins.
        let large = transfer.data.bytes() as usize > (SMALL_PAGES - 1) * PAGE_SIZE;
        let Ok(unit) = self.units.take(large) else {
            return self.completion.answer(reply, Err(Failure::Memory));
        };
        let mut pending = Pending::Whole(reply);
        let filling = unit.begin(transfer.op, transfer.sector.0);
        match self.fill(transfer, filling, &mut pending) {
            Ok(filling) => {
                self.submitted += 1;
                match pending {
                    Pending::Whole(reply) => filling.submit(Job::Whole(reply)),
                    Pending::Split(split) => {
                        filling.submit(Job::Part(split.clone()));
                        self.completion.release(split);
                    }
                    Pending::Lost => (),
                }
            }
            Err((filling, stopped)) => {
                self.units.put(filling.abandon());
                let result = match stopped {
                    Stopped::Unaligned(done) => self.bounce(transfer, done),
                    Stopped::Failed => Err(Failure::Memory),
                };
                self.end(pending, result);
            }
        }
    }

    /// Pins the buffers of a transfer, and submits all of it but the last I/O, which is returned.
    fn fill(
        &mut self,
        transfer: &Transfer<'_>,
        mut filling: Filling<Completion>,
        pending: &mut Pending,
    ) -> Result<Filling<Completion>, (Filling<Completion>, Stopped)> {
        let block = transfer.block as usize;
        let mask = u64::from(transfer.alignment_mask);
        let mut submitted_bytes = 0;
        for piece in transfer.data.pieces() {
            for span in self.table.spans(piece.addr, u64::from(piece.len)) {
                let Ok(HostSpan { mut addr, len }) = span else {
                    return Err((filling, Stopped::Failed));
                };
                let mut left = len as usize;
                if addr.0 & mask != 0 || left & (block - 1) != 0 {
                    return Err((filling, Stopped::Unaligned(submitted_bytes)));
                }
                while left > 0 {
                    let now = left.min(filling.room(addr) & !(block - 1));
                    if now > 0 {
                        if filling.pin(addr, now, &mut self.scratch).is_err() {
                            return Err((filling, Stopped::Failed));
                        }
                        addr = HostAddr(addr.0.wrapping_add(now as u64));
                        left -= now;
                        continue;
                    }
                    // Full: the next I/O begins where this one ends. Neither can be empty, since
                    // the largest block fits into a large one.
                    let Ok(split) = pending.split() else {
                        return Err((filling, Stopped::Failed));
                    };
                    let Ok(unit) = self.units.take(true) else {
                        return Err((filling, Stopped::Failed));
                    };
                    submitted_bytes += filling.bytes();
                    let sector = transfer.sector.0 + u64::from(submitted_bytes) / SECTOR_SIZE;
                    let full = core::mem::replace(&mut filling, unit.begin(transfer.op, sector));
                    if full.bytes() == 0 {
                        // A small one, for blocks that it has no room for.
                        drop(split);
                        self.units.put(full.abandon());
                        if filling.room(addr) < block {
                            return Err((filling, Stopped::Failed));
                        }
                    } else {
                        self.submitted += 1;
                        full.submit(Job::Part(split));
                        // A request can be gigabytes long, and a disk as fast as memory.
                        give_way();
                    }
                }
            }
        }
        Ok(filling)
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
            let len = most.min(data.bytes() - at);
            let sector = sector.0 + u64::from(at) / SECTOR_SIZE;
            at += len;
            let len = len as usize;
            if *op == Op::Read {
                self.file
                    .read(sector, &mut self.bounce, len)
                    .map_err(failure)?;
                let bytes = self.bounce.get(..len).ok_or(Failure::Memory)?;
                copier.copy_out(bytes).map_err(|_| Failure::Memory)?;
            } else {
                let bytes = self.bounce.get_mut(..len).ok_or(Failure::Memory)?;
                copier.copy_in(bytes).map_err(|_| Failure::Memory)?;
                let durable = *op == Op::WriteDurable;
                self.file
                    .write(sector, &mut self.bounce, len, durable)
                    .map_err(failure)?;
            }
            give_way();
        }
        Ok(())
    }
}

fn write_op(durable: bool) -> Op {
    if durable {
        Op::WriteDurable
    } else {
        Op::Write
    }
}

fn failure(error: Error) -> Failure {
    if error == eopnotsupp() {
        Failure::NotSupported
    } else {
        Failure::Disk
    }
}

/// Who answers a request that is being submitted.
enum Pending {
    /// Its only I/O, or whoever gives up.
    Whole(Reply),
    /// The last of several I/Os.
    Split(Arc<Split>),
    /// In between the two.
    Lost,
}

impl Pending {
    /// Makes it a request of several I/Os; a reference for one of them.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    fn split(&mut self) -> Result<Arc<Split>> {
        if let Self::Split(split) = self {
            return Ok(split.clone());
        }
        // Allocated first, so that no failure can lose the reply.
        let room = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
        match core::mem::replace(self, Self::Lost) {
            Self::Whole(reply) => {
                let split: Arc<Split> = room.write(Split::new(reply)).into();
                *self = Self::Split(split.clone());
                Ok(split)
            }
            other => {
                *self = other;
                Err(EINVAL)
            }
        }
    }
}

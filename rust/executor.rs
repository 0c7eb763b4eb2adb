// SPDX-License-Identifier: GPL-2.0

//! From a request to I/O on the disk.

mod ranges;
mod transfer;

use ranges::Unfinished;
use transfer::Transfer;

use crate::{
    completion::Completion,
    config_notifier::ConfigNotifier,
    memory::{
        write_byte,
        Copier,
        CurrentProcess,
        Table, //
    },
    reply::{
        Failure,
        Job,
        Moved,
        Reply,
        StatusByte, //
    },
    sys::{
        bio::PageScratch,
        block_file::BlockFile,
        op::Op,
        pin::{
            LastPage,
            PinnedByte, //
        },
    },
    units::Units, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        Sector, //
    },
    chain::Chain,
    priority::Priority,
    queue::Head,
    range::RangeOps,
    request::{
        Action,
        Disk,
        NotARequest,
        Payload,
        Request,
        Status,
        ID_BYTES, //
    },
};

/// Bytes after which a turn ends: a request about ranges leaves the rest of them to the next one.
pub(crate) const TURN_BYTES: u32 = 4 << 20;

/// The chain has no place for an answer: it was given back without one.
pub(crate) struct Unanswerable;

/// What the guest agreed to, and what the owner may.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// What may be asked for about ranges.
    pub(crate) range_ops: RangeOps,
    /// Whether writes are durable before they are answered.
    pub(crate) durable: bool,
    /// Whether requests may have the real-time class of I/O priorities.
    pub(crate) realtime: bool,
}

/// What it takes to execute requests.
pub(crate) struct Executor {
    pub(crate) table: Arc<Table>,
    pub(crate) id: [u8; ID_BYTES],
    completion: Arc<Completion>,
    file: Arc<BlockFile>,
    notifier: Arc<ConfigNotifier>,
    units: Units,
    scratch: PageScratch,
    status_page: LastPage,
    /// Allocated when first needed.
    bounce: KVec<u8>,
    write: Op,
    range_ops: RangeOps,
    realtime: bool,
    /// I/Os submitted since the start.
    submitted: u64,
    /// The last request, if it takes more than one turn.
    unfinished: Option<Unfinished>,
}

impl Executor {
    /// Executes requests on the disk of `file` with the I/Os of `units`, by these rules.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        completion: Arc<Completion>,
        file: Arc<BlockFile>,
        notifier: Arc<ConfigNotifier>,
        table: Arc<Table>,
        units: Units,
        id: [u8; ID_BYTES],
        rules: Rules,
    ) -> Result<Self> {
        Ok(Self {
            table,
            id,
            completion,
            file,
            notifier,
            units,
            scratch: PageScratch::new()?,
            status_page: LastPage::default(),
            bounce: KVec::new(),
            write: write_op(rules.durable),
            range_ops: rules.range_ops,
            realtime: rules.realtime,
            submitted: 0,
            unfinished: None,
        })
    }

    /// Switches between writing back and writing through, for the requests that follow.
    pub(crate) fn set_durable(&mut self, durable: bool) {
        self.write = write_op(durable);
    }

    /// Exchanges the memory table, between two requests.
    pub(crate) fn set_table(&mut self, table: Arc<Table>) {
        self.table = table;
        self.completion.forget_table();
    }

    /// I/Os submitted since the start.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Takes care of what could not be done where I/O finished.
    pub(crate) fn tidy(&mut self) {
        if self.completion.take_leftovers() {
            self.units.tidy();
            self.answer_late();
        }
    }

    /// Answers what only the worker or the owner can answer.
    pub(crate) fn answer_late(&self) {
        self.completion.answer_late(&self.table);
    }

    /// How many requests had no place for their status.
    pub(crate) fn unanswerable(&self) -> u64 {
        self.completion.unanswerable()
    }

    /// The requests that were known to be there are taken: what follows may rely on memory that
    /// changed since.
    pub(crate) fn forget_status_page(&mut self) {
        self.status_page = LastPage::default();
    }

    /// The batch is over.
    #[inline]
    pub(crate) fn announce(&self) {
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

    /// Has a chain answered; the bytes that it moves. `alone` says that no other is known to
    /// follow in the batch.
    ///
    /// # Errors
    ///
    /// [`Unanswerable`].
    pub(crate) fn chain(
        &mut self,
        head: Head,
        chain: &Chain<'_>,
        alone: bool,
    ) -> Result<u32, Unanswerable> {
        match Request::parse(chain, &self.table, &CurrentProcess) {
            Ok(request) => self.execute(head, &request, alone),
            Err(NotARequest { status }) => {
                // Without a place for it there is nothing to tell; with one, trying is all.
                match status {
                    Some(at) => {
                        let _ = self.answer(head, at, Status::IoError, chain.status_len());
                    }
                    None => self.give_back(head),
                }
                Err(Unanswerable)
            }
        }
    }

    /// Executes a request; the bytes it moves. `alone` says that no other is known to follow in the
    /// batch.
    ///
    /// # Errors
    ///
    /// [`Unanswerable`].
    fn execute(
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
        let mut moved = Moved::default();
        let (op, sector, data) = match request.action(&disk) {
            Action::Answer(status) => {
                if status == Status::IoError {
                    // Perhaps the driver knows another capacity.
                    self.notifier.look();
                }
                self.answer(head, request.status, status, request.used_len(0))?;
                return Ok(0);
            }
            Action::GetId { data } => {
                self.tell_id(head, request, &data)?;
                return Ok(0);
            }
            Action::Ranges { op, data } => {
                return self.ranges(head, request, op, &data, &disk, alone);
            }
            Action::Flush => {
                moved.flushes = 1;
                (Op::Flush, Sector(0), None)
            }
            Action::Read { sector, data } => {
                moved.read = data.bytes();
                (Op::Read, sector, Some(data))
            }
            Action::Write { sector, data } => {
                moved.written = data.bytes();
                (self.write, sector, Some(data))
            }
        };
        let Ok(status) = self.status_byte(request.status, alone) else {
            self.completion.give_back(head, 0);
            return Err(Unanswerable);
        };
        let priority = Priority::grant(request.ioprio, self.realtime);
        let bytes = data.map_or(0, |data| data.bytes());
        // Made where it is needed: in the memory of the I/O.
        let reply = move || Reply {
            head,
            alone,
            status,
            len: request.used_len(moved.read),
            failed_len: request.used_len(0),
            moved,
        };
        match data {
            Some(data) => {
                let transfer = Transfer {
                    op,
                    priority,
                    sector,
                    data,
                    block: geometry.block_size,
                    alignment_mask: geometry.alignment_mask,
                };
                self.transfer(&transfer, reply);
            }
            None => self.flush(priority, reply()),
        }
        Ok(bytes)
    }

    /// How the status byte will be written, from wherever the I/O finishes.
    #[inline(always)]
    fn status_byte(&mut self, at: GuestAddr, alone: bool) -> Result<StatusByte> {
        let host = self.table.host(at).map_err(|_| EFAULT)?;
        if self.completion.finishes_in_worker() {
            return Ok(StatusByte::At {
                guest: at,
                host,
                table: self.completion.table(),
            });
        }
        let byte = if alone {
            PinnedByte::new(host)?
        } else {
            self.status_page.pin(host)?
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
        if self.table.host(request.status).is_err() {
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

    fn flush(&mut self, priority: Priority, reply: Reply) {
        match self.units.take(false) {
            Ok(unit) => {
                self.submitted += 1;
                unit.begin(Op::Flush, priority, 0, Job::Whole(reply))
                    .submit();
            }
            Err(_) => self.completion.answer(reply, Err(Failure::Memory)),
        }
    }
}

fn write_op(durable: bool) -> Op {
    if durable {
        Op::WriteDurable
    } else {
        Op::Write
    }
}

// SPDX-License-Identifier: GPL-2.0

//! From a chain that was taken to an answer, or to work for the disk.

use super::{
    memory::GuestReader,
    queue::Answer,
    ranges::{
        Ranges,
        What, //
    },
    request::{
        Direction,
        InFlight,
        Job,
        Next,
        NoTransfer,
        Ticket,
        Transfer, //
    },
    worker::Worker, //
};
use crate::sys::{
    iobuf::Buffer,
    uring::Operation, //
};
use vblk_core::{
    addr::{
        Sector,
        SECTOR_SIZE, //
    },
    chain::Chains,
    priority::Priority,
    queue::Head,
    range::{
        Range,
        RangeOp,
        MAX_RANGES,
        RANGE_BYTES, //
    },
    request::{
        self,
        Action,
        Payload,
        Request,
        Status, //
    },
};
use vm_memory::{
    Bytes,
    GuestAddress,
    GuestMemoryBackend,
    GuestMemoryMmap, //
};

/// Whether a chain could be served.
pub(super) enum Served {
    /// It is at the disk, or answered.
    Yes,
    /// It must wait for a buffer.
    Wait,
}

impl From<Result<(), InFlight>> for Served {
    fn from(started: Result<(), InFlight>) -> Self {
        match started {
            Ok(()) => Self::Yes,
            Err(_) => Self::Wait,
        }
    }
}

impl<'m> Worker<'m> {
    /// Parses one chain, and answers it or hands it to the disk.
    pub(super) fn serve_chain(&mut self, index: usize, head: Head) -> Served {
        let memory: &'m GuestMemoryMmap = self.memory;
        let reader = GuestReader(memory);
        // Moved out for as long as the request refers to it.
        let mut segments = std::mem::take(&mut self.segments);
        let walked = self.queues[index].ring().walk(
            head,
            self.indirect,
            &self.table,
            &reader,
            &mut segments,
        );
        let served = match walked {
            Err(_) => self.refuse(index, head, None),
            Ok(chain) => match Request::parse(&chain, &self.table, &reader) {
                Ok(request) => self.perform(index, head, &request),
                Err(refused) => {
                    let len = chain.status_len();
                    let status = refused.status.map(|at| (GuestAddress(at.0), len));
                    self.refuse(index, head, status)
                }
            },
        };
        self.segments = segments;
        served
    }

    /// Gives back what is no request, with a status byte where there is room for one.
    fn refuse(&mut self, index: usize, head: Head, status: Option<(GuestAddress, u32)>) -> Served {
        let queue = &mut self.queues[index];
        queue.malformed(self.counters);
        let written = status.filter(|(at, _)| {
            let status = Status::IoError as u8;
            self.memory.write_obj(status, *at).is_ok()
        });
        queue.give_back(self.counters, head, written.map_or(0, |(_, len)| len));
        Served::Yes
    }

    fn perform(&mut self, index: usize, head: Head, request: &Request<'_>) -> Served {
        let status_at = GuestAddress(request.status.0);
        let answer = |status, data_bytes| Answer {
            status_at,
            status,
            len: request.used_len(data_bytes),
        };
        if !self.memory.address_in_range(status_at) {
            return self.refuse(index, head, None);
        }
        let priority = Priority::grant(request.ioprio, self.realtime);
        let ticket = |answer| Ticket {
            queue: index,
            head,
            priority,
            answer,
        };
        let rules = self.target.rules();
        let done = match request.action(&rules) {
            Action::Answer(status) => answer(status, 0),
            Action::Ranges { op, data } => match self.ranges(op, &data, &rules) {
                Ok(mut ranges) => match ranges.next() {
                    Next::Done(_) => answer(Status::Ok, 0),
                    Next::Again(operation) => {
                        let ticket = ticket(answer(Status::Ok, 0));
                        let job = Job::Ranges(Box::new(ranges));
                        let in_flight = InFlight { ticket, job };
                        return self.start(operation, Buffer::Empty, in_flight).into();
                    }
                },
                Err(status) => answer(status, 0),
            },
            Action::GetId { data } => match self.write_id(&data) {
                Some(bytes) => answer(Status::Ok, bytes),
                None => answer(Status::IoError, 0),
            },
            Action::Flush => {
                let ticket = ticket(answer(Status::Ok, 0));
                let job = Job::Flush;
                let in_flight = InFlight { ticket, job };
                return self.start(Operation::Sync, Buffer::Empty, in_flight).into();
            }
            Action::Read { sector, data } => {
                let ok = ticket(answer(Status::Ok, data.bytes()));
                match self.transfer(ok, Direction::Read, sector, &data) {
                    Ok(served) => return served,
                    Err(NotMemory) => answer(Status::IoError, 0),
                }
            }
            Action::Write { sector, data } => {
                let ok = ticket(answer(Status::Ok, 0));
                let direction = Direction::Write {
                    durable: self.target.write_through(),
                };
                match self.transfer(ok, direction, sector, &data) {
                    Ok(served) => return served,
                    Err(NotMemory) => answer(Status::IoError, 0),
                }
            }
        };
        self.queues[index].answer(self.counters, head, done);
        Served::Yes
    }

    fn transfer(
        &mut self,
        ticket: Ticket,
        direction: Direction,
        sector: Sector,
        data: &Payload<'_>,
    ) -> Result<Served, NotMemory> {
        // The range was checked against the disk: no overflow.
        let position = sector.0 * SECTOR_SIZE;
        let align = (self.target.memory_align, self.target.rules.block_size);
        let begun = Transfer::begin(
            self.memory,
            &mut self.pool,
            direction,
            position,
            data,
            align,
        );
        let (transfer, buffer) = match begun {
            Ok(begun) => begun,
            Err(NoTransfer::Wait) => return Ok(Served::Wait),
            Err(NoTransfer::NotMemory) => return Err(NotMemory),
        };
        let operation = transfer.operation();
        let job = Job::Transfer(transfer);
        let in_flight = InFlight { ticket, job };
        Ok(self.start(operation, buffer, in_flight).into())
    }

    /// Reads and judges all ranges of a request, in order; the status to answer if one is wrong.
    fn ranges(
        &self,
        op: RangeOp,
        data: &Payload<'_>,
        rules: &request::Disk,
    ) -> Result<Ranges, Status> {
        let what = match op {
            RangeOp::Discard => What::Discard,
            RangeOp::WriteZeroes => What::Zero {
                durable: self.target.write_through(),
            },
            // Not offered.
            RangeOp::SecureErase => return Err(Status::Unsupported),
        };
        let mut ranges = [Range::default(); MAX_RANGES];
        let count = data.bytes() / RANGE_BYTES as u32;
        for (range, number) in ranges.iter_mut().zip(0..count) {
            let mut bytes = [0; RANGE_BYTES];
            self.read_data(data, number * RANGE_BYTES as u32, &mut bytes)
                .ok_or(Status::IoError)?;
            *range = Range::parse(&bytes, op, rules)?;
        }
        Ok(Ranges::new(what, self.target.kind, ranges))
    }

    /// Fills `to` with data behind its first `skip` bytes; `None` if some of it is no memory.
    fn read_data(&self, data: &Payload<'_>, skip: u32, mut to: &mut [u8]) -> Option<()> {
        for piece in data.pieces_after(skip) {
            let (now, later) = to.split_at_mut(to.len().min(piece.len as usize));
            self.memory
                .read_slice(now, GuestAddress(piece.addr.0))
                .ok()?;
            to = later;
            if to.is_empty() {
                break;
            }
        }
        Some(())
    }

    /// Writes the serial number to the guest; how many bytes of it, or `None` if that is no memory.
    fn write_id(&self, data: &Payload<'_>) -> Option<u32> {
        let mut rest = self.target.id.as_slice();
        let mut written = 0;
        for piece in data.pieces() {
            let len = rest.len().min(piece.len as usize);
            let (now, later) = rest.split_at(len);
            self.memory
                .write_slice(now, GuestAddress(piece.addr.0))
                .ok()?;
            written += len as u32;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Some(written)
    }
}

/// Data outside guest memory.
struct NotMemory;

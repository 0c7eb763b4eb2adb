// SPDX-License-Identifier: GPL-2.0

//! From a chain that was taken to an answer, or to work for the disk, and from that to an answer.

use super::{
    counters::Counters,
    memory::{self, GuestReader},
    next::Next,
    pool::BufferPool,
    queue::{Answer, Virtqueue},
    ranges::{RangeKind, Ranges},
    request::{Direction, DiskWork, InFlight, NoTransfer, RequestTag, Transfer},
    target::Target,
    tracker::Taken,
};
use crate::{
    backend::{Features, QueueConfig},
    memory::Memory,
    sys::{
        iobuf::Buffer,
        uring::{Event, Operation, Ring},
    },
};
use std::{io, sync::Arc};
use vblk_core::{
    addr::{Sector, SECTOR_SIZE},
    chain::{max_segments, Segment},
    disk::Disk,
    features::bit,
    priority::Priority,
    range::{Range, RangeOp, MAX_RANGES, RANGE_BYTES},
    request::{Action, Payload, Request, Status},
    table::{MemoryTable, Region, TableMemory},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Most operations in flight. What the guest offers beyond that waits in its rings.
pub const MAX_SLOTS: usize = 1024;

/// The outcome of taking a chain.
pub enum Served {
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

/// The queues of a disk and its ring: parses requests and hands them to the disk.
pub struct Submitter<'m> {
    memory: &'m Memory,
    counters: &'m Counters,
    target: Target,
    indirect: bool,
    realtime: bool,
    table: MemoryTable<Vec<Region>>,
    pool: BufferPool,
    ring: Ring<InFlight>,
    /// The queues that are being served.
    pub queues: Vec<Virtqueue<'m>>,
    /// Room for the buffers of one chain.
    segments: Vec<Segment>,
}

impl<'m> Submitter<'m> {
    /// Prepares to serve `configs`. The ring watches their kicks, in their order, and `stop` behind
    /// them. `realtime` says whether requests may have that priority.
    ///
    /// # Errors
    ///
    /// Returns an error when the kernel allows no io_uring, or a queue can't be served.
    pub fn new(
        memory: &'m Memory,
        target: Target,
        features: Features,
        configs: Vec<QueueConfig>,
        stop: Arc<EventFd>,
        counters: &'m Counters,
        realtime: bool,
    ) -> io::Result<Self> {
        let mut queues = Vec::with_capacity(configs.len());
        let mut watched = Vec::with_capacity(configs.len() + 1);
        for config in configs {
            let (queue, kick) =
                Virtqueue::new(memory, features, config).map_err(io::Error::other)?;
            queues.push(queue);
            watched.push(kick);
        }
        watched.push(stop);
        let entries: usize = queues
            .iter()
            .map(|queue| usize::from(queue.size().get()))
            .sum();
        let longest = queues.iter().map(|queue| max_segments(queue.size()));
        let longest = longest.max().unwrap_or(0);
        let slots = entries.clamp(1, MAX_SLOTS) as u32;
        let table =
            memory::table(memory).map_err(|e| io::Error::other(format!("memory table: {e:?}")))?;
        Ok(Self {
            memory,
            counters,
            indirect: features.has(bit::RING_INDIRECT_DESC),
            realtime,
            table,
            pool: BufferPool::new(memory.clone()),
            ring: Ring::new(&target.file, slots, watched)?,
            target,
            queues,
            segments: vec![Segment::default(); longest],
        })
    }

    /// Returns whether the disk takes no more operations for now.
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    /// Returns whether the disk works on something.
    pub fn is_busy(&self) -> bool {
        self.ring.in_flight() > 0
    }

    /// Hands everything to the kernel, and waits for an event if `wait`.
    ///
    /// # Errors
    ///
    /// Returns an error when the ring can't be used any more.
    pub fn submit(&mut self, wait: bool) -> io::Result<()> {
        self.ring.submit(wait)
    }

    /// Returns the next event that the ring has reported.
    pub fn next_event(&mut self) -> Option<Event<InFlight>> {
        self.ring.next()
    }

    /// Parses one chain, and answers it or hands it to the disk.
    pub fn serve_chain(&mut self, index: usize, taken: Taken) -> Served {
        let memory: &'m GuestMemoryMmap = self.memory;
        let reader = GuestReader(memory);
        // Moved out for as long as the request refers to it.
        let mut segments = std::mem::take(&mut self.segments);
        let guest = TableMemory {
            table: &self.table,
            memory: &reader,
        };
        let walked = self.queues[index].walk(taken, self.indirect, &guest, &mut segments);
        let served = match walked {
            Err(_) => self.refuse(index, taken, None),
            Ok(chain) => match Request::parse(&chain, &guest) {
                Ok(request) => self.perform(index, taken, &request),
                Err(refused) => {
                    let len = chain.status_len();
                    let status = refused.status.map(|at| (GuestAddress(at.0), len));
                    self.refuse(index, taken, status)
                }
            },
        };
        self.segments = segments;
        served
    }

    /// Gives back what is no request, with a status byte where there is room for one.
    fn refuse(
        &mut self,
        index: usize,
        chain: Taken,
        status: Option<(GuestAddress, u32)>,
    ) -> Served {
        let queue = &mut self.queues[index];
        queue.malformed(self.counters);
        let written = status.filter(|(at, _)| {
            let status = Status::IoError as u8;
            self.memory.write_obj(status, *at).is_ok()
        });
        queue.add_used(self.counters, chain, written.map_or(0, |(_, len)| len));
        Served::Yes
    }

    fn perform(&mut self, index: usize, chain: Taken, request: &Request<'_>) -> Served {
        let status_at = GuestAddress(request.status.0);
        let answer = |status, data_bytes| Answer {
            status_at,
            status,
            len: request.used_len(data_bytes),
        };
        if !self.memory.address_in_range(status_at) {
            return self.refuse(index, chain, None);
        }
        let priority = Priority::grant(request.ioprio, self.realtime);
        let tag = |answer| RequestTag {
            queue: index,
            chain,
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
                        let tag = tag(answer(Status::Ok, 0));
                        let work = DiskWork::Ranges(Box::new(ranges));
                        let in_flight = InFlight { tag, work };
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
                let tag = tag(answer(Status::Ok, 0));
                let work = DiskWork::Flush;
                let in_flight = InFlight { tag, work };
                return self.start(Operation::Sync, Buffer::Empty, in_flight).into();
            }
            Action::Read { sector, data } => {
                let ok = tag(answer(Status::Ok, data.bytes()));
                match self.transfer(ok, Direction::Read, sector, &data) {
                    Ok(served) => return served,
                    Err(NotMemory) => answer(Status::IoError, 0),
                }
            }
            Action::Write { sector, data } => {
                let ok = tag(answer(Status::Ok, 0));
                let direction = Direction::Write {
                    durable: self.target.write_through(),
                };
                match self.transfer(ok, direction, sector, &data) {
                    Ok(served) => return served,
                    Err(NotMemory) => answer(Status::IoError, 0),
                }
            }
        };
        self.queues[index].answer(self.counters, chain, done);
        Served::Yes
    }

    fn transfer(
        &mut self,
        tag: RequestTag,
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
        let work = DiskWork::Transfer(transfer);
        let in_flight = InFlight { tag, work };
        Ok(self.start(operation, buffer, in_flight).into())
    }

    /// Reads and checks all ranges of a request, in order. Returns the status to answer if one is
    /// wrong.
    fn ranges(&self, op: RangeOp, data: &Payload<'_>, rules: &Disk) -> Result<Ranges, Status> {
        let kind = match op {
            RangeOp::Discard => RangeKind::Discard,
            RangeOp::WriteZeroes => RangeKind::Zero {
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
        Ok(Ranges::new(kind, self.target.kind, ranges))
    }

    /// Fills `to` with data behind its first `skip` bytes. Returns `None` if some of it is no
    /// memory.
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

    /// Writes the serial number to the guest. Returns how many bytes of it, or `None` if that is no
    /// memory.
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

    /// Queues an operation; gives the request back when there is no slot.
    fn start(
        &mut self,
        operation: Operation,
        buffer: Buffer,
        in_flight: InFlight,
    ) -> Result<(), InFlight> {
        let priority = in_flight.tag.priority;
        let started = self.ring.start(operation, priority, buffer, in_flight);
        started.map_err(|(in_flight, buffer)| {
            self.release(&in_flight, buffer);
            in_flight
        })
    }

    fn release(&mut self, in_flight: &InFlight, buffer: Buffer) {
        if let DiskWork::Transfer(transfer) = &in_flight.work {
            transfer.release(&mut self.pool, buffer);
        }
    }

    fn answer(&mut self, in_flight: &InFlight, answer: Answer) {
        let RequestTag { queue, chain, .. } = in_flight.tag;
        self.queues[queue].answer(self.counters, chain, answer);
    }

    /// Goes on with a request after the disk has done something for it.
    pub fn complete(
        &mut self,
        mut in_flight: InFlight,
        mut buffer: Buffer,
        result: io::Result<usize>,
    ) {
        let outcome = match &mut in_flight.work {
            DiskWork::Flush => result.map(|_| Next::Done(0)),
            DiskWork::Transfer(transfer) => transfer.advance(self.memory, &mut buffer, result),
            DiskWork::Ranges(ranges) => ranges.advance(result),
        };
        let answer = match outcome {
            Ok(Next::Again(operation)) => {
                // The slot of the completion is free, so that this does not fail.
                if let Err(lost) = self.start(operation, buffer, in_flight) {
                    self.answer(&lost, lost.failed(&io::ErrorKind::OutOfMemory.into()));
                }
                return;
            }
            Ok(Next::Done(bytes)) => {
                self.count(&in_flight.work, bytes);
                in_flight.tag.answer
            }
            Err(e) => {
                self.counters.io_errors.add(1);
                in_flight.failed(&e)
            }
        };
        self.release(&in_flight, buffer);
        self.answer(&in_flight, answer);
    }

    fn count(&self, work: &DiskWork, bytes: u32) {
        match work {
            DiskWork::Flush => self.counters.flushes.add(1),
            DiskWork::Ranges(_) => {}
            DiskWork::Transfer(transfer) => match transfer.direction() {
                Direction::Read => self.counters.bytes_read.add(bytes.into()),
                Direction::Write { .. } => self.counters.bytes_written.add(bytes.into()),
            },
        }
    }
}

/// Data outside guest memory.
struct NotMemory;

// SPDX-License-Identifier: GPL-2.0

//! A request on its way to the disk and back.

use super::{
    next::Next,
    pool::{BufferPool, Exhausted, BOUNCE_BYTES},
    queue::Answer,
    ranges::Ranges,
    tracker::Taken,
};
use crate::sys::{
    iobuf::{Bounce, Buffer},
    uring::Operation,
};
use std::io;
use vblk_core::{
    priority::Priority,
    request::{Payload, Status},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write {
        /// The data must be durable when the request is answered.
        durable: bool,
    },
}

/// Names a request, and how it is given back.
#[derive(Clone, Copy)]
pub struct RequestTag {
    /// Which of the queues being served it came from.
    pub queue: usize,
    /// Its chain.
    pub chain: Taken,
    /// How urgent it is.
    pub priority: Priority,
    /// The answer if all goes well.
    pub answer: Answer,
}

/// A request that the disk works on.
pub struct InFlight {
    /// Its queue and chain.
    pub tag: RequestTag,
    /// The disk's work for it.
    pub work: DiskWork,
}

/// The disk's work for a request.
pub enum DiskWork {
    /// Move data.
    Transfer(Transfer),
    /// Do something with ranges of sectors.
    Ranges(Box<Ranges>),
    /// Make writes durable.
    Flush,
}

/// Moving the data of a request, in as many turns as it takes.
pub struct Transfer {
    direction: Direction,
    /// Position on the disk in bytes, of what is not moved yet.
    position: u64,
    /// Bytes not moved yet.
    left: usize,
    /// Bytes in all.
    bytes: u32,
    /// Pieces that the pool counts for it.
    pieces: usize,
    /// The guest's side of a bounce buffer, if it takes one.
    bounced: Option<Bounced>,
}

/// The guest's side of a transfer through a bounce buffer.
struct Bounced {
    pieces: Vec<(GuestAddress, usize)>,
    /// The first piece that is not done with.
    first: usize,
    /// Bytes of the bounce buffer that this turn is about, and how many of them are done.
    turn: usize,
    done: usize,
}

/// Why a transfer can't begin.
pub enum NoTransfer {
    /// Try again when something in flight is done.
    Wait,
    /// A part of the data is not in guest memory.
    NotMemory,
}

impl From<Exhausted> for NoTransfer {
    fn from(_: Exhausted) -> Self {
        Self::Wait
    }
}

impl Transfer {
    /// Finds a buffer for `data`: guest memory if it suits the disk, otherwise a bounce buffer.
    pub fn begin(
        memory: &GuestMemoryMmap,
        pool: &mut BufferPool,
        direction: Direction,
        position: u64,
        data: &Payload<'_>,
        (memory_align, block_size): (u32, u32),
    ) -> Result<(Self, Buffer), NoTransfer> {
        let mut list = pool.list();
        let filled = data
            .pieces()
            .try_for_each(|piece| list.push(GuestAddress(piece.addr.0), piece.len as usize));
        let (pieces, aligned) = (list.len(), list.is_aligned(memory_align, block_size));
        if filled.is_err() {
            pool.put_list(list);
            return Err(NoTransfer::NotMemory);
        }
        if let Err(exhausted) = pool.charge(pieces) {
            pool.put_list(list);
            return Err(exhausted.into());
        }
        let mut transfer = Self {
            direction,
            position,
            left: data.bytes() as usize,
            bytes: data.bytes(),
            pieces,
            bounced: None,
        };
        if aligned {
            return Ok((transfer, Buffer::Guest(list)));
        }
        pool.put_list(list);
        let mut bounce = match pool.bounce() {
            Ok(bounce) => bounce,
            Err(exhausted) => {
                pool.discharge(pieces);
                return Err(exhausted.into());
            }
        };
        let mut bounced = Bounced {
            pieces: data
                .pieces()
                .map(|piece| (GuestAddress(piece.addr.0), piece.len as usize))
                .collect(),
            first: 0,
            turn: 0,
            done: 0,
        };
        bounced.next_turn(memory, &mut bounce, direction, transfer.left);
        transfer.bounced = Some(bounced);
        Ok((transfer, Buffer::Bounce(bounce)))
    }

    /// Returns the disk's next operation.
    pub fn operation(&self) -> Operation {
        match self.direction {
            Direction::Read => Operation::Read(self.position),
            Direction::Write { durable } => Operation::Write {
                offset: self.position,
                durable,
            },
        }
    }

    /// Takes note of what the disk did.
    ///
    /// # Errors
    ///
    /// The disk's error, or that it moved nothing.
    pub fn advance(
        &mut self,
        memory: &GuestMemoryMmap,
        buffer: &mut Buffer,
        result: io::Result<usize>,
    ) -> io::Result<Next> {
        let moved = result?.min(self.left);
        if moved == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += moved as u64;
        self.left -= moved;
        buffer.advance(moved);
        if let (Some(bounced), Buffer::Bounce(bounce)) = (&mut self.bounced, buffer) {
            bounced.done += moved;
            if bounced.done >= bounced.turn {
                if self.direction == Direction::Read {
                    bounced.copy(memory, bounce, Direction::Read);
                }
                bounced.next_turn(memory, bounce, self.direction, self.left);
            }
        }
        Ok(match self.left {
            0 => Next::Done(self.bytes),
            _ => Next::Again(self.operation()),
        })
    }

    /// Returns the direction that data moved in.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Gives the buffers back.
    pub fn release(&self, pool: &mut BufferPool, buffer: Buffer) {
        pool.discharge(self.pieces);
        match buffer {
            Buffer::Guest(list) => pool.put_list(list),
            Buffer::Bounce(bounce) => pool.put_bounce(bounce),
            Buffer::Empty => {}
        }
    }
}

impl Bounced {
    /// Prepares the bounce buffer for the next `left` bytes, or as many as fit.
    fn next_turn(
        &mut self,
        memory: &GuestMemoryMmap,
        bounce: &mut Bounce,
        direction: Direction,
        left: usize,
    ) {
        self.turn = left.min(BOUNCE_BYTES);
        self.done = 0;
        if direction != Direction::Read {
            self.copy(memory, bounce, direction);
        }
        bounce.set_range(0..self.turn);
    }

    /// Copies this turn's bytes between guest and bounce buffer, and moves on to the next pieces.
    fn copy(&mut self, memory: &GuestMemoryMmap, bounce: &mut Bounce, direction: Direction) {
        let mut at = 0;
        while let Some((addr, len)) = self.pieces.get_mut(self.first) {
            let step = (*len).min(self.turn - at);
            // The pieces were found in guest memory when the transfer began.
            for slice in memory.get_slices(*addr, step).flatten() {
                match direction {
                    Direction::Read => bounce.drain(at, &slice),
                    Direction::Write { .. } => bounce.fill(at, &slice),
                }
                at += slice.len();
            }
            addr.0 = addr.0.wrapping_add(step as u64);
            *len -= step;
            if *len > 0 {
                return;
            }
            self.first += 1;
        }
    }
}

impl InFlight {
    /// The answer when the disk failed with `error`. `len` of a failed request counts no data.
    pub fn failed(&self, error: &io::Error) -> Answer {
        Answer {
            status: match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Status::Unsupported,
                _ => Status::IoError,
            },
            len: self.tag.answer.len.min(match self.work {
                DiskWork::Transfer(Transfer {
                    direction: Direction::Read,
                    ..
                }) => 0,
                _ => u32::MAX,
            }),
            ..self.tag.answer
        }
    }
}

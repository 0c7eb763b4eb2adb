// SPDX-License-Identifier: GPL-2.0

//! A safe io_uring: the ring owns what the kernel works on until the kernel is done with it.
//!
//! Two rules justify every `unsafe` here. Memory of an operation is moved into the ring when the
//! operation is queued, and given back when its completion was seen. And a ring that is dropped
//! waits for every operation; if it can't, it leaks their memory.

use super::iobuf::Buffer;
use io_uring::{cqueue, opcode, squeue, types, IoUring};
use std::{fs::File, io, os::fd::AsRawFd, sync::Arc};
use vblk_core::priority::Priority;
use vmm_sys_util::eventfd::EventFd;

/// Most pieces of one vectored read or write (`IOV_MAX`).
const MAX_PIECES: usize = 1024;
/// Marks the user data of a watch; that of an operation is its slot.
const WATCH: u64 = 1 << 32;
/// The registered file that all operations work on.
const DISK: types::Fixed = types::Fixed(0);

/// BLOCK_URING_CMD_DISCARD of `<linux/blkdev.h>`, from Linux 6.12.
const DISCARD_COMMAND: u32 = 0x12 << 8;

/// A buffer of zeroes to write.
#[repr(C, align(4096))]
struct Zeroes([u8; 64 << 10]);
static ZEROES: Zeroes = Zeroes([0; 64 << 10]);

/// An operation on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from this position in bytes.
    Read(u64),
    /// Write the buffer to this position in bytes.
    Write {
        /// Position in bytes.
        offset: u64,
        /// Complete only when the data is durable.
        durable: bool,
    },
    /// Make what was written durable.
    Sync,
    /// Forget what is in some bytes of a block device.
    Discard {
        /// Position in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Make some bytes zero by giving up the space behind them.
    PunchHole {
        /// Position in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Write zeroes, maybe fewer than asked for.
    WriteZeroes {
        /// Position in bytes.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// Complete only when they are durable.
        durable: bool,
    },
}

/// A report of [`Ring::next`].
pub enum Event<T> {
    /// The watched eventfd with this number was signalled since the last report.
    Signalled(usize),
    /// An operation is done.
    Done {
        /// The context that was given with it.
        context: T,
        /// The memory that it worked on.
        buffer: Buffer,
        /// Bytes moved, which may be fewer than asked for, or the error.
        result: io::Result<usize>,
    },
}

/// An io_uring on one disk, with at most as many operations in flight as it has slots.
pub struct Ring<T> {
    ring: IoUring,
    /// Operations in flight: a buffer belongs to the kernel from `start` to `next`.
    flights: Vec<Option<(T, Buffer)>>,
    free: Vec<u32>,
    watched: Vec<Arc<EventFd>>,
    /// Watches that the kernel ended, to be armed again.
    unarmed: Vec<usize>,
}

impl<T> Ring<T> {
    /// A ring for the calling thread, which must be the only one that uses it.
    ///
    /// # Errors
    ///
    /// When the kernel has no io_uring or does not allow it.
    pub fn new(disk: &File, slots: u32, watched: Vec<Arc<EventFd>>) -> io::Result<Self> {
        let entries = slots.saturating_add(watched.len() as u32);
        let ring = build(entries)?;
        ring.submitter().register_files(&[disk.as_raw_fd()])?;
        let unarmed = (0..watched.len()).collect();
        Ok(Self {
            ring,
            flights: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            watched,
            unarmed,
        })
    }

    /// Returns whether [`Self::start`] would find no slot.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Queues an operation; [`Self::submit`] hands it to the kernel. Only reads and writes have a
    /// priority, as io_uring takes none for others.
    ///
    /// # Errors
    ///
    /// Gives the arguments back when there is no slot, see [`Self::is_full`].
    pub fn start(
        &mut self,
        operation: Operation,
        priority: Priority,
        buffer: Buffer,
        context: T,
    ) -> Result<(), (T, Buffer)> {
        let Some(slot) = self.free.pop() else {
            return Err((context, buffer));
        };
        let entry = entry(operation, priority, &buffer).user_data(slot.into());
        // The vector of pieces is behind a pointer: moving the buffer does not move it.
        self.flights[slot as usize] = Some((context, buffer));
        // SAFETY: The pieces that `entry` refers to are in `flights` until their completion was
        // seen, or live for ever. The disk is registered with the ring.
        if unsafe { self.push(&entry) } {
            return Ok(());
        }
        self.free.push(slot);
        match self.flights[slot as usize].take() {
            Some(back) => Err(back),
            None => unreachable!("stored a few lines above"),
        }
    }

    /// Hands everything queued to the kernel, and waits for an event if `wait`. An interrupted
    /// wait is no error.
    ///
    /// # Errors
    ///
    /// When the ring can't be used any more.
    pub fn submit(&mut self, wait: bool) -> io::Result<()> {
        while let Some(watch) = self.unarmed.pop() {
            let fd = types::Fd(self.watched[watch].as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(WATCH | watch as u64);
            // SAFETY: The entry refers to no memory.
            if !unsafe { self.push(&entry) } {
                self.unarmed.push(watch);
                break;
            }
        }
        match self.ring.submit_and_wait(wait.into()) {
            Ok(_) => Ok(()),
            // Interrupted, or completions must be taken first: the caller comes back.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The next event that the kernel has reported, if there is one.
    pub fn next(&mut self) -> Option<Event<T>> {
        loop {
            let entry = self.ring.completion().next()?;
            let id = entry.user_data();
            if id & WATCH != 0 {
                let watch = (id & !WATCH) as usize;
                if !cqueue::more(entry.flags()) {
                    self.unarmed.push(watch);
                }
                return Some(Event::Signalled(watch));
            }
            let flight = self.flights.get_mut(id as usize).and_then(Option::take);
            // Only slots that were filled have entries, so that there always is one.
            let Some((context, buffer)) = flight else {
                continue;
            };
            self.free.push(id as u32);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            return Some(Event::Done {
                context,
                buffer,
                result,
            });
        }
    }

    /// Returns whether `entry` found room.
    ///
    /// # Safety
    ///
    /// What `entry` refers to must stay valid until its completion was seen.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: The caller's promise.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        // There is an entry for each slot and watch, so that this is never seen unless a watch is
        // armed again and again; the kernel empties the queue then.
        let _ = self.ring.submit();
        // SAFETY: The caller's promise.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.submit(true).is_err() {
                // The kernel may still write to the buffers: they must outlive it.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while self.next().is_some() {}
        }
    }
}

/// Abilities of this kernel's io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Discard sectors of a block device (from Linux 6.12).
    pub discard: bool,
}

/// Builds a ring for `disk` with this many entries, and asks it what it can do.
///
/// # Errors
///
/// When the kernel has no io_uring or does not allow it.
pub fn probe(disk: &File, entries: u32) -> io::Result<Abilities> {
    let mut ring = build(entries)?;
    ring.submitter().register_files(&[disk.as_raw_fd()])?;
    // Of no bytes: a kernel that knows the command refuses the length.
    let nothing = Operation::Discard { offset: 0, len: 0 };
    let entry = entry(nothing, Priority::NONE, &Buffer::Empty);
    // SAFETY: The entry refers to no memory.
    if unsafe { ring.submission().push(&entry) }.is_err() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    ring.submit_and_wait(1)?;
    let answer = ring.completion().next().map(|entry| entry.result());
    Ok(Abilities {
        discard: answer.is_some_and(|result| result != -libc::EOPNOTSUPP),
    })
}

/// A ring with the cheapest way of completing that this kernel has.
fn build(entries: u32) -> io::Result<IoUring> {
    // From Linux 6.1: completions run in this thread only, when it asks for them.
    let newest = IoUring::builder()
        .setup_clamp()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    if !matches!(&newest, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
        return newest;
    }
    // From Linux 5.19: no interrupt of this thread for a completion.
    let newer = IoUring::builder()
        .setup_clamp()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    if !matches!(&newer, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
        return newer;
    }
    IoUring::builder().setup_clamp().build(entries)
}

/// Describes an operation to the kernel. One piece needs no vector.
fn entry(operation: Operation, priority: Priority, buffer: &Buffer) -> squeue::Entry {
    let pieces = buffer.pieces();
    let pieces = &pieces[..pieces.len().min(MAX_PIECES)];
    let count = pieces.len() as u32;
    let flags = |durable| if durable { libc::RWF_DSYNC } else { 0 };
    let ioprio = priority.get();
    match (operation, pieces) {
        (Operation::Read(offset), [one]) => {
            opcode::Read::new(DISK, one.iov_base.cast(), one_len(one))
                .offset(offset)
                .ioprio(ioprio)
                .build()
        }
        (Operation::Read(offset), _) => opcode::Readv::new(DISK, pieces.as_ptr(), count)
            .offset(offset)
            .ioprio(ioprio)
            .build(),
        (Operation::Write { offset, durable }, [one]) => {
            opcode::Write::new(DISK, one.iov_base.cast(), one_len(one))
                .offset(offset)
                .ioprio(ioprio)
                .rw_flags(flags(durable))
                .build()
        }
        (Operation::Write { offset, durable }, _) => {
            opcode::Writev::new(DISK, pieces.as_ptr(), count)
                .offset(offset)
                .ioprio(ioprio)
                .rw_flags(flags(durable))
                .build()
        }
        (Operation::Discard { offset, len }, _) => {
            let mut command = [0; 16];
            command[..8].copy_from_slice(&u64::from(len).to_ne_bytes());
            opcode::UringCmd16::new(DISK, DISCARD_COMMAND)
                .addr(Some(offset))
                .cmd(command)
                .build()
        }
        (Operation::PunchHole { offset, len }, _) => opcode::Fallocate::new(DISK, len.into())
            .offset(offset)
            .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
            .build(),
        (
            Operation::WriteZeroes {
                offset,
                len,
                durable,
            },
            _,
        ) => {
            let len = len.min(ZEROES.0.len() as u32);
            opcode::Write::new(DISK, ZEROES.0.as_ptr(), len)
                .offset(offset)
                .ioprio(ioprio)
                .rw_flags(flags(durable))
                .build()
        }
        (Operation::Sync, _) => opcode::Fsync::new(DISK)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
    }
}

/// Length of a piece as the kernel takes it. The kernel moves less than 2^31 bytes at a time, and
/// the rest of a longer piece is asked for when that is done.
fn one_len(piece: &libc::iovec) -> u32 {
    u32::try_from(piece.iov_len).unwrap_or(u32::MAX)
}

// SPDX-License-Identifier: GPL-2.0

//! How to answer a request, carried along by its I/O.

use crate::sys::{
    bio::{
        self,
        DeviceFailure, //
    },
    errno::eopnotsupp,
    pin::PinnedByte,
    store_byte_nofault, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        UniqueArc, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    queue::Head,
    request::Status, //
};

/// What a request does if all goes well, for the statistics.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Bytes from the disk to the guest.
    pub(crate) read: u32,
    /// Bytes from the guest to the disk.
    pub(crate) written: u32,
    /// Flushes.
    pub(crate) flushes: u32,
}

/// Where the status of a request goes.
pub(crate) enum StatusByte {
    /// Can be written in any context.
    Pinned(PinnedByte),
    /// Must be written by the worker. Costs no pin: for disks that finish I/O right where it is
    /// submitted.
    At {
        /// Where it is for the guest.
        guest: GuestAddr,
        /// Where that lies, by a memory table.
        host: HostAddr,
        /// Which one: how often the table had been replaced.
        table: u32,
    },
    /// Was written, or can't be. Needs nothing any more.
    Released,
}

/// How to answer a request once its I/O is done.
pub(crate) struct Reply {
    /// The chain to give back.
    pub(crate) head: Head,
    /// Whether no other request is known to follow: an interrupt need not wait for the end of the
    /// batch.
    pub(crate) alone: bool,
    /// Bytes written to the chain if all goes well.
    pub(crate) len: u32,
    /// And if not.
    pub(crate) failed_len: u32,
    /// Where the status goes.
    pub(crate) status: StatusByte,
    /// What it does if all goes well.
    pub(crate) moved: Moved,
}

impl Reply {
    /// Bytes written to the chain, the status included.
    pub(crate) fn len(&self, result: Result<(), Failure>) -> u32 {
        if result.is_ok() {
            self.len
        } else {
            self.failed_len
        }
    }

    /// Writes the status where an I/O finished; whether it can be written there.
    /// `table` is the number of the memory table that is in force, in the worker.
    pub(crate) fn try_write(&self, result: Result<(), Failure>, table: Option<u32>) -> bool {
        let status = status(result) as u8;
        match &self.status {
            StatusByte::Pinned(byte) => {
                byte.write(status);
                true
            }
            StatusByte::At {
                host, table: of, ..
            } => table == Some(*of) && store_byte_nofault(*host, status),
            StatusByte::Released => false,
        }
    }
}

/// The status that tells of a result.
pub(crate) fn status(result: Result<(), Failure>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(Failure::NotSupported) => Status::Unsupported,
        Err(Failure::Disk | Failure::Memory) => Status::IoError,
    }
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Failure {
    /// The disk can't do this.
    NotSupported = 1,
    /// The disk failed.
    Disk = 2,
    /// The guest's buffers can't be reached, or there is no memory for the I/O.
    Memory = 3,
}

impl From<DeviceFailure> for Failure {
    fn from(failure: DeviceFailure) -> Self {
        match failure {
            DeviceFailure::NotSupported => Self::NotSupported,
            DeviceFailure::Failed => Self::Disk,
        }
    }
}

impl From<Error> for Failure {
    /// From what a device answered to a transfer that was waited for.
    fn from(error: Error) -> Self {
        if error == eopnotsupp() {
            Self::NotSupported
        } else {
            Self::Disk
        }
    }
}

/// A request that takes several I/Os. The last one to let go of it answers.
pub(crate) struct Split {
    /// Taken by the last one.
    reply: Option<Reply>,
    /// A [`Failure`], or 0.
    failure: Atomic<u32>,
}

impl Split {
    /// A request that went well so far.
    ///
    /// # Errors
    ///
    /// The reply, when there is no memory.
    pub(crate) fn new(reply: Reply) -> Result<Arc<Self>, Reply> {
        let Ok(room) = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT) else {
            return Err(reply);
        };
        let split = room.write(Self {
            reply: Some(reply),
            failure: Atomic::new(0),
        });
        Ok(split.into())
    }

    /// Notes how one of the I/Os ended.
    pub(crate) fn record(&self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            // Relaxed: the reference count orders this before the last one's load.
            self.failure.store(failure as u32, Relaxed);
        }
    }

    /// Lets go of it. Returns its reply and its result if that was the last reference.
    pub(crate) fn release(self: Arc<Self>) -> Option<(Reply, Result<(), Failure>)> {
        let mut split = Arc::into_unique_or_drop(self)?;
        let result = split.result();
        let reply = split.as_mut().get_mut().reply.take()?;
        Some((reply, result))
    }

    fn result(&self) -> Result<(), Failure> {
        let failed = [Failure::NotSupported, Failure::Disk, Failure::Memory];
        let code = self.failure.load(Relaxed);
        match failed.into_iter().find(|failure| *failure as u32 == code) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// What an I/O is for.
pub(crate) enum Job {
    /// All of a request.
    Whole(Reply),
    /// A part of one.
    Part(Arc<Split>),
}

impl bio::Job for Job {
    #[inline]
    fn try_release(&mut self) -> bool {
        let Self::Whole(reply) = self else {
            return true;
        };
        match core::mem::replace(&mut reply.status, StatusByte::Released) {
            StatusByte::Pinned(byte) => match byte.try_release() {
                Ok(()) => true,
                Err(byte) => {
                    reply.status = StatusByte::Pinned(byte);
                    false
                }
            },
            StatusByte::At { .. } | StatusByte::Released => true,
        }
    }
}

impl Job {
    /// Two parts of the same request.
    ///
    /// # Errors
    ///
    /// Itself, when there is no memory.
    pub(crate) fn split(self) -> Result<(Self, Self), Self> {
        let split = match self {
            Self::Whole(reply) => Split::new(reply).map_err(Self::Whole)?,
            Self::Part(split) => split,
        };
        Ok((Self::Part(split.clone()), Self::Part(split)))
    }
}

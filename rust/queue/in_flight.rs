// SPDX-License-Identifier: GPL-2.0

//! A request that was taken from the ring and has not been answered.

use crate::{
    memory::StatusByte,
    sys::io::DeviceFailure, //
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
    addr::GuestAddr,
    queue::Head,
    request::{
        Piece,
        Status, //
    },
};

/// The counts of a request for the statistics, if it succeeds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Accounting {
    /// Bytes from the disk to the guest.
    pub(crate) read: u32,
    /// Bytes from the guest to the disk.
    pub(crate) written: u32,
    /// Flushes.
    pub(crate) flushes: u32,
}

/// An address that no log has a page for.
pub(super) const NOWHERE: GuestAddr = GuestAddr(u64::MAX);

/// A request without its answer.
pub(crate) struct InFlight {
    /// The chain to give back.
    pub(crate) head: Head,
    /// No other request is known to follow: its signal need not wait for the end of the batch.
    pub(crate) is_last: bool,
    /// Used length on success.
    pub(crate) len: u32,
    /// Used length on failure.
    pub(crate) failed_len: u32,
    /// The place of the status; `None` when the chain has none.
    pub(crate) status: Option<StatusByte>,
    /// Where that is in guest memory, or [`NOWHERE`].
    pub(crate) status_at: GuestAddr,
    /// The counts on success.
    pub(crate) accounting: Accounting,
}

impl InFlight {
    /// Writes the status of a request, and releases its place. Nothing else does. What only a thread
    /// can release stays.
    #[inline(always)]
    pub(super) fn answer(&mut self, result: Result<(), Failure>) -> Answered {
        let mut is_clean = true;
        // A length says that the status byte is written.
        let mut len = 0;
        if let Some(byte) = &mut self.status {
            byte.write(status_of(result) as u8);
            is_clean = byte.try_release();
            len = if result.is_ok() {
                self.len
            } else {
                self.failed_len
            };
        }
        Answered {
            head: self.head,
            is_last: self.is_last,
            len,
            result,
            accounting: self.accounting,
            status_at: self.status_at,
            is_clean,
        }
    }
}

/// A request whose status was written, to be given back.
pub(super) struct Answered {
    pub(super) head: Head,
    pub(super) is_last: bool,
    /// Used length.
    pub(super) len: u32,
    pub(super) result: Result<(), Failure>,
    pub(super) accounting: Accounting,
    /// Where the status was written, or [`NOWHERE`].
    pub(super) status_at: GuestAddr,
    /// A thread need not release the place of the status soon.
    pub(super) is_clean: bool,
}

/// A reason for a request to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Failure {
    /// The disk can't do this.
    DiskCannot = 1,
    /// The disk failed.
    Disk = 2,
    /// The guest's buffers can't be reached, or there is no memory for the I/O.
    Memory = 3,
    /// The guest asked for what was not negotiated, or does not exist.
    Unsupported = 4,
    /// The guest asked for what makes no sense on this disk.
    Invalid = 5,
}

impl Failure {
    const ALL: [Self; 5] = [
        Self::DiskCannot,
        Self::Disk,
        Self::Memory,
        Self::Unsupported,
        Self::Invalid,
    ];
}

impl From<DeviceFailure> for Failure {
    fn from(failure: DeviceFailure) -> Self {
        match failure {
            DeviceFailure::NotSupported => Self::DiskCannot,
            DeviceFailure::Failed => Self::Disk,
        }
    }
}

/// Returns the result that a status stands for which needed no disk to be known.
pub(crate) fn judged(status: Status) -> Result<(), Failure> {
    match status {
        Status::Ok => Ok(()),
        Status::IoError => Err(Failure::Invalid),
        Status::Unsupported => Err(Failure::Unsupported),
    }
}

/// Returns the status that tells of a result.
#[inline]
fn status_of(result: Result<(), Failure>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(Failure::DiskCannot | Failure::Unsupported) => Status::Unsupported,
        Err(Failure::Disk | Failure::Memory | Failure::Invalid) => Status::IoError,
    }
}

/// A request that takes several I/Os. The last one to complete its part answers.
pub(crate) struct SharedRequest {
    /// Taken by the last one.
    request: Option<InFlight>,
    /// A [`Failure`], or 0.
    failure: Atomic<u32>,
}

impl SharedRequest {
    /// Shares a request, which has not failed so far.
    ///
    /// # Errors
    ///
    /// The request, when there is no memory.
    pub(crate) fn new(request: InFlight) -> Result<Arc<Self>, InFlight> {
        let Ok(room) = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT) else {
            return Err(request);
        };
        let shared = room.write(Self {
            request: Some(request),
            failure: Atomic::new(0),
        });
        Ok(shared.into())
    }

    /// Notes the result of a part and gives up a reference. Returns the request with its result if
    /// that was the last one.
    pub(crate) fn complete(
        self: Arc<Self>,
        result: Result<(), Failure>,
    ) -> Option<(InFlight, Result<(), Failure>)> {
        if let Err(failure) = result {
            // Relaxed: the reference count orders this before the last one's load.
            self.failure.store(failure as u32, Relaxed);
        }
        let mut shared = Arc::into_unique_or_drop(self)?;
        let code = shared.failure.load(Relaxed);
        let failure = Failure::ALL.into_iter().find(|it| *it as u32 == code);
        let request = shared.as_mut().get_mut().request.take()?;
        Some((request, failure.map_or(Ok(()), Err)))
    }
}

/// The owner of an I/O.
pub(crate) enum IoOwner {
    /// All of a request.
    Request(InFlight),
    /// A part of a request.
    Part(Arc<SharedRequest>),
    /// A part of a request whose data the worker copies to the guest. Dropped in any context, where
    /// the disk failed.
    CopyOut(Arc<SharedRequest>, KVec<Piece>),
}

// SPDX-License-Identifier: GPL-2.0

//! Memory for notes of what is in flight, which a front-end keeps for the next back-end.

use super::{
    error::Refusal,
    memory::{self, MemoryError},
    message::TrackingSpec,
};
use crate::{
    backend::{queue_bytes, Error, Format, TrackingMemory},
    sys::memfd,
};
use std::{os::fd::OwnedFd, sync::Arc};
use vblk_core::queue::QueueSize;
use vm_memory::MmapRegion;

/// Memory for the notes of all queues.
#[derive(Debug)]
pub struct Tracking {
    region: Arc<MmapRegion>,
    /// Size of the longest queue that there is room for.
    size: QueueSize,
}

/// Makes a file with memory for notes.
///
/// # Errors
///
/// [`Refusal::Tracking`], and the kernel's error.
pub fn make(
    wanted: TrackingSpec,
    format: Format,
    queues: u16,
) -> Result<(TrackingSpec, OwnedFd), Refusal> {
    let size = checked(wanted, queues)?;
    let bytes = queue_bytes(format, size) as u64 * u64::from(wanted.queues);
    let file = memfd::create(c"vblk-inflight", bytes).map_err(MemoryError::Host)?;
    let spec = TrackingSpec {
        bytes,
        offset: 0,
        ..wanted
    };
    Ok((spec, file.into()))
}

/// Returns the size of the queues, if there may be as many of them.
fn checked(spec: TrackingSpec, queues: u16) -> Result<QueueSize, Refusal> {
    let size = QueueSize::new(spec.entries.into());
    size.filter(|_| (1..=queues).contains(&spec.queues))
        .ok_or(Refusal::Tracking(spec.queues, spec.entries))
}

impl Tracking {
    /// Maps memory that a front-end has kept.
    ///
    /// # Errors
    ///
    /// [`Refusal::Tracking`], and those of mapping.
    pub fn map(spec: TrackingSpec, file: OwnedFd, queues: u16) -> Result<Self, Refusal> {
        let size = checked(spec, queues)?;
        let region = memory::map_part(file, spec.offset, spec.bytes)?;
        Ok(Self {
            region: Arc::new(region),
            size,
        })
    }

    /// Returns the memory for the notes of a queue.
    ///
    /// # Errors
    ///
    /// [`Error::Notes`] where there is none.
    pub fn of_queue(&self, format: Format, index: u16) -> Result<TrackingMemory, Error> {
        TrackingMemory::of_queue(&self.region, format, self.size, index).ok_or(Error::Notes(index))
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What a back-end does, and what it is given: the same for both.

use super::{Error, Kind, TrackingMemory};
use crate::{disk::Disk, memory::Memory};
use std::sync::Arc;
use vblk_core::{
    config::{Queues, CONFIG_BYTES},
    features::Features,
    uapi::Stats,
};
use vm_memory::{GuestAddress, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

/// The features that concern rings and transport, not the disk (virtio 1.2, 2.2).
const RING_FEATURES: u64 = !0 << 24;

/// One virtqueue, as the driver set it up.
#[derive(Debug)]
pub struct QueueConfig {
    /// Which queue of the device.
    pub index: u16,
    /// Number of entries.
    pub size: u16,
    /// Address of the descriptor table or ring.
    pub desc: GuestAddress,
    /// Address of the available ring, or of the driver's event suppression.
    pub avail: GuestAddress,
    /// Address of the used ring, or of the device's event suppression.
    pub used: GuestAddress,
    /// Position to begin at, in the encoding of vhost: [`Format::initial_base`](vblk_core::ring::Format::initial_base), or what
    /// [`Backend::stop`] told.
    pub base: u32,
    /// Signalled by the driver when there are requests.
    pub kick: EventFd,
    /// Signalled for an interrupt.
    pub call: EventFd,
    /// Signalled for malformed requests, once per burst, and when the queue stops for good.
    pub err: Option<EventFd>,
    /// Where it is noted what is in flight, for a back-end that [can](Backend::can_track). What is
    /// found there is done first.
    pub tracking: Option<TrackingMemory>,
}

/// The position of a queue that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which queue.
    pub index: u16,
    /// Position to go on at, in the encoding of vhost.
    pub base: u32,
}

/// The features and the configuration space that fit a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The features that concern the disk.
    pub features: Features,
    /// The configuration space.
    pub config: [u8; CONFIG_BYTES],
}

/// Tells what a back-end offers, also while others use the back-end.
pub trait OfferSource: Send + Sync {
    /// Returns what to offer to the driver of a device with these queues, of what concerns the
    /// disk.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    fn offer(&self, queues: Queues) -> Result<Offer, Error>;
}

/// Serves one disk.
///
/// Dropping a back-end stops it.
pub trait Backend: Send {
    /// Returns which one it is.
    fn kind(&self) -> Kind;

    /// Returns the features that it can offer to the driver.
    fn features(&self) -> Features;

    /// Returns those of [`Self::features`] that concern rings and transport, not the disk.
    fn ring_features(&self) -> u64 {
        self.features().0 & RING_FEATURES
    }

    /// Returns what tells what to offer to the driver.
    fn offer_source(&self) -> Arc<dyn OfferSource>;

    /// Returns the disk.
    fn disk(&self) -> &Disk;

    /// Switches between writing back and writing through, until the back-end is started again.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    fn set_writeback(&mut self, on: bool) -> Result<(), Error>;

    /// Changes what is signalled for an interrupt of a queue that is being served. Returns whether it
    /// did: a back-end that can't is to be stopped and started.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    fn set_call(&mut self, _index: u16, _call: EventFd) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns whether it can log what it writes to guest memory.
    fn can_log(&self) -> bool {
        false
    }

    /// Logs what is written to guest memory from here on, in this log only, or not any more; also while
    /// the disk is served. The log is a bitmap of pages of 4096 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NoLog`] from a back-end that can't, [`Error::ShortLog`], and the kernel's error.
    fn set_log(&mut self, log: Option<Arc<MmapRegion>>) -> Result<(), Error> {
        match log {
            Some(_) => Err(Error::NoLog),
            None => Ok(()),
        }
    }

    /// Returns whether it can note what it has in flight, so that another can go on after it was
    /// killed.
    fn can_track(&self) -> bool {
        false
    }

    /// Begins to serve requests. Whatever is in the rings counts as kicked.
    ///
    /// `features` are those that the driver agreed to; bits that are none of [`Self::features`]
    /// are left out.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Nothing is served then, and it may be tried again.
    fn start(
        &mut self,
        memory: &Memory,
        features: Features,
        queues: Vec<QueueConfig>,
    ) -> Result<(), Error>;

    /// Completes what is in flight, takes no more, and tells where each queue stands. Does nothing
    /// when not started.
    ///
    /// # Errors
    ///
    /// [`Error::Died`], and what the kernel says.
    fn stop(&mut self) -> Result<Vec<Position>, Error>;

    /// Returns the counters since the back-end was opened.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    fn stats(&self) -> Result<Stats, Error>;

    /// An eventfd that is signalled when what [`OfferSource::offer`] tells has changed while the
    /// disk is served. Without one, the device asks from time to time.
    fn config_call(&self) -> Option<&EventFd> {
        None
    }

    /// An eventfd that is signalled when the back-end dies of itself, if it can.
    fn died(&self) -> Option<&EventFd> {
        None
    }
}

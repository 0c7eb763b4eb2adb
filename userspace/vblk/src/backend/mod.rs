// SPDX-License-Identifier: GPL-2.0

//! Who serves a disk: the kernel module, or a thread of this process.
//!
//! Both take the same rings, eventfds and features and answer requests byte for byte alike, so
//! that comparing them changes one word, the [`Kind`]. Neither knows of KVM.

pub mod io_uring;
pub mod vhost;

use crate::{
    disk::Disk,
    errno,
    memory::Memory,
    seccomp::Filters, //
};
use std::{
    fmt,
    io,
    str::FromStr, //
};
pub use vblk_core::{
    config::{
        Queues,
        CONFIG_BYTES, //
    },
    features::Features,
    ring::Format,
    uapi::Stats, //
};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// Why a back-end can't serve a disk. The text names the cause; whoever prints it names the disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no device node.
    #[error("no /dev/vhost-blk-rs: load the module vhost_blk_rs, or use backend=io-uring")]
    NoModule,
    /// The device node can't be opened.
    #[error("/dev/vhost-blk-rs: {}", errno::text(.0))]
    Module(io::Error),
    /// The kernel serves block devices only.
    #[error(
        "backend=vhost needs a block device: losetup --direct-io=on --show --find {0} makes one"
    )]
    NotABlockDevice(String),
    /// The kernel refuses io_uring.
    #[error("io_uring: {}", errno::text(.0))]
    IoUring(io::Error),
    /// A step of the set-up failed.
    #[error("{step}: {}", errno::text(.cause))]
    Setup {
        /// Which one.
        step: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// A ring is no power of two long, misaligned, or not in guest memory: the driver's mistake.
    #[error("queue {0} is not set up properly")]
    Queue(u16),
    /// Started twice.
    #[error("already started")]
    Started,
    /// The thread that serves the disk has ended.
    #[error("the back-end died: {0}")]
    Died(String),
}

/// One virtqueue, as the driver set it up.
#[derive(Debug)]
pub struct QueueConfig {
    /// Which queue of the device.
    pub index: u16,
    /// Number of entries.
    pub size: u16,
    /// Where the descriptor table or ring is.
    pub desc: GuestAddress,
    /// Where the available ring, or the driver's event suppression, is.
    pub avail: GuestAddress,
    /// Where the used ring, or the device's event suppression, is.
    pub used: GuestAddress,
    /// Where to begin, in the encoding of vhost: [`Format::initial_base`], or what
    /// [`Backend::stop`] told.
    pub base: u32,
    /// Signalled by the driver when there are requests.
    pub kick: EventFd,
    /// Signalled for an interrupt.
    pub call: EventFd,
    /// Signalled for malformed requests, once per burst.
    pub err: Option<EventFd>,
}

/// Where a queue stood when it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which queue.
    pub index: u16,
    /// Where to go on, in the encoding of vhost.
    pub base: u32,
}

/// What a device with a certain disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The features that concern the disk.
    pub features: Features,
    /// The configuration space.
    pub config: [u8; CONFIG_BYTES],
}

/// Serves one disk.
///
/// Dropping a back-end stops it.
pub trait Backend: Send {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// What it can do, to be offered to the driver.
    fn features(&self) -> Features;

    /// What to offer to the driver of a device with these queues, of what concerns the disk.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn offer(&self, queues: Queues) -> Result<Offer, Error>;

    /// The disk.
    fn disk(&self) -> &Disk;

    /// Switches between writing back and writing through, until the back-end is started again.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn set_writeback(&mut self, on: bool) -> Result<(), Error>;

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

    /// Counters since the back-end was opened.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn stats(&self) -> Result<Stats, Error>;

    /// An eventfd that is signalled when what [`Self::offer`] tells has changed while the disk is
    /// served. Without one, somebody has to ask from time to time.
    fn config_call(&self) -> Option<&EventFd> {
        None
    }

    /// An eventfd that is signalled when the back-end dies of itself, if it can.
    fn died(&self) -> Option<&EventFd> {
        None
    }
}

/// The back-ends there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel module, through `/dev/vhost-blk-rs`.
    Vhost,
    /// A thread of this process with an io_uring.
    IoUring,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Vhost, Self::IoUring];

    /// Makes `disk` ready to be served. Threads of this process that serve it are confined by
    /// `filters`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(self, disk: Disk, filters: &Filters) -> Result<Box<dyn Backend>, Error> {
        Ok(match self {
            Self::Vhost => Box::new(vhost::VhostKernel::open(disk)?),
            Self::IoUring => Box::new(io_uring::IoUring::open(disk, filters)?),
        })
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::IoUring => "io-uring",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no back-end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of vhost, io-uring")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

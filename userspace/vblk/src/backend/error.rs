// SPDX-License-Identifier: GPL-2.0

//! Errors of serving a disk.

use crate::errno;
use std::io;

/// An error of serving a disk. The text names the cause, and the caller adds the disk.
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
    #[error("io_uring: {0}")]
    IoUring(String),
    /// The loaded module is too old for an option.
    #[error(
        "{option} needs version {needed} of the module's interface, and the loaded module has {version}: \
         load a newer vhost_blk_rs"
    )]
    OldModule {
        /// The option.
        option: &'static str,
        /// The version that it needs.
        needed: u32,
        /// The version that the module has.
        version: u32,
    },
    /// The back-end has no log of what it writes.
    #[error("this back-end has no log of what it writes to guest memory")]
    NoLog,
    /// The log has no room for all of guest memory.
    #[error("a log of {bytes} bytes, where guest memory takes {needed}")]
    ShortLog {
        /// Bytes that it has.
        bytes: usize,
        /// Bytes that it needs.
        needed: u64,
    },
    /// The notes of what an earlier process had in flight can't be true.
    #[error("the notes of what was in flight in queue {0} can't be true")]
    Notes(u16),
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

impl Error {
    /// Returns what makes an error of the cause why `step` failed.
    pub fn setup(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Setup { step, cause }
    }
}

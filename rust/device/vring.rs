// SPDX-License-Identifier: GPL-2.0

//! The configuration of a queue.

use crate::sys::{
    eventfd::EventFile,
    signal::Signal, //
};
use kernel::sync::Arc;
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    queue::{
        Parts,
        QueueSize, //
    },
    uapi::Stats, //
};

/// The configuration of a queue. Its geometry does not change while the queue is served.
#[derive(Default)]
pub(crate) struct VringConfig {
    pub(crate) size: Option<QueueSize>,
    /// Where the parts of the ring lie. Forgotten at detach: the next driver may have its rings
    /// elsewhere, and fewer of them.
    pub(crate) addresses: Option<RingAddresses>,
    /// Where the part is in guest memory that is the used ring of a split ring, if writes to the ring
    /// are to be logged.
    pub(crate) log: Option<GuestAddr>,
    /// Where to begin, in the encoding of vhost, unless with a new ring. Not kept up to date while
    /// the queue is served.
    pub(crate) base: Option<u32>,
    pub(crate) kick: Option<Arc<EventFile>>,
    pub(crate) call: Option<Arc<Signal>>,
    pub(crate) err: Option<Arc<Signal>>,
    /// Microseconds for which the worker may look at the ring when it is empty.
    pub(crate) poll_us: u32,
    /// Which worker serves it.
    pub(crate) worker: usize,
    /// What was counted until the queue was last stopped.
    pub(crate) past: Stats,
}

impl VringConfig {
    /// Returns whether all is there that the queue needs to be served.
    pub(crate) fn is_configured(&self) -> bool {
        self.size.is_some() && self.addresses.is_some()
    }
}

/// Where the parts of a ring lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingAddresses {
    /// In the owner.
    Owner(Parts<HostAddr>),
    /// In guest memory that is pinned ahead.
    #[cfg_attr(not(CONFIG_VHOST_BLK_RS_VDPA), expect(dead_code))]
    Guest(Parts<GuestAddr>),
}

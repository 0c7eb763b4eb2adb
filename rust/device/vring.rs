// SPDX-License-Identifier: GPL-2.0

//! The configuration of a queue.

use crate::sys::eventfd::{
    EventFile,
    EventSignal, //
};
use kernel::sync::Arc;
use vblk_core::{
    addr::HostAddr,
    queue::{
        Parts,
        QueueSize, //
    },
};

/// The configuration of a queue. Its geometry does not change while the queue is served.
#[derive(Default)]
pub(crate) struct VringConfig {
    pub(crate) size: Option<QueueSize>,
    /// Where the parts of the ring lie in the owner. Forgotten at detach: the next driver may have
    /// its rings elsewhere, and fewer of them.
    pub(crate) addresses: Option<Parts<HostAddr>>,
    /// Where to begin, in the encoding of vhost, unless with a new ring. Not kept up to date while
    /// the queue is served.
    pub(crate) base: Option<u32>,
    pub(crate) kick: Option<Arc<EventFile>>,
    pub(crate) call: Option<Arc<EventSignal>>,
    pub(crate) err: Option<Arc<EventSignal>>,
    /// Which worker serves it.
    pub(crate) worker: usize,
}

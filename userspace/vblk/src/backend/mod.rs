// SPDX-License-Identifier: GPL-2.0

//! The two back-ends that serve a disk: the kernel module, and a thread of this process.
//!
//! Both take the same rings, eventfds and features and answer requests byte for byte alike, so
//! that comparing them changes one word, the [`Kind`]. Neither knows of KVM.

pub mod io_uring;
pub mod vhost;

mod error;
mod interface;
mod kind;
mod open;
mod summary;
mod tracking;
mod tuning;

pub use error::Error;
pub use interface::{Backend, Offer, OfferSource, Position, QueueConfig};
pub use kind::{Kind, UnknownKind};
pub use summary::summary;
pub use tracking::{queue_bytes, TrackingMemory};
pub use tuning::{Tuning, Workers};
pub use vblk_core::{
    config::{Queues, CONFIG_BYTES},
    features::Features,
    ring::Format,
    uapi::Stats,
};

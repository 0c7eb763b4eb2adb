// SPDX-License-Identifier: GPL-2.0

//! A vhost back-end that serves a guest's virtio-blk disk inside the host kernel.
//!
//! What a guest or a VMM says is parsed and judged in the crate `vblk_core`, which has no `unsafe`.
//! What the kernel offers is wrapped in [`sys`], which has all of it and knows no virtio. The files
//! beside this one combine the two:
//!
//! - [`device`] and [`ioctl`]: what an open file of `/dev/vhost-blk-rs` is asked to do;
//! - [`attached`]: from configured rings to queues that are served, and back;
//! - [`config_notifier`]: tells the owner when the disk becomes another one;
//! - [`pool`], [`server`] and [`turn`]: the worker thread takes requests from the rings;
//! - [`executor`] and [`units`]: a request becomes I/O;
//! - [`completion`] and [`reply`]: I/O becomes an answer, wherever the block layer finishes it.

#![deny(unsafe_code)]

use kernel::prelude::*;

mod attached;
mod completion;
mod config_notifier;
mod device;
mod executor;
mod ioctl;
mod memory;
mod pool;
mod reply;
mod server;
mod sys;
mod turn;
mod units;

use device::Device;
use sys::char_device::Registration;

module! {
    type: VhostBlk,
    name: "vhost_blk_rs",
    authors: ["The vhost-blk-rs authors"],
    description: "Host kernel accelerator for virtio-blk",
    license: "GPL",
}

#[pin_data]
struct VhostBlk {
    #[pin]
    device: Registration<Device>,
}

impl kernel::InPlaceModule for VhostBlk {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            device <- Registration::new(module),
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A vhost back-end that serves a guest's virtio-blk disk inside the host kernel.
//!
//! Everything that a guest or a VMM can choose is parsed and judged in the crate `vblk_core`, which has
//! no `unsafe`. The rest is in storeys; each imports from those below it only:
//!
//! - [`frontend`]: an interface of user space: who may do what, decoding;
//! - [`device`]: what is configured and attached, and the threads that serve it;
//! - [`queue`]: one virtqueue, from a kick to used entries;
//! - [`memory`]: guest memory, behind one trait;
//! - [`sys`]: one mechanism of the kernel a file, with all of the `unsafe`; it knows no virtio.

#![deny(unsafe_code)]

use kernel::prelude::*;

mod device;
mod frontend;
mod memory;
mod queue;
mod sys;

use frontend::vhost::OpenFile;
use sys::char_device::Registration;

module! {
    type: VhostBlk,
    name: "vhost_blk_rs",
    authors: ["The vhost-blk-rs authors"],
    description: "Host kernel accelerator for virtio-blk",
    license: "GPL",
    params: {
        fork_from_owner_default: u8 {
            default: 1,
            description: "Worker threads: 1 vhost tasks of the owner, 0 kernel threads",
        },
    },
}

#[pin_data]
struct VhostBlk {
    #[pin]
    device: Registration<OpenFile>,
    /// Unregistered last: commands on the device need it.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    vdpa: frontend::vdpa::Bus,
}

impl kernel::InPlaceModule for VhostBlk {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        #[cfg(CONFIG_VHOST_BLK_RS_KUNIT_TEST)]
        sys::kunit::take_eventfds();
        try_pin_init!(Self {
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            vdpa: frontend::vdpa::Bus::new()?,
            device <- Registration::new(module),
        })
    }
}

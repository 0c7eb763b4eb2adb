// SPDX-License-Identifier: GPL-2.0

//! Clients of vhost-user that others wrote.

use crate::{
    context::{tests, Context, Outcome, Test},
    disk::Disk,
    fixtures::{
        bridge::Bridge,
        clients::{self, Data, BYTES},
    },
    sys::map::Mapping,
};
use std::os::fd::{AsFd, AsRawFd};
use vblk::testing::front_end::shared_file;
use vblk_core::features::{bit, Features};
use virtio_driver::VhostUser;

pub const TESTS: &[Test] = tests!["bridge":
    the_crate_virtio_driver_by_eventfd(40),
    the_crate_virtio_driver_polling(40),
    the_crate_blkio_by_eventfd(40),
    the_crate_blkio_polling(40),
];

fn client(context: &Context, is_polled: bool, without: u64) -> Outcome {
    let disk = Disk::ram();
    disk.write(0, &vec![0; BYTES])?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let file = shared_file(BYTES as u64);
    let mut memory = Mapping::shared(file.as_fd(), BYTES)?;
    let path = bridge.socket().to_str().ok_or("path")?;
    let mut transport = VhostUser::new(path, Features::SUPPORTED.0 & !without)?;
    let data = Data {
        bytes: memory.bytes_mut(),
        file: file.as_raw_fd(),
    };
    clients::drive(context, &mut transport, data, is_polled, &disk)?;
    drop(transport);
    bridge.end()
}

fn the_crate_virtio_driver_by_eventfd(context: &Context) -> Outcome {
    client(context, false, 1 << bit::RING_PACKED)?;
    client(context, false, 0)
}

fn the_crate_virtio_driver_polling(context: &Context) -> Outcome {
    client(context, true, 1 << bit::RING_PACKED)?;
    client(context, true, 0)
}

fn library(context: &Context, is_polled: bool) -> Outcome {
    let disk = clients::disk_for_blkio()?;
    let bridge = Bridge::on(disk.path(), &[])?;
    let file = shared_file(BYTES as u64);
    let mut memory = Mapping::shared(file.as_fd(), BYTES)?;
    let path = bridge.socket().to_str().ok_or("path")?;
    let client = clients::blkio("virtio-blk-vhost-user", path)?;
    let data = Data {
        bytes: memory.bytes_mut(),
        file: file.as_raw_fd(),
    };
    clients::drive_blkio(context, client, data, is_polled, &disk)?;
    bridge.end()
}

fn the_crate_blkio_by_eventfd(context: &Context) -> Outcome {
    library(context, false)
}

fn the_crate_blkio_polling(context: &Context) -> Outcome {
    library(context, true)
}

// SPDX-License-Identifier: GPL-2.0

//! Clients of vhost-vdpa that others wrote.

use crate::{
    fixtures::clients::{self, Data, BLOCK, BYTES, QUEUES},
    prelude::*,
    sys::process,
    vhost_vdpa::VdpaDevice,
};
use std::error::Error;
use vblk_core::{
    features::Features,
    uapi::{VdpaAdd, VDPA_PACKED},
};
use virtio_driver::VhostVdpa;

pub const TESTS: &[Test] = tests!["vdpa":
    the_crate_virtio_driver_by_eventfd(40),
    the_crate_virtio_driver_polling(40),
    the_crate_blkio_by_eventfd(40),
    the_crate_blkio_polling(40),
];

/// Makes a device on a disk that is empty where the clients use it. Returns its node too.
fn device_on(disk: &Disk, flags: u32) -> Result<(VdpaDevice, String), Box<dyn Error>> {
    disk.write(0, &vec![0; BYTES])?;
    process::limit_locked_memory(u64::MAX)?;
    let add = VdpaAdd {
        flags,
        queues: QUEUES as u32,
        queue_size: 256,
        ..VdpaAdd::default()
    };
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add)?;
    let node = device.node()?.to_str().ok_or("path")?.to_owned();
    Ok((device, node))
}

fn client(context: &Context, is_polled: bool, flags: u32) -> Outcome {
    let disk = Disk::ram();
    let (_device, node) = device_on(&disk, flags)?;
    let features = Features::MAPPED.0;
    let mut vdpa = VhostVdpa::with_path(&node, features).map_err(|e| format!("{e:?}"))?;
    let mut room = vec![0; BYTES + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let data = Data {
        bytes: &mut room[start..start + BYTES],
        file: -1,
    };
    clients::drive(context, &mut vdpa, data, is_polled, &disk)?;
    drop(vdpa);
    Ok(())
}

fn the_crate_virtio_driver_by_eventfd(context: &Context) -> Outcome {
    client(context, false, 0)?;
    client(context, false, VDPA_PACKED)
}

fn the_crate_virtio_driver_polling(context: &Context) -> Outcome {
    client(context, true, 0)?;
    client(context, true, VDPA_PACKED)
}

fn library(context: &Context, is_polled: bool, flags: u32) -> Outcome {
    let disk = clients::disk_for_blkio()?;
    let (_device, node) = device_on(&disk, flags)?;
    let mut room = vec![0; BYTES + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let data = Data {
        bytes: &mut room[start..start + BYTES],
        file: -1,
    };
    let client = clients::blkio("virtio-blk-vhost-vdpa", &node)?;
    clients::drive_blkio(context, client, data, is_polled, &disk)
}

fn the_crate_blkio_by_eventfd(context: &Context) -> Outcome {
    library(context, false, 0)?;
    library(context, false, VDPA_PACKED)
}

fn the_crate_blkio_polling(context: &Context) -> Outcome {
    library(context, true, 0)?;
    library(context, true, VDPA_PACKED)
}

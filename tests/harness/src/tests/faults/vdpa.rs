// SPDX-License-Identifier: GPL-2.0

//! vDPA devices that are made, and drivers that begin to use one, where memory runs out.

use crate::{
    fail_nth::{FailNth, MOST},
    fixtures::vdpa::{plain, Used, CANARY},
    prelude::*,
    vhost_vdpa::{status, VdpaDevice},
};
use vblk_core::uapi::VDPA_HOST;

pub const TESTS: &[Test] = tests!["vdpa":
    making_survives_each_failure(60),
    making_for_the_host_survives_each_failure(120),
    starting_survives_each_failure(60),
];

/// Allocations before virtio_blk has its queues.
const OURS: u32 = 200;

/// A device is there as a whole, or not at all: its disk can be used for another.
fn making_survives_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::ram();
    let faults = FailNth::of_this_thread()?;
    let mut failures = 0;
    for nth in 1..MOST {
        let file = disk.open(Mode::ReadWrite)?;
        faults.arm(nth)?;
        let device = VdpaDevice::new(&file, plain(2, 0));
        let failed = faults.disarm()?;
        match device {
            // A driver that can't have it is no failure of the device.
            Ok(device) => device.delete()?,
            Err(error) => {
                assert!(failed, "{error} without a fault");
                let expected = [Errno::ENOMEM, Errno::EFAULT];
                assert!(expected.contains(&error), "fault {nth}: {error}");
                failures += 1;
            }
        }
        if !failed {
            break;
        }
    }
    assert!(failures > 5, "{failures}");
    Used::started(&disk, 0)?.works()
}

/// The host's driver has a disk that works, or hears that it can't have one, and can have it when it tries
/// again: nothing waits for answers of a device that could not begin.
fn making_for_the_host_survives_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::ram();
    disk.write(0, &[CANARY; 4096])?;
    let faults = FailNth::of_this_thread()?;
    let (mut refused, mut without) = (0, 0);
    // The device and its queues have less than so many; the rest are virtio_blk's and the block layer's.
    for nth in (1..OURS).chain((OURS..MOST).step_by(61)) {
        let file = disk.open(Mode::ReadWrite)?;
        faults.arm(nth)?;
        let device = VdpaDevice::new(&file, plain(1, VDPA_HOST));
        let failed = faults.disarm()?;
        match device {
            Ok(device) => {
                let mut found = device.host_disk()?;
                if found.is_none() && device.is_of_virtio()? {
                    without += 1;
                    let again = device.bind_again();
                    again.map_err(|error| format!("fault {nth}, again: {error}"))?;
                    found = device.host_disk()?;
                    assert!(found.is_some(), "fault {nth}: no disk");
                }
                if let Some((host, _)) = found {
                    let read = host.read(0, 4096)?;
                    assert!(read == [CANARY; 4096], "fault {nth}: another content");
                }
                device.delete()?;
            }
            Err(error) => {
                assert!(failed, "{error} without a fault");
                refused += 1;
            }
        }
        if !failed {
            break;
        }
    }
    assert!(refused > 5 && without > 5, "{refused}, {without}");
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, plain(1, VDPA_HOST))?;
    assert!(device.host_disk()?.is_some());
    device.delete()?;
    Ok(())
}

/// A driver that can't begin hears of it, and can after a reset.
fn starting_survives_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let faults = FailNth::of_this_thread()?;
    let mut used = Used::started(&Disk::ram(), 0)?;
    used.works()?;
    let mut failures = 0;
    for nth in 1..MOST {
        faults.arm(nth)?;
        let result = used.restart();
        let failed = faults.disarm()?;
        if result.is_err() || used.node.status()? & status::NEEDS_RESET != 0 {
            assert!(failed, "{result:?} without a fault");
            failures += 1;
            let again = used.restart();
            again.map_err(|error| format!("fault {nth}, again: {error}"))?;
        }
        used.works()?;
        if !failed {
            break;
        }
    }
    assert!(failures > 5, "{failures}");
    Ok(())
}

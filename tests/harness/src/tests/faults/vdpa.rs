// SPDX-License-Identifier: GPL-2.0

//! vDPA devices that are made, and drivers that begin to use one, where memory runs out.

use crate::{
    context::{Context, Outcome, Test},
    disk::{Disk, Mode},
    fail_nth::{FailNth, MOST},
    fixtures::vdpa::{plain, Used},
    sys::Errno,
    vhost_vdpa::{status, VdpaDevice},
};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "vdpa/making_survives_each_failure", limit: 60, run: made },
    Test { name: "vdpa/starting_survives_each_failure", limit: 60, run: started },
];

/// A device is there as a whole, or not at all: its disk can be used for another.
fn made(context: &Context) -> Outcome {
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

/// A driver that can't begin hears of it, and can after a reset.
fn started(context: &Context) -> Outcome {
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

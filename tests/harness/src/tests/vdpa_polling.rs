// SPDX-License-Identifier: GPL-2.0

//! Polling that the maker of a vDPA device asks for.

use crate::{
    fixtures::{
        vdpa::{plain, Used},
        worker::{in_another_thread, part_from_workers, LONG_POLL_US},
    },
    prelude::*,
    vhost_vdpa::info,
};
use vblk_core::uapi::VdpaAdd;

pub const TESTS: &[Test] = tests!["vdpa":
    a_polled_ring_needs_no_kicks(40),
];

fn a_polled_ring_needs_no_kicks(context: &Context) -> Outcome {
    in_another_thread(|| kicks_are_seldom(context).map_err(|e| e.to_string()))?;
    Ok(())
}

fn kicks_are_seldom(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let count = context.times(400);
    for poll_us in [LONG_POLL_US, 0] {
        let add = VdpaAdd {
            poll_us,
            ..plain(1, 0)
        };
        let mut used = Used::prepared_on(&disk.open(Mode::ReadWrite)?, add)?;
        used.start(used.driver.base())?;
        assert_eq!(info()?.poll_us, poll_us);
        // What the administrator chose outlives a reset.
        used.restart()?;
        used.works()?;
        part_from_workers()?;
        let before = used.device.stats(0)?.kicks;
        for _ in 0..count {
            used.works()?;
        }
        let kicks = used.device.stats(0)?.kicks - before;
        let is_polled = kicks < count / 2;
        assert_eq!(
            is_polled,
            poll_us != 0,
            "{kicks} kicks for {count} requests"
        );
    }
    Ok(())
}

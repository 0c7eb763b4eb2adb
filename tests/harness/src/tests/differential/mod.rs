// SPDX-License-Identifier: GPL-2.0

//! The same random requests, good and bad, through the kernel module and through the launcher's
//! io_uring back-end, on two disks that are alike: disks, guest memory, status bytes, used
//! entries and counters must stay alike.

mod features;
mod layout;
mod open;
pub mod packed;
mod page_cache;
mod pair;
mod priority;
mod recipe;
mod side;

use crate::prelude::*;
use features::on_split_rings;
use page_cache::page_cache_of_the_host;
use pair::compare;
use priority::priorities;
use recipe::Recipes;
use vblk::backend::Features;
use vblk_core::features::bit;

pub const TESTS: &[Test] = tests!["differential":
    reads_and_writes(90),
    reads_and_writes_without_optional_features(90),
    requests_that_fail(90),
    random_descriptors(90),
    random_descriptors_without_indirect(90),
    page_cache_of_the_host(30),
    priorities(30),
];

fn reads_and_writes(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 200, Recipes::good_batch)
}

fn reads_and_writes_without_optional_features(context: &Context) -> Outcome {
    // Without FLUSH writes must be durable, too.
    let features = Features(1 << bit::VERSION_1);
    compare(context, features, 200, Recipes::good_batch)
}

fn requests_that_fail(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 400, Recipes::failing_batch)
}

fn random_descriptors(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 4000, |recipes| {
        vec![recipes.soup()]
    })
}

fn random_descriptors_without_indirect(context: &Context) -> Outcome {
    let features = Features(on_split_rings().0 & !(1 << bit::RING_INDIRECT_DESC));
    compare(context, features, 2000, |recipes| vec![recipes.soup()])
}

// SPDX-License-Identifier: GPL-2.0

//! All tests, in the order in which they run: simple ones first.

mod arguments;
mod block_errors;
mod charged;
mod descriptors;
mod differential;
mod dirty_pages;
mod durability;
mod fairness;
mod faults;
mod flight;
mod flip;
mod flushes;
mod fua;
mod hostile;
mod integrity;
mod ioctls;
mod killed;
mod late;
mod long_zeroes;
mod malformed;
mod many_queues;
mod notify;
mod owner;
mod packed;
mod partition;
mod placement;
mod priority;
mod protected;
mod race;
mod ranges;
mod reconfigure;
mod requests;
mod resize;
mod secure_erase;
mod soup;
mod states;
mod teardown;
mod topology;
mod truncated;
mod vanishing;

use crate::{
    child::Role,
    context::{
        Case,
        Test, //
    },
};
use vblk_core::ring::Format;

/// All tests, on each format of rings that they can have.
pub fn all() -> impl Iterator<Item = Case> {
    let on = |tests: Vec<&'static [Test]>, format| {
        let case = move |test| Case { test, format };
        tests.into_iter().flatten().map(case)
    };
    on(on_split_rings(), Format::Split).chain(on(on_packed_rings(), Format::Packed))
}

/// Those that know no format, and those that are about split rings or about none.
fn on_split_rings() -> Vec<&'static [Test]> {
    vec![
        requests::TESTS,
        ranges::TESTS,
        long_zeroes::TESTS,
        secure_erase::TESTS,
        secure_erase::WITHOUT_RINGS,
        partition::TESTS,
        fua::TESTS,
        flushes::TESTS,
        priority::TESTS,
        topology::TESTS,
        placement::TESTS,
        truncated::TESTS,
        protected::TESTS,
        dirty_pages::TESTS,
        ioctls::TESTS,
        arguments::TESTS,
        owner::TESTS,
        charged::TESTS,
        states::TESTS,
        descriptors::TESTS,
        malformed::TESTS,
        hostile::TESTS,
        soup::TESTS,
        flip::TESTS,
        many_queues::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        integrity::ON_SPLIT_RINGS,
        block_errors::TESTS,
        block_errors::INJECTED,
        vanishing::TESTS,
        durability::TESTS,
        durability::LOGGED,
        faults::IOCTLS,
        faults::REQUESTS,
        faults::LOADING,
        reconfigure::TESTS,
        resize::TESTS,
        flight::TESTS,
        late::TESTS,
        killed::TESTS,
        fairness::TESTS,
        teardown::TESTS,
        differential::TESTS,
    ]
}

/// Those that know no format, and those that are about packed rings.
fn on_packed_rings() -> Vec<&'static [Test]> {
    vec![
        packed::TESTS,
        soup::TESTS,
        flip::TESTS,
        requests::TESTS,
        ranges::TESTS,
        long_zeroes::TESTS,
        secure_erase::TESTS,
        partition::TESTS,
        fua::TESTS,
        placement::TESTS,
        truncated::TESTS,
        protected::TESTS,
        many_queues::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        block_errors::TESTS,
        reconfigure::TESTS,
        flight::TESTS,
        late::TESTS,
        differential::ON_PACKED_RINGS,
    ]
}

/// All roles of child processes.
pub fn roles() -> impl Iterator<Item = &'static Role> {
    [
        owner::ROLES,
        charged::ROLES,
        states::ROLES,
        teardown::ROLES,
        killed::ROLES,
    ]
    .into_iter()
    .flatten()
}

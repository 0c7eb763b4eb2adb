// SPDX-License-Identifier: GPL-2.0

//! Lists of all tests, in the order in which they run: simple ones first.

mod alignment;
mod arguments;
mod block_errors;
mod bridge;
mod bridge_clients;
mod bridge_killed;
mod bridge_log;
mod charged;
mod descriptors;
mod differential;
mod dirty_log;
mod dirty_pages;
mod durability;
mod fairness;
mod faults;
mod flushes;
mod forgotten_rings;
mod fua;
mod hostile;
mod in_flight;
mod in_flight_limits;
mod integrity;
mod ioctls;
mod killed;
mod late_status;
mod long_zeroes;
mod malformed;
mod many_queues;
mod memory_pinned;
mod mutating_guest;
mod notify;
mod owner;
mod packed;
mod page_cache;
mod partition;
mod placement;
mod polling;
mod priority;
mod protected;
mod race;
mod random_chains;
mod ranges;
mod reconfigure;
mod requests;
mod resize;
mod secure_erase;
mod states;
mod teardown;
mod topology;
mod truncated;
mod unreachable;
mod vanishing;
mod vdpa;
mod vdpa_clients;
mod vdpa_host;
mod vdpa_memory;
mod vdpa_polling;
mod vdpa_states;
mod wakeups;
mod worker_placement;
mod workers;

use crate::{
    child::Role,
    context::{Case, Pinning, Test},
};
use vblk_core::ring::Format;

/// Returns all tests, on each format of rings and with each kind of memory that they can have.
pub fn all() -> impl Iterator<Item = Case> {
    let on = |tests: Vec<&'static [Test]>, format, pinning| {
        let case = move |test| Case {
            test,
            format,
            pinning,
            is_polled: false,
        };
        tests.into_iter().flatten().map(case)
    };
    let lists = [
        on(on_split_rings(), Format::Split, Pinning::PerRequest),
        on(on_packed_rings(), Format::Packed, Pinning::PerRequest),
        on(on_pinned_memory(), Format::Split, Pinning::Ahead),
        on(packed_and_pinned(), Format::Packed, Pinning::Ahead),
        on(by_vdpa(), Format::Split, Pinning::Mapped),
        on(by_vdpa_on_packed_rings(), Format::Packed, Pinning::Mapped),
    ];
    let polled = on(polled_rings(), Format::Split, Pinning::PerRequest).map(|case| Case {
        is_polled: true,
        ..case
    });
    let last = on(vec![teardown::LAST], Format::Split, Pinning::PerRequest);
    lists.into_iter().flatten().chain(polled).chain(last)
}

/// Returns the tests that know no format, and those that are about split rings or about none.
fn on_split_rings() -> Vec<&'static [Test]> {
    vec![
        dirty_log::TESTS,
        requests::TESTS,
        ranges::TESTS,
        ranges::OF_VHOST,
        long_zeroes::TESTS,
        long_zeroes::ON_ANOTHER_TABLE,
        secure_erase::TESTS,
        secure_erase::OF_VHOST,
        secure_erase::WITHOUT_RINGS,
        partition::TESTS,
        fua::TESTS,
        flushes::TESTS,
        priority::TESTS,
        topology::TESTS,
        alignment::TESTS,
        alignment::ON_SWITCHED_MEMORY,
        wakeups::TESTS,
        polling::TESTS,
        vdpa_polling::TESTS,
        placement::TESTS,
        truncated::TESTS,
        protected::TESTS,
        dirty_pages::TESTS,
        ioctls::TESTS,
        arguments::TESTS,
        memory_pinned::TESTS,
        forgotten_rings::TESTS,
        unreachable::TESTS,
        unreachable::ON_ANY_MEMORY,
        page_cache::TESTS,
        owner::TESTS,
        workers::TESTS,
        worker_placement::TESTS,
        worker_placement::VDPA,
        charged::TESTS,
        states::TESTS,
        descriptors::TESTS,
        malformed::TESTS,
        hostile::TESTS,
        random_chains::TESTS,
        mutating_guest::TESTS,
        many_queues::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        integrity::OF_WORKERS,
        integrity::ON_SPLIT_RINGS,
        block_errors::TESTS,
        block_errors::INJECTED,
        vanishing::TESTS,
        vanishing::ON_ANOTHER_TABLE,
        durability::TESTS,
        durability::LOGGED,
        faults::IOCTLS,
        faults::REQUESTS,
        faults::LOADING,
        faults::FRAGMENTED,
        reconfigure::TESTS,
        reconfigure::ON_ANOTHER_TABLE,
        resize::TESTS,
        in_flight::TESTS,
        in_flight::ON_ANOTHER_TABLE,
        late_status::TESTS,
        late_status::ON_ANOTHER_TABLE,
        in_flight_limits::TESTS,
        killed::TESTS,
        killed::WITHOUT_A_PAGE,
        fairness::TESTS,
        teardown::TESTS,
        teardown::OF_OWNERS,
        teardown::OF_THE_MODULE,
        vdpa::TESTS,
        vdpa_states::TESTS,
        vdpa_memory::TESTS,
        vdpa_host::TESTS,
        vdpa_clients::TESTS,
        bridge::TESTS,
        bridge::CONFORMANCE,
        bridge_killed::TESTS,
        bridge_log::TESTS,
        bridge_clients::TESTS,
        faults::VDPA,
        differential::TESTS,
    ]
}

/// Returns the tests that know no format, and those that are about packed rings.
fn on_packed_rings() -> Vec<&'static [Test]> {
    vec![
        dirty_log::TESTS,
        packed::TESTS,
        random_chains::TESTS,
        mutating_guest::TESTS,
        requests::TESTS,
        ranges::TESTS,
        ranges::OF_VHOST,
        long_zeroes::TESTS,
        long_zeroes::ON_ANOTHER_TABLE,
        secure_erase::TESTS,
        secure_erase::OF_VHOST,
        partition::TESTS,
        fua::TESTS,
        placement::TESTS,
        truncated::TESTS,
        protected::TESTS,
        many_queues::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        integrity::OF_WORKERS,
        block_errors::TESTS,
        reconfigure::TESTS,
        reconfigure::ON_ANOTHER_TABLE,
        in_flight::TESTS,
        in_flight::ON_ANOTHER_TABLE,
        late_status::TESTS,
        late_status::ON_ANOTHER_TABLE,
        forgotten_rings::TESTS,
        unreachable::TESTS,
        unreachable::ON_ANY_MEMORY,
        in_flight_limits::TESTS,
        differential::packed::TESTS,
    ]
}

/// Returns the tests that know no kind of memory, and those that are about memory pinned ahead.
fn on_pinned_memory() -> Vec<&'static [Test]> {
    vec![
        dirty_log::TESTS,
        requests::TESTS,
        ranges::TESTS,
        ranges::OF_VHOST,
        malformed::TESTS,
        hostile::TESTS,
        random_chains::TESTS,
        mutating_guest::TESTS,
        integrity::TESTS,
        integrity::OF_WORKERS,
        reconfigure::TESTS,
        reconfigure::ON_ANOTHER_TABLE,
        in_flight::TESTS,
        in_flight::ON_ANOTHER_TABLE,
        late_status::TESTS,
        late_status::ON_ANOTHER_TABLE,
        alignment::TESTS,
        wakeups::TESTS,
        in_flight_limits::TESTS,
        unreachable::ON_ANY_MEMORY,
        forgotten_rings::TESTS,
        killed::TESTS,
        teardown::TESTS,
        teardown::OF_OWNERS,
    ]
}

/// Returns the tests of [`on_pinned_memory`] that know no format.
fn packed_and_pinned() -> Vec<&'static [Test]> {
    vec![
        dirty_log::TESTS,
        integrity::TESTS,
        integrity::OF_WORKERS,
        in_flight::TESTS,
        in_flight::ON_ANOTHER_TABLE,
    ]
}

/// Returns the tests that a device passes too that is served through vhost-vdpa. It has no error
/// eventfd, its rings lie in memory that stays mapped, and it offers only what its disk can do.
fn by_vdpa() -> Vec<&'static [Test]> {
    vec![
        requests::TESTS,
        ranges::TESTS,
        long_zeroes::TESTS,
        secure_erase::TESTS,
        partition::TESTS,
        fua::TESTS,
        flushes::TESTS,
        alignment::TESTS,
        wakeups::TESTS,
        malformed::TESTS,
        hostile::TESTS,
        random_chains::TESTS,
        mutating_guest::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        block_errors::TESTS,
        vanishing::TESTS,
        durability::TESTS,
        faults::REQUESTS,
        reconfigure::TESTS,
        in_flight::TESTS,
        late_status::TESTS,
        in_flight_limits::TESTS,
        teardown::TESTS,
    ]
}

/// Returns the tests of [`by_vdpa`] that know no format.
fn by_vdpa_on_packed_rings() -> Vec<&'static [Test]> {
    vec![
        requests::TESTS,
        random_chains::TESTS,
        mutating_guest::TESTS,
        race::TESTS,
        integrity::TESTS,
        reconfigure::TESTS,
        in_flight::TESTS,
        late_status::TESTS,
    ]
}

/// Returns the tests of [`on_split_rings`] in which much happens while a ring is empty.
fn polled_rings() -> Vec<&'static [Test]> {
    vec![
        mutating_guest::TESTS,
        race::TESTS,
        integrity::TESTS,
        integrity::OF_WORKERS,
        reconfigure::TESTS,
        reconfigure::ON_ANOTHER_TABLE,
        killed::TESTS,
        teardown::TESTS,
        teardown::OF_OWNERS,
    ]
}

/// Returns all roles of child processes.
pub fn roles() -> impl Iterator<Item = &'static Role> {
    [
        owner::ROLES,
        memory_pinned::ROLES,
        worker_placement::ROLES,
        charged::ROLES,
        states::ROLES,
        teardown::ROLES,
        killed::ROLES,
        vdpa::ROLES,
    ]
    .into_iter()
    .flatten()
}

// SPDX-License-Identifier: GPL-2.0

//! All tests, in the order in which they run: simple ones first.

mod arguments;
mod differential;
mod hostile;
mod integrity;
mod ioctls;
mod malformed;
mod notify;
mod owner;
mod placement;
mod race;
mod reconfigure;
mod requests;
mod teardown;

use crate::{
    child::Role,
    context::Test, //
};

/// All tests.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        requests::TESTS,
        placement::TESTS,
        ioctls::TESTS,
        arguments::TESTS,
        owner::TESTS,
        malformed::TESTS,
        hostile::TESTS,
        notify::TESTS,
        race::TESTS,
        integrity::TESTS,
        reconfigure::TESTS,
        teardown::TESTS,
        differential::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// All roles of child processes.
pub fn roles() -> impl Iterator<Item = &'static Role> {
    [owner::ROLES, teardown::ROLES].into_iter().flatten()
}

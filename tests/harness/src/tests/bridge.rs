// SPDX-License-Identifier: GPL-2.0

//! `vblk serve` with the module: the cases that it has to do with any back-end.

use crate::{
    context::{tests, Context, Outcome, Test},
    disk::Disk,
    fixtures::bridge::Bridge,
};
use vblk::testing::conformance::{still_serves, CASES};

pub const TESTS: &[Test] = tests!["bridge":
    no_case_of_the_conformance_is_left_out(20),
];

/// Makes a test of each case, which has the case's name, and lists them as `tests!` does.
macro_rules! cases {
    [$layer:literal: $($case:ident($limit:literal)),+ $(,)?] => {
        pub const CONFORMANCE: &[Test] = tests![$layer: $($case($limit)),+];
        $(fn $case(_: &Context) -> Outcome {
            conforms(stringify!($case))
        })+
    };
}

cases!["bridge":
    data_is_written_and_read_by_both_formats(60),
    positions_are_kept_over_a_stop(60),
    rings_start_and_stop_one_by_one(60),
    a_ring_needs_its_kick_and_its_switch(60),
    memory_is_replaced_while_rings_are_served(60),
    memory_is_added_and_removed_while_rings_are_served(60),
    memory_that_is_none_is_refused(60),
    rings_that_are_none_are_refused(60),
    a_bad_ring_leaves_the_others_alone(60),
    features_are_within_the_offer(60),
    the_configuration_space_and_its_switch(60),
    what_was_not_agreed_on_is_refused(60),
    messages_of_a_wrong_size(60),
    messages_with_wrong_descriptors(60),
    messages_that_are_none(60),
    a_reset_forgets_the_rings(60),
    a_second_front_end_waits_for_the_first_to_go(60),
    a_front_end_may_go_after_any_message(60),
    what_was_answered_is_not_done_again(60),
];

fn no_case_of_the_conformance_is_left_out(_: &Context) -> Outcome {
    let names = CONFORMANCE.iter().map(Test::behaviour);
    assert!(
        CASES.iter().map(|(name, _)| *name).eq(names),
        "other cases than tests"
    );
    Ok(())
}

/// Runs a case, and looks whether the bridge is none the worse for it.
fn conforms(name: &str) -> Outcome {
    let (_, case) = CASES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or("no such case")?;
    let disk = Disk::ram();
    let bridge = Bridge::on(disk.path(), &[])?;
    case(bridge.socket());
    still_serves(bridge.socket());
    bridge.end()
}

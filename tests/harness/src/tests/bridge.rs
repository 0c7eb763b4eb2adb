// SPDX-License-Identifier: GPL-2.0

//! `vblk serve` with the module: the cases that it has to do with any back-end.

use crate::{
    context::{Context, Outcome, Test},
    disk::Disk,
    fixtures::bridge::Bridge,
};
use vblk::testing::conformance::{still_serves, CASES};

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

macro_rules! conformance {
    ($($name:ident)*) => {
        $(
            fn $name(_: &Context) -> Outcome {
                conforms(stringify!($name))
            }
        )*

        pub const TESTS: &[Test] = &[
            Test {
                name: "bridge/no_case_of_the_conformance_is_left_out",
                limit: 20,
                run: |_| {
                    let names = [$(stringify!($name)),*];
                    assert!(CASES.iter().map(|(name, _)| *name).eq(names));
                    Ok(())
                },
            },
            $(
                Test {
                    name: concat!("bridge/", stringify!($name)),
                    limit: 60,
                    run: $name,
                },
            )*
        ];
    };
}

conformance! {
    data_is_written_and_read_by_both_formats
    positions_are_kept_over_a_stop
    rings_start_and_stop_one_by_one
    a_ring_needs_its_kick_and_its_switch
    memory_is_replaced_while_rings_are_served
    memory_is_added_and_removed_while_rings_are_served
    memory_that_is_none_is_refused
    rings_that_are_none_are_refused
    a_bad_ring_leaves_the_others_alone
    features_are_within_the_offer
    the_configuration_space_and_its_switch
    what_was_not_agreed_on_is_refused
    messages_of_a_wrong_size
    messages_with_wrong_descriptors
    messages_that_are_none
    a_reset_forgets_the_rings
    a_second_front_end_waits_for_the_first_to_go
    a_front_end_may_go_after_any_message
    what_was_answered_is_not_done_again
}

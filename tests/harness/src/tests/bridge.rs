// SPDX-License-Identifier: GPL-2.0

//! `vblk serve` with the module: the cases that it has to do with any back-end.

use crate::{
    context::{Context, Outcome, Test},
    disk::Disk,
    fixtures::bridge::Bridge,
};
use vblk::testing::conformance::{still_serves, CASES};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "bridge/no_case_of_the_conformance_is_left_out", limit: 20, run: all },
    Test { name: "bridge/data_is_written_and_read_by_both_formats", limit: 60, run: |_| conforms("data_is_written_and_read_by_both_formats") },
    Test { name: "bridge/positions_are_kept_over_a_stop", limit: 60, run: |_| conforms("positions_are_kept_over_a_stop") },
    Test { name: "bridge/rings_start_and_stop_one_by_one", limit: 60, run: |_| conforms("rings_start_and_stop_one_by_one") },
    Test { name: "bridge/a_ring_needs_its_kick_and_its_switch", limit: 60, run: |_| conforms("a_ring_needs_its_kick_and_its_switch") },
    Test { name: "bridge/memory_is_replaced_while_rings_are_served", limit: 60, run: |_| conforms("memory_is_replaced_while_rings_are_served") },
    Test { name: "bridge/memory_is_added_and_removed_while_rings_are_served", limit: 60, run: |_| conforms("memory_is_added_and_removed_while_rings_are_served") },
    Test { name: "bridge/memory_that_is_none_is_refused", limit: 60, run: |_| conforms("memory_that_is_none_is_refused") },
    Test { name: "bridge/rings_that_are_none_are_refused", limit: 60, run: |_| conforms("rings_that_are_none_are_refused") },
    Test { name: "bridge/a_bad_ring_leaves_the_others_alone", limit: 60, run: |_| conforms("a_bad_ring_leaves_the_others_alone") },
    Test { name: "bridge/features_are_within_the_offer", limit: 60, run: |_| conforms("features_are_within_the_offer") },
    Test { name: "bridge/the_configuration_space_and_its_switch", limit: 60, run: |_| conforms("the_configuration_space_and_its_switch") },
    Test { name: "bridge/what_was_not_agreed_on_is_refused", limit: 60, run: |_| conforms("what_was_not_agreed_on_is_refused") },
    Test { name: "bridge/messages_of_a_wrong_size", limit: 60, run: |_| conforms("messages_of_a_wrong_size") },
    Test { name: "bridge/messages_with_wrong_descriptors", limit: 60, run: |_| conforms("messages_with_wrong_descriptors") },
    Test { name: "bridge/messages_that_are_none", limit: 60, run: |_| conforms("messages_that_are_none") },
    Test { name: "bridge/a_reset_forgets_the_rings", limit: 60, run: |_| conforms("a_reset_forgets_the_rings") },
    Test { name: "bridge/a_second_front_end_waits_for_the_first_to_go", limit: 60, run: |_| conforms("a_second_front_end_waits_for_the_first_to_go") },
    Test { name: "bridge/a_front_end_may_go_after_any_message", limit: 60, run: |_| conforms("a_front_end_may_go_after_any_message") },
    Test { name: "bridge/what_was_answered_is_not_done_again", limit: 60, run: |_| conforms("what_was_answered_is_not_done_again") },
];

fn all(_: &Context) -> Outcome {
    let names = TESTS.iter().skip(1).map(|test| test.name);
    let cases = CASES.iter().map(|(name, _)| format!("bridge/{name}"));
    assert!(cases.eq(names), "other cases than tests");
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

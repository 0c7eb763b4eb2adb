// SPDX-License-Identifier: GPL-2.0

//! What any `vblk serve` has to do, whichever back-end serves its disk.
//!
//! A case gets a bridge that serves an empty disk, and a disk of at least [`DISK_BYTES`] with two
//! queues. It panics when something is wrong. After each case, [`still_serves`] has to hold.

mod connections;
mod guest;
mod memory;
mod messages;
mod rings;

pub use guest::{still_serves, DISK_BYTES};

use std::path::Path;

/// A case: its name, and what it does with the socket of a bridge.
pub type Case = (&'static str, fn(&Path));

/// All cases.
pub const CASES: &[Case] = &[
    ("data_is_written_and_read_by_both_formats", rings::data),
    ("positions_are_kept_over_a_stop", rings::positions),
    ("rings_start_and_stop_one_by_one", rings::one_by_one),
    (
        "a_ring_needs_its_kick_and_its_switch",
        rings::kick_and_switch,
    ),
    (
        "memory_is_replaced_while_rings_are_served",
        memory::other_memory,
    ),
    (
        "memory_is_added_and_removed_while_rings_are_served",
        memory::more_memory,
    ),
    ("memory_that_is_none_is_refused", memory::bad_memory),
    ("rings_that_are_none_are_refused", rings::bad_rings),
    ("a_bad_ring_leaves_the_others_alone", rings::bad_neighbour),
    ("features_are_within_the_offer", messages::features),
    ("the_configuration_space_and_its_switch", messages::config),
    ("what_was_not_agreed_on_is_refused", messages::not_agreed),
    ("messages_of_a_wrong_size", messages::wrong_sizes),
    (
        "messages_with_wrong_descriptors",
        messages::wrong_descriptors,
    ),
    ("messages_that_are_none", messages::no_messages),
    ("a_reset_forgets_the_rings", rings::reset),
    (
        "a_second_front_end_waits_for_the_first_to_go",
        connections::second,
    ),
    ("a_front_end_may_go_after_any_message", connections::hang_up),
    ("what_was_answered_is_not_done_again", rings::answered),
];

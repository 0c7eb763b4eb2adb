// SPDX-License-Identifier: GPL-2.0

//! Event indices against a reference in plain integers.

use vblk_core::notify::need_event;

const TURN: i64 = 1 << 16;

/// Returns whether an entry was written at the index that was asked for: "If the idx field in the
/// used ring (which determined where that descriptor index was placed) was equal to used_event, the
/// device MUST send a notification" (virtio 1.2, 2.7.7.2). No wrapping: the indices count from the
/// beginning of time, and the event is known only modulo 2^16.
fn reference(event: u16, old: i64, new: i64) -> bool {
    let first = old + (i64::from(event) - old).rem_euclid(TURN);
    old <= first && first < new
}

#[test]
fn every_position_with_near_events_and_short_steps() {
    for old in 0..TURN {
        for step in 0..6 {
            for offset in -8..8 {
                let (new, event) = (old + step, (old + offset) as u16);
                assert_eq!(
                    need_event(event, new as u16, old as u16),
                    reference(event, old, new),
                    "event {event} from {old} to {new}",
                );
            }
        }
    }
}

#[test]
fn every_event_with_steps_of_every_size() {
    for old in [0, 1, 2, 3, 32767, 32768, 32769, 65533, 65534, 65535] {
        for step in [0, 1, 2, 3, 255, 256, 32767, 32768, 32769, 65534, 65535] {
            for event in 0..=u16::MAX {
                let new = old + step;
                assert_eq!(
                    need_event(event, new as u16, old as u16),
                    reference(event, old, new),
                    "event {event} from {old} to {new}",
                );
            }
        }
    }
}

#[test]
fn both_answers_at_the_wrap() {
    // The entry at 65535 was asked for: passing it takes the index to 0.
    assert!(need_event(65535, 0, 65535));
    assert!(need_event(65535, 3, 65530));
    assert!(!need_event(65535, 65535, 65530));
    assert!(!need_event(65535, 1, 0));
    // The entry at 0 was asked for.
    assert!(need_event(0, 1, 0));
    assert!(need_event(0, 1, 65535));
    assert!(!need_event(0, 0, 65535));
}

#[test]
fn an_index_that_did_not_move_passes_nothing() {
    for at in 0..=u16::MAX {
        for event in [at, at.wrapping_sub(1), at.wrapping_add(1), 0, u16::MAX] {
            assert!(!need_event(event, at, at));
        }
    }
}

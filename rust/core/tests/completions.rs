// SPDX-License-Identifier: GPL-2.0

//! Counting completions, and deciding whom they wake.

use vblk_core::completions::{
    Completions,
    WakeUps, //
};

const NONE: WakeUps = WakeUps {
    waiter: false,
    worker: false,
};
const WAITER: WakeUps = WakeUps {
    waiter: true,
    worker: false,
};
const WORKER: WakeUps = WakeUps {
    waiter: false,
    worker: true,
};
const BOTH: WakeUps = WakeUps {
    waiter: true,
    worker: true,
};

#[test]
fn a_completion_that_nothing_waits_for_wakes_nothing() {
    let mut completions = Completions::default();
    for _ in 0..3 {
        assert_eq!(completions.complete(0), NONE);
    }
    assert_eq!(WakeUps::default(), NONE);
}

#[test]
fn the_last_of_all_wakes_the_waiter() {
    let mut completions = Completions::default();
    assert!(completions.await_all(0));
    assert!(!completions.await_all(3));
    assert_eq!(completions.complete(0), NONE);
    assert_eq!(completions.complete(0), NONE);
    assert!(!completions.await_all(3));
    assert_eq!(completions.complete(0), WAITER);
    assert!(completions.await_all(3));
    // No one waits any more.
    assert_eq!(completions.complete(0), NONE);
}

#[test]
fn all_counts_from_the_start() {
    let mut completions = Completions::default();
    completions.complete(0);
    assert!(completions.await_all(1));
    assert!(!completions.await_all(2));
    assert_eq!(completions.complete(0), WAITER);
    assert!(completions.await_all(2));
}

#[test]
fn all_are_waited_for_whatever_their_generation() {
    let mut completions = Completions::default();
    let generation = completions.begin_generation(1);
    assert!(!completions.await_all(2));
    assert_eq!(completions.complete(generation), NONE);
    assert_eq!(completions.complete(0), BOTH);
}

#[test]
fn the_next_completion_wakes_a_starved_worker_once() {
    let mut completions = Completions::default();
    completions.starve();
    completions.starve();
    assert_eq!(completions.complete(0), WORKER);
    assert_eq!(completions.complete(0), NONE);
    completions.starve();
    assert_eq!(completions.complete(0), WORKER);
}

#[test]
fn waiting_does_not_forget_a_starved_worker() {
    let mut completions = Completions::default();
    completions.starve();
    assert!(!completions.await_all(1));
    completions.begin_generation(1);
    assert_eq!(completions.complete(0), BOTH);
}

#[test]
fn the_last_of_the_earlier_generation_wakes_the_waiter() {
    let mut completions = Completions::default();
    completions.complete(0);
    // Three were submitted, one has finished.
    let generation = completions.begin_generation(3);
    assert_ne!(generation, 0);
    assert!(!completions.await_earlier());
    assert_eq!(completions.complete(generation), NONE);
    assert_eq!(completions.complete(0), NONE);
    assert_eq!(completions.complete(generation), NONE);
    assert!(!completions.await_earlier());
    assert_eq!(completions.complete(0), BOTH);
    assert!(completions.await_earlier());
    assert_eq!(completions.complete(generation), NONE);
}

#[test]
fn the_last_of_the_earlier_generation_has_the_worker_release_memory() {
    let mut completions = Completions::default();
    let generation = completions.begin_generation(2);
    assert_eq!(completions.complete(0), NONE);
    assert_eq!(completions.complete(generation), NONE);
    assert_eq!(completions.complete(0), WORKER);
    assert_eq!(completions.complete(generation), NONE);
}

#[test]
fn without_an_earlier_generation_or_an_io_of_it_there_is_no_wait() {
    let mut completions = Completions::default();
    assert!(completions.await_earlier());
    completions.complete(0);
    completions.begin_generation(1);
    assert!(completions.await_earlier());
}

#[test]
fn two_earlier_generations_are_both_waited_for() {
    let mut completions = Completions::default();
    let first = completions.begin_generation(1);
    let second = completions.begin_generation(2);
    assert_ne!(first, second);
    assert!(!completions.await_earlier());
    assert_eq!(completions.complete(first), NONE);
    assert_eq!(completions.complete(second), NONE);
    assert_eq!(completions.complete(0), BOTH);
    assert!(completions.await_earlier());
}

/// A thread that was killed while it waited says nothing: the next one takes its place.
#[test]
fn a_new_wait_replaces_the_one_before() {
    let mut completions = Completions::default();
    let generation = completions.begin_generation(1);
    assert!(!completions.await_earlier());
    assert!(!completions.await_all(2));
    // The last of what the first one waited for.
    assert_eq!(completions.complete(0), WORKER);
    assert_eq!(completions.complete(generation), WAITER);
}

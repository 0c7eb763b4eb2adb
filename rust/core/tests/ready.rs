// SPDX-License-Identifier: GPL-2.0

//! The set of queues that want to be served.

use std::sync::atomic::{
    AtomicU64,
    Ordering::SeqCst, //
};
use vblk_core::ready::{
    AtomicBits,
    ReadySet, //
};

struct Bits(AtomicU64);

impl AtomicBits for Bits {
    fn fetch_or(&self, bits: u64) -> u64 {
        self.0.fetch_or(bits, SeqCst)
    }

    fn take(&self) -> u64 {
        self.0.swap(0, SeqCst)
    }

    fn peek(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

type Set = ReadySet<Bits, 4>;

fn set() -> Set {
    Set::new([const { Bits(AtomicU64::new(0)) }; 4])
}

fn taken(set: &Set) -> Vec<usize> {
    let mut queues = Vec::new();
    set.take(|queue| queues.push(queue));
    queues
}

/// The first and the last of each word.
const BOUNDARIES: [usize; 8] = [0, 63, 64, 127, 128, 191, 192, 255];

#[test]
fn there_is_room_for_64_queues_in_each_word() {
    assert_eq!(Set::QUEUES, 256);
}

#[test]
fn a_mark_is_taken_once() {
    let set = set();
    assert!(!set.any());
    assert!(taken(&set).is_empty());
    for queue in BOUNDARIES {
        assert!(set.mark(queue));
        assert!(set.any());
        assert_eq!(taken(&set), [queue]);
        assert!(!set.any());
        assert!(taken(&set).is_empty());
    }
}

#[test]
fn only_the_first_mark_of_a_queue_wakes_the_worker() {
    let set = set();
    for queue in BOUNDARIES {
        assert!(set.mark(queue));
        assert!(!set.mark(queue));
    }
    assert_eq!(taken(&set), BOUNDARIES);
    for queue in BOUNDARIES {
        assert!(set.mark(queue));
    }
}

#[test]
fn all_queues_can_be_marked_at_once() {
    let set = set();
    assert!((0..256).rev().all(|queue| set.mark(queue)));
    assert_eq!(taken(&set), (0..256).collect::<Vec<_>>());
    assert!(!set.any());
}

#[test]
fn a_queue_that_there_is_no_room_for_marks_nothing() {
    let set = set();
    for queue in [256, 257, 320, usize::MAX] {
        assert!(!set.mark(queue));
        assert!(!set.any());
    }
}

#[test]
fn a_mark_that_is_made_while_its_queue_is_served_stays() {
    let set = set();
    for queue in BOUNDARIES {
        set.mark(queue);
        set.take(|taken| {
            assert_eq!(taken, queue);
            // It was taken before: this one counts.
            assert!(set.mark(queue));
        });
        assert_eq!(taken(&set), [queue]);
    }
}

#[test]
fn a_set_without_words_holds_nothing() {
    let set = ReadySet::<Bits, 0>::new([]);
    assert!(!set.mark(0));
    assert!(!set.any());
    set.take(|_| panic!("no queue"));
}

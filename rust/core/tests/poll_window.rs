// SPDX-License-Identifier: GPL-2.0

//! How long an empty ring is looked at, against what its gaps were.

use proptest::prelude::*;
use vblk_core::poll_window::PollWindow;

const LIMIT_US: u32 = 50;
const LIMIT_NS: u64 = 50_000;

/// A window that learnt these gaps, in nanoseconds.
fn learnt(limit_us: u32, gaps: &[u64]) -> PollWindow {
    let mut window = PollWindow::new(limit_us);
    gaps.iter().for_each(|gap| window.learn(*gap));
    window
}

#[test]
fn without_a_limit_it_never_opens() {
    for gap in [0, 1, 1000, u64::MAX] {
        let window = learnt(0, &[gap; 3]);
        assert!(!window.is_enabled() && !window.is_open() && !window.covers(0));
    }
}

#[test]
fn it_opens_after_one_gap_that_it_can_cover() {
    assert!(!PollWindow::new(LIMIT_US).is_open());
    for gap in [0, 1, 10_000, LIMIT_NS - 1] {
        assert!(learnt(LIMIT_US, &[gap]).covers(gap), "{gap} ns");
    }
    assert!(!learnt(LIMIT_US, &[LIMIT_NS + 1]).is_open());
}

#[test]
fn it_leaves_room_for_gaps_that_are_a_bit_longer() {
    let window = learnt(LIMIT_US, &[10_000]);
    assert!(window.covers(19_999) && !window.covers(20_000));
}

#[test]
fn it_closes_when_requests_come_late() {
    // What is looked at in vain until then is twice the limit.
    let mut window = learnt(LIMIT_US, &[LIMIT_NS]);
    let mut in_vain = 0;
    while window.is_open() {
        in_vain += (0..).take_while(|ns| window.covers(*ns)).count();
        window.learn(LIMIT_NS * 3);
    }
    assert!(in_vain < 2 * LIMIT_NS as usize, "{in_vain} ns");
    window.learn(LIMIT_NS * 3);
    assert!(!window.is_open());
}

#[test]
fn one_late_request_does_not_close_it() {
    let mut window = learnt(LIMIT_US, &[10_000; 20]);
    window.learn(u64::MAX);
    assert!(window.is_open());
    window.learn(10_000);
    assert!(window.covers(10_000));
}

#[test]
fn it_follows_gaps_that_get_shorter() {
    let mut window = learnt(LIMIT_US, &[20_000]);
    assert!(window.covers(30_000));
    for _ in 0..100 {
        window.learn(2000);
        assert!(window.covers(2000));
    }
    assert!(!window.covers(4000));
}

proptest! {
    #[test]
    fn no_window_is_longer_than_its_limit(
        limit_us in 0..2000u32,
        gaps in proptest::collection::vec(0..4_000_000u64, 0..20),
    ) {
        let window = learnt(limit_us, &gaps);
        prop_assert!(!window.covers(u64::from(limit_us) * 1000));
        prop_assert!(limit_us != 0 || !window.is_open());
    }

    #[test]
    fn the_gap_before_is_covered_if_it_can_be(limit_us in 1..u32::MAX, gaps: Vec<u32>, last: u32) {
        let mut window = learnt(limit_us, &gaps.into_iter().map(u64::from).collect::<Vec<_>>());
        window.learn(last.into());
        let can_be = u64::from(last) < u64::from(limit_us) * 1000;
        prop_assert!(!can_be || window.covers(last.into()));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Both halves of a ring under a driver without rules.

use crate::{
    cases,
    judge::{
        split::{
            judge,
            Step, //
        },
        RING, //
    },
};
use proptest::{
    collection::vec,
    prelude::*, //
};
use vblk_core::{
    queue::Popped,
    split::{
        Avail,
        SplitRing,
        Used, //
    },
    testing::{
        Layout,
        Ram,
        SplitDriver, //
    },
};

fn steps() -> impl Strategy<Value = Step> {
    let near = prop_oneof![4 => 0..24u16, 1 => any::<u16>()];
    prop_oneof![
        4 => near.clone().prop_map(Step::AvailIndex),
        2 => (any::<u16>(), near.clone()).prop_map(|(at, head)| Step::AvailEntry(at, head)),
        1 => any::<u16>().prop_map(Step::AvailFlags),
        1 => near.prop_map(Step::UsedEvent),
        4 => any::<u8>().prop_map(Step::Pop),
        4 => Just(Step::Give),
        1 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => Just(Step::Decide),
    ]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_driver_without_rules_gets_no_more_than_the_ring_holds(
        order in 0..5u32,
        start in prop_oneof![Just(0), 65520..=65535u16],
        event_idx in any::<bool>(),
        steps in vec(steps(), 0..100),
    ) {
        judge(order, start, event_idx, &steps);
    }

    /// Interrupts with event index, in positions that count from the beginning of time.
    #[test]
    fn an_interrupt_is_decided_on_exactly_when_the_event_was_passed(
        start in any::<u16>(),
        batches in vec((prop_oneof![8 => 0..6u32, 1 => 0..70_000u32], 0..8i64), 1..12),
    ) {
        let ram = Ram::new(0x4000);
        let layout = Layout::with_size(4, RING);
        let mut driver = SplitDriver::starting_at(&ram, layout, true, start);
        let ring = SplitRing::new(layout.size, ram.parts(&layout));
        let mut avail = Avail::new(start, true);
        let mut used = Used::new(&ring, true);
        driver.post(0);
        driver.publish();
        let Ok(Popped::Chain(head)) = avail.pop(&ring) else {
            panic!("there is a chain");
        };
        used.should_interrupt(&ring);
        let mut at = i64::from(start);
        for (pushes, ahead) in batches {
            let event = at + ahead - 2;
            driver.write_used_event(event as u16);
            (0..pushes).for_each(|_| used.add_used(&ring, head, 0));
            let passed = (at..at + i64::from(pushes)).any(|entry| entry as u16 == event as u16);
            let decided = used.should_interrupt(&ring);
            if pushes < 1 << 16 {
                assert_eq!(decided, passed, "event {event} from {at} by {pushes}");
            } else {
                // All events were passed.
                assert!(decided && passed);
            }
            at += i64::from(pushes);
        }
    }
}

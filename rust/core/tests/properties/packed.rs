// SPDX-License-Identifier: GPL-2.0

//! Both halves of a packed ring under a driver without rules, against a reference that counts
//! descriptors from the beginning of time and finds the wrap counter by a division.

use crate::{
    cases,
    judge::{
        packed::{
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
    packed::{
        Avail,
        Descriptor,
        PackedRing,
        Used, //
    },
    queue::Popped,
    testing::{
        Layout,
        PackedDriver,
        Ram, //
    },
    wrap::off_wrap,
};

const NEXT: u16 = Descriptor::F_NEXT;

fn steps() -> impl Strategy<Value = Step> {
    let bits = prop_oneof![Just(0u16), Just(0x80), Just(0x8000), Just(0x8080)];
    let flags = (
        bits,
        prop_oneof![3 => Just(0u16), 3 => Just(NEXT), 1 => any::<u16>()],
    );
    prop_oneof![
        6 => (0..2u8, 1..6u8).prop_map(|(ahead, count)| Step::Post(ahead, count)),
        3 => (0..20u8, flags).prop_map(|(ahead, (bits, more))| Step::Flags(ahead, bits ^ more)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(at, flags)| Step::Event(at, flags)),
        5 => (1..4u8).prop_map(Step::Pop),
        5 => any::<u8>().prop_map(Step::Give),
        1 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => Just(Step::Decide),
    ]
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn a_driver_without_rules_gets_what_the_reference_finds(
        order in 0..5u32,
        rounds in 0..5u16,
        event_idx in any::<bool>(),
        steps in vec(steps(), 0..120),
    ) {
        judge(order, rounds, event_idx, &steps);
    }

    /// Interrupts with event index, for chains of several descriptors.
    #[test]
    fn an_interrupt_is_decided_on_exactly_when_the_place_was_passed(
        order in 0..5u32,
        start in any::<u16>(),
        batches in vec((vec(1..4u16, 0..6), any::<u16>()), 1..12),
    ) {
        let ram = Ram::new(0x4000);
        let layout = Layout::packed(1 << order, RING);
        let size = layout.size.get();
        let mut driver = PackedDriver::starting_at(&ram, layout, true, start);
        let ring = PackedRing::new(layout.size, ram.parts(&layout));
        let mut avail = Avail::new(start, true);
        let mut used = Used::new(start, true);
        used.should_interrupt(&ring);
        for (chains, ahead) in batches {
            let from = used.position();
            let event = off_wrap(layout.size, from.wrapping_add(ahead % (2 * size)));
            driver.write_driver_event(event, 2);
            let mut moved = 0;
            for count in chains {
                let count = count.min(size);
                let mut chain = vec![Descriptor { flags: NEXT, ..Descriptor::default() }; count.into()];
                chain[usize::from(count) - 1].flags = 0;
                driver.post(&chain);
                driver.publish();
                let Ok(Popped::Chain(head)) = avail.pop(&ring, || used.position()) else {
                    panic!("there is a chain");
                };
                used.add_used(&ring, head, 0);
                driver.poll_used();
                moved += count;
            }
            let mut places = (0..moved).map(|n| off_wrap(layout.size, from.wrapping_add(n)));
            let passed = places.any(|place| place == event);
            assert_eq!(used.should_interrupt(&ring), passed, "{event:x} from {from} by {moved}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Both halves of a split ring under a driver without rules.

use super::RING;
use vblk_core::{
    queue::{
        Popped,
        RingError, //
    },
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

/// One step of a driver that keeps no rules.
#[derive(Clone, Debug)]
pub enum Step {
    AvailIndex(u16),
    AvailEntry(u16, u16),
    AvailFlags(u16),
    UsedEvent(u16),
    Pop(u8),
    Give,
    Enable,
    Disable,
    Decide,
}

/// Does all steps on a ring of `1 << order` entries that begins at `start`. What comes out is no more
/// than the ring holds.
pub fn judge(order: u32, start: u16, event_idx: bool, steps: &[Step]) {
    let ram = Ram::new(0x4000);
    let size = 1 << order;
    let layout = Layout::with_size(size, RING);
    let driver = SplitDriver::starting_at(&ram, layout, event_idx, start);
    let ring = SplitRing::new(layout.size, ram.parts(&layout));
    let mut avail = Avail::new(start, event_idx);
    let mut used = Used::new(&ring, event_idx);
    let (mut taken, mut given, mut held) = (0u16, 0u16, Vec::new());
    for step in steps {
        match *step {
            Step::AvailIndex(at) => driver.write_avail_index(start.wrapping_add(at)),
            Step::AvailEntry(at, head) => driver.write_avail_entry(at, head),
            Step::AvailFlags(flags) => driver.write_avail_flags(flags),
            Step::UsedEvent(at) => driver.write_used_event(start.wrapping_add(at)),
            Step::Pop(times) => {
                for _ in 0..times {
                    match avail.pop(&ring) {
                        Ok(Popped::Chain(head)) => {
                            assert!(u32::from(head.index()) < size);
                            held.push(head);
                        }
                        Ok(Popped::OutOfRange(head)) => assert!(u32::from(head) >= size),
                        Ok(Popped::Empty) => break,
                        Err(RingError::AvailIndex { next, claimed }) => {
                            assert!(u32::from(claimed.wrapping_sub(next)) > size);
                            assert_eq!(next, avail.position());
                            break;
                        }
                        Err(RingError::ChainOverrun { .. }) => {
                            panic!("entries of a split ring are not chains")
                        }
                    }
                    taken = taken.wrapping_add(1);
                }
            }
            Step::Give => {
                if let Some(head) = held.pop() {
                    used.add_used(&ring, head, given.into());
                    let entry = driver.used_entry(start.wrapping_add(given));
                    assert_eq!((entry.id, entry.len), (head.index().into(), given.into()));
                    given += 1;
                }
            }
            Step::Enable => {
                let _ = avail.enable_notify(&ring);
            }
            Step::Disable => avail.disable_notify(&ring),
            Step::Decide => {
                used.should_interrupt(&ring);
            }
        }
        assert_eq!(avail.position(), start.wrapping_add(taken));
        assert_eq!(driver.used_index(), start.wrapping_add(given));
    }
}

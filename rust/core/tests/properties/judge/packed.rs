// SPDX-License-Identifier: GPL-2.0

//! Both halves of a packed ring under a driver without rules, against a reference that counts
//! descriptors from the beginning of time and finds the wrap counter by a division.

use super::RING;
use vblk_core::{
    packed::{
        Avail,
        Descriptor,
        PackedRing,
        Used, //
    },
    queue::{
        Head,
        Popped,
        RingError, //
    },
    testing::{
        Layout,
        PackedDriver,
        Ram, //
    },
};

const NEXT: u16 = Descriptor::F_NEXT;

/// One step of a driver that keeps no rules.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes a chain available where the device stands, so many descriptors ahead.
    Post(u8, u8),
    /// Writes flags so many descriptors ahead of where the device stands.
    Flags(u8, u16),
    Event(u16, u16),
    Pop(u8),
    Give(u8),
    Enable,
    Disable,
    Decide,
}

/// A ring as the reference has it: positions of both halves since the beginning of time.
pub struct Reference {
    pub size: u64,
    pub avail: u64,
    pub used: u64,
}

impl Reference {
    fn wrap(&self, at: u64) -> u16 {
        1 - (at / self.size % 2) as u16
    }

    /// Returns what a pop must find, given the flags of each place.
    pub fn pop(&self, flags: impl Fn(u64) -> u16) -> Result<Option<u64>, u64> {
        let head = flags(self.avail % self.size);
        let (avail, used) = (head >> 7 & 1, head >> 15);
        let wrap = self.wrap(self.avail);
        if avail != wrap || used == wrap {
            return Ok(None);
        }
        let free = self.size - (self.avail - self.used);
        let ends = (0..free).find(|n| flags((self.avail + n) % self.size) & NEXT == 0);
        ends.map(|n| Some(n + 1)).ok_or(free)
    }
}

/// Does all steps on a ring of `1 << order` entries that was gone around `rounds` times.
pub fn judge(order: u32, rounds: u16, event_idx: bool, steps: &[Step]) {
    let ram = Ram::new(0x4000);
    let layout = Layout::packed(1 << order, RING);
    let size = layout.size.get();
    let start = size
        .wrapping_mul(rounds)
        .wrapping_add(rounds)
        .wrapping_sub(2);
    let driver = PackedDriver::starting_at(&ram, layout, event_idx, start);
    let ring = PackedRing::new(layout.size, ram.parts(&layout));
    let mut avail = Avail::new(start, event_idx);
    let mut used = Used::new(start, event_idx);
    // A multiple of two rounds, so that it is the same for the reference.
    let time = u64::from(start) + (1 << 32);
    let mut reference = Reference {
        size: size.into(),
        avail: time,
        used: time,
    };
    let mut held: Vec<Head> = Vec::new();
    let place = |at: u64| at as u16;
    for step in steps {
        match *step {
            Step::Post(ahead, count) => {
                for n in 0..u64::from(count) {
                    let at = place(reference.avail + u64::from(ahead) + n);
                    let next = if n + 1 < count.into() { NEXT } else { 0 };
                    driver.write_flags(at, driver.avail_flags(at) | next);
                }
            }
            Step::Flags(ahead, flags) => {
                driver.write_flags(place(reference.avail + u64::from(ahead)), flags);
            }
            Step::Event(at, flags) => driver.write_driver_event(at, flags),
            Step::Pop(times) => {
                for _ in 0..times {
                    // What was seen to be there stays there for the device.
                    let known = avail.known_left() == 1;
                    let expected = reference.pop(|at| driver.flags(at as u16));
                    let popped = avail.pop(&ring, || used.position());
                    match popped {
                        Ok(Popped::Chain(head)) => {
                            if !known {
                                assert_eq!(expected, Ok(Some(head.count().into())));
                            }
                            assert_eq!(head.index(), place(reference.avail));
                            reference.avail += u64::from(head.count());
                            held.push(head);
                        }
                        Ok(Popped::Empty) => {
                            assert_eq!(expected, Ok(None));
                            break;
                        }
                        Err(RingError::ChainOverrun { next, free }) => {
                            if !known {
                                assert_eq!(expected, Err(free.into()));
                            }
                            assert_eq!(next, place(reference.avail));
                            break;
                        }
                        Ok(Popped::OutOfRange(_)) => panic!("a packed ring has no such entry"),
                        Err(RingError::AvailIndex { .. }) => panic!("a packed ring has no index"),
                    }
                    assert!(reference.avail - reference.used <= size.into());
                }
            }
            Step::Give(which) => {
                if !held.is_empty() {
                    let head = held.remove(usize::from(which) % held.len());
                    used.add_used(&ring, head, which.into());
                    let at = place(reference.used);
                    assert_eq!(driver.used_entry(at), (head.id(), which.into()));
                    let wrap = 0x8080 * reference.wrap(reference.used);
                    assert_eq!(driver.flags(at) & 0x8080, wrap);
                    reference.used += u64::from(head.count());
                }
            }
            Step::Enable => {
                avail.enable_notify(&ring);
            }
            Step::Disable => avail.disable_notify(&ring),
            Step::Decide => {
                used.should_interrupt(&ring);
            }
        }
        assert_eq!(avail.position(), place(reference.avail));
        assert_eq!(used.position(), place(reference.used));
        let held: u64 = held.iter().map(|head| u64::from(head.count())).sum();
        assert_eq!(held, reference.avail - reference.used);
    }
}

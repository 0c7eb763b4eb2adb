// SPDX-License-Identifier: GPL-2.0

//! The two formats behind one face: how one is negotiated, and the positions that vhost tells.

mod common;

use common::RING;
use vblk_core::{
    addr::GuestAddr,
    features::{
        bit,
        Features, //
    },
    queue::{
        Popped,
        QueueSize,
        RingError, //
    },
    ring::{
        Avail,
        Base,
        Format,
        Used, //
    },
    testing::{
        Buf,
        Driver,
        Layout,
        Ram,
        UsedEntry, //
    },
};

const MEMORY: usize = 0x10_0000;
const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

fn size(size: u32) -> QueueSize {
    QueueSize::new(size).expect("a size")
}

#[test]
fn the_feature_decides_the_format() {
    assert_eq!(Format::of(Features(0)), Format::Split);
    assert_eq!(Format::of(Features(1 << 34)), Format::Packed);
    assert_eq!(Format::of(Features(!(1 << 34))), Format::Split);
    assert!(Features::SUPPORTED.has(bit::RING_PACKED));
}

#[test]
fn a_split_base_is_the_available_index() {
    for number in 0..=0xFFFF {
        let base = Base::decode(Format::Split, size(8), number).expect("a base");
        assert_eq!(u32::from(base.avail), number);
        assert_eq!(base.encode(Format::Split, size(8)), number);
        assert!(Format::Split.takes_base(number));
    }
    for number in [0x1_0000, 0x8000_8000, u32::MAX] {
        assert_eq!(Base::decode(Format::Split, size(8), number), None);
        assert!(!Format::Split.takes_base(number));
    }
    assert_eq!(Format::Split.initial_base(), 0);
}

#[test]
fn a_packed_base_is_two_places_with_wrap_counters() {
    let decode = |number| Base::decode(Format::Packed, size(8), number);
    let base = |avail, used| Some(Base { avail, used });
    assert_eq!(decode(0x8000_8000), base(0, 0));
    assert_eq!(decode(Format::Packed.initial_base()), base(0, 0));
    assert_eq!(decode(0x8003_8007), base(7, 3));
    assert_eq!(decode(0x0000_0000), base(8, 8));
    assert_eq!(decode(0x0007_8000), base(0, 15));
    // As far apart as can be: all is in the hands of the device.
    assert_eq!(decode(0x8003_0003), base(11, 3));
    for number in [
        // Places that are not in the ring.
        0x8000_8008,
        0x8008_8000,
        0xFFFF_8000,
        0x8000_7FFF,
        // The used half ahead of the other, or further behind than the ring is long.
        0x8001_8000,
        0x8003_0004,
    ] {
        assert_eq!(decode(number), None, "{number:x}");
        assert!(Format::Packed.takes_base(number));
    }
}

#[test]
fn a_base_of_zero_is_the_first_place_of_a_new_ring_only() {
    for length in 1..=8 {
        let ram = Ram::new(MEMORY);
        let layout = Layout::new(Format::Packed, size(8), RING);
        let mut driver = Driver::new(&ram, layout, false);
        let ring = ram.ring(&layout);
        let start = Base { avail: 0, used: 0 };
        assert_eq!(ring.base(0), Some(start));
        let (mut avail, mut used) = (
            Avail::new(&ring, start, false),
            Used::new(&ring, start, false),
        );
        let mut zeroes = 0;
        for _ in 0..64 {
            let check = |avail: &Avail, used: &Used| {
                let stands = Base {
                    avail: avail.position(),
                    used: used.position(),
                };
                let number = stands.encode(Format::Packed, size(8));
                let decoded = Base::decode(Format::Packed, size(8), number);
                assert_eq!(ring.base(number), decoded, "{length}: {stands:?}");
                u32::from(number == 0)
            };
            let buf = Buf::readable(GuestAddr(0), 1);
            driver.add(&vec![buf; length]).expect("room");
            driver.publish();
            zeroes += check(&avail, &used);
            let Ok(Popped::Chain(head)) = avail.pop(&ring, || used.position()) else {
                panic!("a chain should be there");
            };
            used.add_used(&ring, head, 0);
            assert!(driver.poll_used().is_some());
            zeroes += check(&avail, &used);
        }
        assert!(zeroes > 3, "{length}: {zeroes}");
    }
}

#[test]
fn every_packed_base_survives_being_told() {
    for entries in [1, 2, 8, 32768] {
        let places = |at: u32| [at % entries, (at % entries) | 0x8000];
        for low in [0, 1, 2, 7, 100, 32767].into_iter().flat_map(places) {
            for high in [0, 1, 3, 7, 99, 32767].into_iter().flat_map(places) {
                let number = high << 16 | low;
                if let Some(base) = Base::decode(Format::Packed, size(entries), number) {
                    assert_eq!(base.encode(Format::Packed, size(entries)), number);
                }
            }
        }
    }
}

#[test]
fn chains_go_through_rings_of_both_formats_alike() {
    let ram = Ram::new(MEMORY);
    for format in FORMATS {
        for event_idx in [false, true] {
            for start in [0, 5, 8, 65530] {
                let layout = Layout::new(format, size(8), RING);
                let mut driver = Driver::starting_at(&ram, layout, event_idx, start);
                let ring = ram.ring(&layout);
                assert_eq!((ring.size(), ring.format()), (size(8), format));
                let base = Base::decode(format, size(8), driver.base()).expect("a base");
                let mut avail = Avail::new(&ring, base, event_idx);
                let mut used = Used::new(&ring, base, event_idx);
                for round in 0..40 {
                    assert_eq!(avail.enable_notify(&ring), Ok(false));
                    assert!(driver.device_waits());
                    assert!(!driver.enable_interrupt());
                    let buf = Buf::readable(GuestAddr(0), 1);
                    let id = driver.add(&[buf; 3]).expect("room");
                    assert!(driver.publish_needs_kick());
                    avail.disable_notify(&ring);
                    let Ok(Popped::Chain(head)) = avail.pop(&ring, || used.position()) else {
                        panic!("a chain should be there");
                    };
                    assert_eq!(avail.known_left(), 0);
                    assert_eq!(
                        avail.pop(&ring, || used.position()),
                        Ok(Popped::Empty),
                        "round {round}"
                    );
                    used.add_used(&ring, head, round);
                    assert!(used.should_interrupt(&ring));
                    let (id, len) = (id.into(), round);
                    assert_eq!(driver.poll_used(), Some(UsedEntry { id, len }));
                    let stands = Base {
                        avail: avail.position(),
                        used: used.position(),
                    };
                    assert_eq!(stands.encode(format, size(8)), driver.base());
                }
            }
        }
    }
}

#[test]
fn more_than_the_ring_holds_is_impossible_in_both_formats() {
    let ram = Ram::new(MEMORY);
    for format in FORMATS {
        let layout = Layout::new(format, size(4), RING);
        let mut driver = Driver::new(&ram, layout, false);
        let ring = ram.ring(&layout);
        let base = Base { avail: 0, used: 0 };
        let mut avail = Avail::new(&ring, base, false);
        match &mut driver {
            Driver::Split(driver) => driver.write_avail_index(5),
            Driver::Packed(driver) => (0..4).for_each(|at| driver.write_flags(at, 0x81)),
        }
        let failed = avail.pop(&ring, || 0).expect_err("an impossible ring");
        assert_eq!(
            matches!(failed, RingError::AvailIndex { .. }),
            format == Format::Split
        );
        assert_eq!(avail.position(), 0);
    }
}

#[test]
fn chains_that_are_known_are_taken_without_looking_again() {
    let ram = Ram::new(MEMORY);
    for format in FORMATS {
        let layout = Layout::new(format, size(8), RING);
        let mut driver = Driver::new(&ram, layout, false);
        let ring = ram.ring(&layout);
        let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
        assert_eq!(avail.looks_ahead(), format == Format::Packed);
        assert_eq!(avail.refresh(&ring), Ok(false));
        // None is known: nothing is taken, though there are two by now.
        for _ in 0..2 {
            driver.add(&[Buf::readable(GuestAddr(0), 1)]).expect("room");
        }
        driver.publish();
        assert_eq!(avail.known_left(), 0);
        assert_eq!(avail.take(&ring, || 0), Ok(Popped::Empty));
        assert_eq!(avail.position(), 0);

        assert_eq!(avail.refresh(&ring), Ok(true));
        for taken in 1..=2 {
            assert!(avail.known_left() > 0);
            let chain = avail.take(&ring, || 0);
            assert!(matches!(chain, Ok(Popped::Chain(_))), "{chain:?}");
            assert_eq!(avail.position(), taken);
        }
        assert_eq!(avail.known_left(), 0);
        assert_eq!(avail.take(&ring, || 0), Ok(Popped::Empty));
    }
}

#[test]
fn a_half_of_the_other_format_does_nothing() {
    let ram = Ram::new(MEMORY);
    let base = Base { avail: 0, used: 0 };
    for (format, other) in [FORMATS, [Format::Packed, Format::Split]].map(|f| (f[0], f[1])) {
        let layout = Layout::new(format, size(4), RING);
        let mut driver = Driver::new(&ram, layout, true);
        let ring = ram.ring(&layout);
        let mut own = Avail::new(&ring, base, true);
        driver.add(&[Buf::readable(GuestAddr(0), 1)]).expect("room");
        driver.publish();
        let Ok(Popped::Chain(head)) = own.pop(&ring, || 0) else {
            panic!("a chain should be there");
        };
        let away = ram.ring(&Layout::new(other, size(4), GuestAddr(0x8000)));
        let mut avail = Avail::new(&away, base, true);
        let mut used = Used::new(&away, base, true);
        assert_eq!(avail.pop(&ring, || 0), Ok(Popped::Empty));
        assert_eq!(avail.take(&ring, || 0), Ok(Popped::Empty));
        assert_eq!(avail.refresh(&ring), Ok(false));
        assert_eq!(avail.enable_notify(&ring), Ok(false));
        avail.disable_notify(&ring);
        used.add_used(&ring, head, 1);
        assert!(!used.should_interrupt(&ring));
        assert_eq!(driver.poll_used(), None);
    }
}

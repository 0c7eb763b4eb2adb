// SPDX-License-Identifier: GPL-2.0

//! Which bits of the dirty log stand for which bytes.

use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::BTreeSet, //
};
use vblk_core::{
    addr::GuestAddr,
    dirty_log::{
        bytes_for,
        mark,
        LOG_PAGE, //
    },
    memory::SharedBitmap, //
};

#[derive(Default)]
struct Bits(RefCell<BTreeSet<u64>>);

impl SharedBitmap for Bits {
    fn set(&self, bit: u64) {
        self.0.borrow_mut().insert(bit);
    }
}

/// The bits that writing `bytes` bytes at `at` sets.
fn bits(at: u64, bytes: u64) -> Vec<u64> {
    let log = Bits::default();
    mark(&log, GuestAddr(at), bytes);
    log.0.into_inner().into_iter().collect()
}

#[test]
fn each_page_that_holds_a_byte_is_marked() {
    assert_eq!(bits(0, 1), [0]);
    assert_eq!(bits(4095, 1), [0]);
    assert_eq!(bits(4095, 2), [0, 1]);
    assert_eq!(bits(4096, 4096), [1]);
    assert_eq!(bits(4097, 4096), [1, 2]);
    assert_eq!(bits(3 * 4096 + 5, 10 * 4096), (3..=13).collect::<Vec<_>>());
}

#[test]
fn nothing_is_marked_for_no_bytes() {
    assert!(bits(0, 0).is_empty());
    assert!(bits(u64::MAX, 0).is_empty());
}

#[test]
fn the_end_of_the_address_space_is_a_page_too() {
    assert_eq!(bits(u64::MAX, 1), [u64::MAX / LOG_PAGE]);
    assert_eq!(bits(u64::MAX - 1, 100), [u64::MAX / LOG_PAGE]);
}

#[test]
fn a_log_has_a_bit_for_the_last_byte() {
    for (last, bytes) in [
        (0, 8),
        (64 * 4096 - 1, 8),
        (64 * 4096, 16),
        ((1 << 30) - 1, 32768),
        (u64::MAX, 1 << 49),
    ] {
        assert_eq!(bytes_for(GuestAddr(last)), bytes, "{last:#x}");
    }
}

proptest! {
    #[test]
    fn bits_are_those_of_the_bytes(at in 0..1u64 << 40, bytes in 0..100_000u64) {
        let expected: BTreeSet<u64> = (at..at + bytes).map(|byte| byte / 4096).collect();
        prop_assert_eq!(bits(at, bytes), expected.into_iter().collect::<Vec<_>>());
        if let Some(last) = (at + bytes).checked_sub(1) {
            prop_assert!(last / 4096 / 8 < bytes_for(GuestAddr(last)));
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Sets of feature bits.

use vblk_core::features::Features;

#[test]
fn a_bit_is_in_a_set_or_not_also_one_that_no_set_can_have() {
    let set = Features(1 << 63 | 1 << 5 | 1);
    let found: Vec<u32> = (0..200).filter(|bit| set.has(*bit)).collect();
    assert_eq!(found, [0, 5, 63]);
}

#[test]
fn a_set_is_within_another_that_has_all_of_it() {
    let (none, some, all) = (Features(0), Features(0b0110), Features(!0));
    for set in [none, some, all] {
        assert!(none.within(set) && set.within(set) && set.within(all));
    }
    assert!(!all.within(some) && !some.within(none));
    // One bit too much is enough, whatever else they share.
    assert!(!Features(0b0111).within(some) && !Features(1 << 63 | 0b0110).within(some));
    assert!(Features(0b0010).within(some));
}

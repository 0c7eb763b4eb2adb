// SPDX-License-Identifier: GPL-2.0

//! Memory tables.

use crate::{
    cases,
    judge::table::judge,
    lengths, //
};
use proptest::{
    collection::vec,
    prelude::*, //
};

/// Returns regions with ends near each other and near both ends of the address space.
fn regions() -> impl Strategy<Value = (u64, u64, u64)> {
    let guest = prop_oneof![
        4 => (0..40u64).prop_map(|n| n * 8),
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
        1 => any::<u64>(),
    ];
    let size = prop_oneof![
        6 => 1..24u64,
        1 => Just(0),
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
        1 => any::<u64>(),
    ];
    let host = prop_oneof![
        4 => 0..1u64 << 40,
        1 => (0..64u64).prop_map(|below| u64::MAX - below),
    ];
    (guest, size, host)
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn tables_are_what_the_reference_finds(
        asked in prop_oneof![8 => vec(regions(), 0..8), 1 => vec(regions(), 60..70)],
        lookups in vec((0..60i64, lengths(), any::<bool>()), 20),
    ) {
        let length = |(offset, len, wide): (i64, u32, bool)| {
            (offset, if wide { u64::from(len) << 32 } else { len.into() })
        };
        let lookups: Vec<_> = lookups.into_iter().map(length).collect();
        judge(&asked, &lookups);
    }
}

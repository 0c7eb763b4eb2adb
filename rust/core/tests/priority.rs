// SPDX-License-Identifier: GPL-2.0

//! Priorities that a driver gets.

use vblk_core::priority::Priority;

/// Returns what `ioprio_check_cap` of Linux says to a process, in its own words.
fn permitted(value: u16, realtime: bool) -> bool {
    let (class, level) = (value >> 13, value & 7);
    match class {
        // IOPRIO_CLASS_NONE: "if (level) return -EINVAL".
        0 => level == 0,
        // IOPRIO_CLASS_RT needs CAP_SYS_ADMIN or CAP_SYS_NICE.
        1 => realtime,
        // IOPRIO_CLASS_BE and IOPRIO_CLASS_IDLE.
        2 | 3 => true,
        // IOPRIO_CLASS_INVALID, and those without a name.
        _ => false,
    }
}

#[test]
fn a_driver_gets_what_a_process_would_get() {
    for realtime in [false, true] {
        for value in 0..=u16::MAX {
            let granted = Priority::grant(value.into(), realtime).get();
            // Hints without a class mean nothing.
            let expected = match permitted(value, realtime) && value >> 13 != 0 {
                true => value,
                false => 0,
            };
            assert_eq!(granted, expected, "{value:#x} with {realtime}");
        }
    }
}

#[test]
fn what_does_not_fit_into_16_bits_is_no_priority() {
    for high in (0..16).map(|bit| 0x1_0000 << bit) {
        for low in [0, 0x2004, 0x4004, 0x6007, 0xffff] {
            assert_eq!(Priority::grant(high | low, true), Priority::NONE);
        }
    }
}

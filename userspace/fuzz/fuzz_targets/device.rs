// SPDX-License-Identifier: GPL-2.0

#![no_main]
#![allow(missing_docs)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vblk_device_fuzz::fuzz(data);
});

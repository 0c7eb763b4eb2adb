// SPDX-License-Identifier: GPL-2.0

//! The time stamp counter, which counts instructions when the machine is emulated with `-icount`.

/// Returns the counter's value now.
pub fn now() -> u64 {
    // SAFETY: reads a register that every x86-64 processor has and that Linux lets processes read.
    unsafe { std::arch::x86_64::_rdtsc() }
}

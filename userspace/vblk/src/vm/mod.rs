// SPDX-License-Identifier: GPL-2.0

//! A machine on KVM: its CPUs, how they boot, and what they find.
//!
//! Only this module and `sys::kvm` know of KVM.

mod acpi;
mod boot;
mod cpuid;
mod dsdt;
mod elf;
mod ending;
mod error;
mod layout;
mod machine;
mod registers;
mod restart;
mod vcpu;
mod wiring;

pub use boot::{Boot, Error as BootError};
pub use ending::{End, Ending};
pub use error::Error;
pub use layout::{memory_ranges, MAX_DISKS};
pub use machine::{open_kvm, Machine, MAX_CPUS};
pub use wiring::DiskSlot;

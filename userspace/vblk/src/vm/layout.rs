// SPDX-License-Identifier: GPL-2.0

//! The layout of a guest's address space.

use crate::devices::virtio::mmio::MMIO_BYTES;
use vm_memory::GuestAddress;

/// Memory ends here and goes on at 4 GiB: the gap is for devices.
pub const GAP_START: u64 = 0xc000_0000;
/// The end of the gap.
pub const GAP_END: u64 = 1 << 32;
/// Address of the registers of the first disk; those of the others follow.
const DISK_BASE: u32 = 0xd000_0000;

/// The BIOS keeps the kind of a restart here.
pub const RESET_FLAG: GuestAddress = GuestAddress(0x472);
/// Written by the kernel before a warm restart.
pub const RESET_FLAG_WARM: u16 = 0x1234;
/// Written by the launcher: the kernel has not prepared a restart.
pub const RESET_FLAG_UNTOUCHED: u16 = 0xffff;
/// The address at which a CPU begins after a reset; a kernel that wants the BIOS to restart jumps
/// there.
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);

/// Segment descriptors that the kernel starts with.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `struct boot_params`.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Page tables that the kernel starts with: one page, then another, then four.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel's command line.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Room for the command line, with the zero byte behind it. No kernel takes more than 4096.
pub const CMDLINE_MAX: usize = 4096;
/// Low memory ends here: what is between it and [`HIGH_MEMORY`] belongs to the firmware.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// The tables of ACPI; the kernel looks for the first of them from here on.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// Memory for the kernel begins here.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// Ports of the ACPI registers.
pub const ACPI_PORT: u64 = 0x600;
/// The interrupt of ACPI.
pub const ACPI_IRQ: u16 = 9;
/// The interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// The local APIC of each CPU.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// The IO-APIC.
pub const IO_APIC: u32 = 0xfec0_0000;

/// Interrupts for disks: the pins of the IO-APIC that a PC without other devices has left. None is
/// for two disks: KVM raises an interrupt for a moment, and two such moments may look like one.
const DISK_IRQS: [u32; 18] = [
    5, 10, 11, 7, 6, 14, 15, 12, 16, 17, 18, 19, 20, 21, 22, 23, 3, 13,
];
/// Most disks.
pub const MAX_DISKS: usize = DISK_IRQS.len();

/// The address and the interrupt of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    /// Address of its registers.
    pub base: u32,
    /// Its interrupt.
    pub irq: u32,
}

/// The places for disks, in the order in which the guest finds them.
pub fn disk_places() -> impl Iterator<Item = DiskPlace> {
    let bases = (DISK_BASE..).step_by(MMIO_BYTES as usize);
    bases
        .zip(DISK_IRQS)
        .map(|(base, irq)| DiskPlace { base, irq })
}

/// The ranges of guest-physical addresses that `bytes` bytes of memory take.
pub fn memory_ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let low = bytes.min(GAP_START);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(GAP_END), (bytes - low) as usize));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_gap_out() {
        let gib = 1 << 30;
        assert_eq!(memory_ranges(gib), [(GuestAddress(0), gib as usize)]);
        assert_eq!(
            memory_ranges(5 * gib),
            [
                (GuestAddress(0), 3 * gib as usize),
                (GuestAddress(4 * gib), 2 * gib as usize)
            ]
        );
    }

    #[test]
    fn every_device_has_an_interrupt_of_its_own() {
        /// Those of KVM's IO-APIC.
        const PINS: u32 = 24;
        let mut irqs: Vec<_> = disk_places().map(|place| place.irq).collect();
        irqs.extend([SERIAL_IRQ, ACPI_IRQ.into()]);
        irqs.sort_unstable();
        irqs.dedup();
        assert_eq!(irqs.len(), MAX_DISKS + 2);
        // Not those of the timer, the keyboard, the second controller and the clock.
        assert!(irqs
            .iter()
            .all(|irq| ![0, 1, 2, 8].contains(irq) && *irq < PINS));
    }

    #[test]
    fn registers_of_disks_lie_side_by_side_in_the_gap() {
        let bases: Vec<_> = disk_places().map(|place| u64::from(place.base)).collect();
        assert_eq!(bases.len(), MAX_DISKS);
        assert!(bases.windows(2).all(|two| two[1] == two[0] + MMIO_BYTES));
        assert!(bases[0] >= GAP_START);
        assert!(bases[MAX_DISKS - 1] + MMIO_BYTES <= IO_APIC.into());
    }
}

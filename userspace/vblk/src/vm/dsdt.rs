// SPDX-License-Identifier: GPL-2.0

//! The DSDT, in ACPI's own language: how to power off, where to tell of a panic, and the disks.

use super::layout::{disk_places, DiskPlace};
use crate::devices::{
    power::{PANIC_PORT, SLEEP_TYPE_OFF},
    virtio::mmio::MMIO_BYTES,
};
use acpi_tables::{
    aml::{Device, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope, IO},
    Aml,
};

/// The hardware ID of virtio devices on the MMIO transport.
const VIRTIO_MMIO: &str = "LNRO0005";
/// That of pvpanic.
const PVPANIC: &str = "QEMU0001";

/// The definition block of a machine with so many disks.
pub fn definitions(disks: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let off = SLEEP_TYPE_OFF as u8;
    // For each of two registers; the rest is reserved.
    let sleep = Package::new(vec![&off, &off, &0u8, &0u8]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut bytes);

    let mut devices = panic_port();
    devices.extend((0u8..).zip(disk_places().take(disks)).flat_map(disk));
    let system_bus = Scope::raw("_SB_".into(), devices);
    bytes.extend(system_bus);
    bytes
}

fn panic_port() -> Vec<u8> {
    let port = IO::new(PANIC_PORT as u16, PANIC_PORT as u16, 1, 1);
    let resources = ResourceTemplate::new(vec![&port]);
    let mut bytes = Vec::new();
    Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &PVPANIC),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

fn disk((number, place): (u8, DiskPlace)) -> Vec<u8> {
    let registers = Memory32Fixed::new(true, place.base, MMIO_BYTES as u32);
    // For the device alone, by its edge, active when high: an eventfd raises it for a moment.
    let interrupt = Interrupt::new(true, true, false, false, place.irq);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let mut bytes = Vec::new();
    Device::new(
        format!("DK{number:02}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &VIRTIO_MMIO),
            &Name::new("_UID".into(), &number),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::layout::MAX_DISKS;

    /// The bytes before the values of the two resources of a disk (ACPI 6.5, 6.4.3).
    const MEMORY: [u8; 4] = [0x86, 9, 0, 1];
    const INTERRUPT: [u8; 5] = [0x89, 6, 0, 0b0011, 1];

    fn words_after(bytes: &[u8], before: &[u8]) -> Vec<u32> {
        let found = |at: &[u8]| at.strip_prefix(before)?.first_chunk().copied();
        (0..bytes.len())
            .filter_map(|at| found(&bytes[at..]))
            .map(u32::from_le_bytes)
            .collect()
    }

    #[test]
    fn each_disk_is_described_where_it_is() {
        for disks in [0, 1, 8, MAX_DISKS] {
            let bytes = definitions(disks);
            let places: Vec<_> = disk_places().take(disks).collect();
            let bases: Vec<_> = places.iter().map(|place| place.base).collect();
            let irqs: Vec<_> = places.iter().map(|place| place.irq).collect();
            assert_eq!(words_after(&bytes, &MEMORY), bases);
            assert_eq!(words_after(&bytes, &INTERRUPT), irqs);
            let ids = bytes.windows(8).filter(|id| *id == VIRTIO_MMIO.as_bytes());
            assert_eq!(ids.count(), disks);
        }
    }

    #[test]
    fn the_port_for_panics_is_described_where_it_is() {
        // An I/O port that is decoded in full (ACPI 6.5, 6.4.2.5).
        let port = [0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1];
        let bytes = definitions(0);
        assert!(bytes.windows(port.len()).any(|it| it == port));
        assert!(bytes.windows(8).any(|it| it == PVPANIC.as_bytes()));
    }

    #[test]
    fn powering_off_is_described() {
        let off = SLEEP_TYPE_OFF as u8;
        let expected = [&b"\x08_S5_"[..], &[0x12, 8, 4, 0x0a, off, 0x0a, off, 0, 0]].concat();
        assert!(definitions(1).starts_with(&expected));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What ACPI can't find out by itself, in its own language: how to power off, and the disks.

use super::layout::{
    disk_places,
    DiskPlace, //
};
use crate::devices::{
    power::SLEEP_TYPE_OFF,
    virtio::mmio::MMIO_BYTES, //
};
use acpi_tables::{
    aml::{
        Device,
        Interrupt,
        Memory32Fixed,
        Name,
        Package,
        ResourceTemplate,
        Scope, //
    },
    Aml,
};

/// What drivers know virtio devices on the MMIO transport by.
const VIRTIO_MMIO: &str = "LNRO0005";

/// The definition block of a machine with so many disks.
pub fn definitions(disks: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let off = SLEEP_TYPE_OFF as u8;
    // For each of two registers; the rest is reserved.
    let sleep = Package::new(vec![&off, &off, &0u8, &0u8]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut bytes);

    let devices: Vec<_> = (0u8..).zip(disk_places().take(disks)).map(disk).collect();
    let system_bus = Scope::raw("_SB_".into(), devices.concat());
    bytes.extend(system_bus);
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

    /// What stands before the values of the two resources of a disk (ACPI 6.5, 6.4.3).
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
    fn powering_off_is_described() {
        let off = SLEEP_TYPE_OFF as u8;
        let expected = [&b"\x08_S5_"[..], &[0x12, 8, 4, 0x0a, off, 0x0a, off, 0, 0]].concat();
        assert!(definitions(1).starts_with(&expected));
    }
}

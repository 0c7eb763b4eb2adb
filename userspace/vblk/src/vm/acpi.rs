// SPDX-License-Identifier: GPL-2.0

//! As much of ACPI as a kernel needs to find its CPUs and disks, and to power off (ACPI 6.5,
//! chapter 5).

use super::{
    dsdt,
    layout::{ACPI_IRQ, ACPI_PORT, ACPI_TABLES, IO_APIC, LOCAL_APIC},
};
use crate::devices::{
    clock::CENTURY,
    power::{PM1_CONTROL, PM1_EVENT, PM_TIMER, RESET, RESET_VALUE},
};

const HEADER_BYTES: usize = 36;
const RSDP_BYTES: usize = 36;
const FACS_BYTES: usize = 64;
const FADT_BYTES: usize = 276;
const ALIGN: usize = 64;

/// The tables, to be written to [`ACPI_TABLES`]. The first is the RSDP.
pub fn tables(cpus: u8, disks: usize) -> Vec<u8> {
    let mut image = Image::default();
    image.push(&[0; RSDP_BYTES]);
    let facs = image.push(&facs());
    let dsdt = image.push(&table(b"DSDT", 2, &dsdt::definitions(disks)));
    let fadt = image.push(&fadt(facs, dsdt));
    let madt = image.push(&madt(cpus));
    let xsdt = image.push(&xsdt(&[fadt, madt]));
    image.bytes[..RSDP_BYTES].copy_from_slice(&rsdp(xsdt));
    image.bytes
}

#[derive(Default)]
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Appends a table; its guest-physical address.
    fn push(&mut self, table: &[u8]) -> u64 {
        let at = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(table);
        ACPI_TABLES.0 + at as u64
    }
}

/// The byte that makes the sum of all zero.
fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    sum.wrapping_neg()
}

/// Puts the common header before `body`.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(HEADER_BYTES + body.len());
    table.extend_from_slice(signature);
    table.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    table.push(revision);
    table.push(0);
    table.extend_from_slice(b"VBLKRS");
    table.extend_from_slice(b"VBLKGUES");
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(b"VBLK");
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(body);
    table[9] = checksum(&table);
    table
}

/// Root pointer (5.2.5.3).
fn rsdp(xsdt: u64) -> [u8; RSDP_BYTES] {
    let mut rsdp = [0; RSDP_BYTES];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"VBLKRS");
    rsdp[15] = 2;
    rsdp[20..24].copy_from_slice(&(RSDP_BYTES as u32).to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    // The first checksum is over the part that version 1 had.
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

/// The list of tables (5.2.8).
fn xsdt(tables: &[u64]) -> Vec<u8> {
    let entries: Vec<u8> = tables.iter().flat_map(|at| at.to_le_bytes()).collect();
    table(b"XSDT", 1, &entries)
}

/// Firmware control structure (5.2.10): empty, but it must be there.
fn facs() -> [u8; FACS_BYTES] {
    let mut facs = [0; FACS_BYTES];
    facs[..4].copy_from_slice(b"FACS");
    facs[4..8].copy_from_slice(&(FACS_BYTES as u32).to_le_bytes());
    facs[32] = 2;
    facs
}

/// Fixed description (5.2.9): where the registers are. Offsets are those of the whole table.
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    /// There are devices on an ISA bus, and no VGA.
    const BOOT_FLAGS: u16 = 1 << 0 | 1 << 2;
    /// WBINVD works; no power button, no sleep button, no alarm clock; the timer has 32 bits; the
    /// reset register works.
    const FLAGS: u32 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10;

    let mut body = [0; FADT_BYTES - HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        body[at - HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes);
    };
    let (event, control) = (ACPI_PORT + PM1_EVENT, ACPI_PORT + PM1_CONTROL);
    let timer = ACPI_PORT + PM_TIMER;
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    put(46, &ACPI_IRQ.to_le_bytes());
    put(56, &(event as u32).to_le_bytes());
    put(64, &(control as u32).to_le_bytes());
    put(76, &(timer as u32).to_le_bytes());
    // Lengths of the event and the control registers, of another that is not there, of the timer.
    put(88, &[4, 2, 0, 4]);
    // Deeper idle states are not there: their latencies are beyond the limits.
    put(96, &0xffffu16.to_le_bytes());
    put(98, &0xffffu16.to_le_bytes());
    put(108, &[CENTURY]);
    put(109, &BOOT_FLAGS.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &port(ACPI_PORT + RESET, 8));
    put(128, &[RESET_VALUE]);
    // Minor version of 6.5.
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(148, &port(event, 32));
    put(172, &port(control, 16));
    put(208, &port(timer, 32));
    table(b"FACP", 6, &body)
}

/// A generic address (5.2.3.2) of a port that is `bits` wide.
fn port(port: u64, bits: u8) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let access = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    let mut address = [SYSTEM_IO, bits, 0, access, 0, 0, 0, 0, 0, 0, 0, 0];
    address[4..].copy_from_slice(&port.to_le_bytes());
    address
}

/// CPUs and interrupt controllers (5.2.12). Interrupts of the ISA bus are at their places.
fn madt(cpus: u8) -> Vec<u8> {
    const ENABLED: u32 = 1;
    /// There are two 8259s too.
    const PC_COMPATIBLE: u32 = 1;
    let mut body = Vec::new();
    body.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    body.extend_from_slice(&PC_COMPATIBLE.to_le_bytes());
    for cpu in 0..cpus {
        body.extend_from_slice(&[0, 8, cpu, cpu]);
        body.extend_from_slice(&ENABLED.to_le_bytes());
    }
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&IO_APIC.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    table(b"APIC", 5, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(image: &[u8], address: u64) -> &[u8] {
        &image[(address - ACPI_TABLES.0) as usize..]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_found_from_the_root_and_adds_up() {
        let image = tables(3, 2);
        assert_eq!(sum(&image[..20]), 0);
        assert_eq!(sum(&image[..RSDP_BYTES]), 0);
        let xsdt_at = u64::from_le_bytes(image[24..32].try_into().unwrap());
        let xsdt = at(&image, xsdt_at);
        let len = |table: &[u8]| u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
        assert_eq!(sum(&xsdt[..len(xsdt)]), 0);
        let mut names = Vec::new();
        for entry in xsdt[HEADER_BYTES..len(xsdt)].chunks(8) {
            let table = at(&image, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(&table[..len(table)]), 0);
            names.push(table[..4].to_vec());
            if &table[..4] == b"FACP" {
                assert_eq!(len(table), FADT_BYTES);
                let dsdt = u64::from_le_bytes(table[140..148].try_into().unwrap());
                let dsdt = at(&image, dsdt);
                assert_eq!(&dsdt[..4], b"DSDT");
                assert_eq!(sum(&dsdt[..len(dsdt)]), 0);
            }
        }
        assert_eq!(names, [b"FACP", b"APIC"]);
    }

    #[test]
    fn there_is_an_entry_for_each_cpu() {
        let one = madt(1);
        let many = madt(254);
        assert_eq!(many.len() - one.len(), 253 * 8);
    }
}

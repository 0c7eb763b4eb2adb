// SPDX-License-Identifier: GPL-2.0

//! The state that a CPU starts in: 64-bit mode, as the kernel's boot protocol asks for
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use super::layout::{GDT, PAGE_TABLES, ZERO_PAGE};
use crate::sys::kvm::Vcpu;
use kvm_bindings::{kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, Msrs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::errno::{Error, Result};

const PAGE: u64 = 4096;
/// Nothing, nothing, code at 0x10, data at 0x18, a task: what the boot protocol wants.
const DESCRIPTORS: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];
const CODE: u16 = 2;
const DATA: u16 = 3;
const TASK: u16 = 4;

/// Writes the segment descriptors, and page tables that map the first 4 GiB to themselves.
pub fn write_tables(memory: &GuestMemoryMmap) -> std::result::Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const GIBIBYTES: u64 = 4;
    const ENTRIES: u64 = 512;

    let put = |at: GuestAddress, index: u64, entry: u64| {
        memory.write_obj(entry.to_le(), GuestAddress(at.0 + index * 8))
    };
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        put(GDT, index, descriptor)?;
    }
    let (top, middle, low) = (
        PAGE_TABLES,
        GuestAddress(PAGE_TABLES.0 + PAGE),
        GuestAddress(PAGE_TABLES.0 + 2 * PAGE),
    );
    put(top, 0, middle.0 | PRESENT_WRITABLE)?;
    for gib in 0..GIBIBYTES {
        put(middle, gib, (low.0 + gib * PAGE) | PRESENT_WRITABLE)?;
    }
    for index in 0..GIBIBYTES * ENTRIES {
        put(low, index, index << 21 | PRESENT_WRITABLE | LARGE)?;
    }
    Ok(())
}

/// Lets the CPU start at `entry`. The others wait for it in the state that KVM gave them.
pub fn set_up_first(vcpu: &Vcpu, entry: GuestAddress) -> Result<()> {
    vcpu.fd().set_regs(&kvm_regs {
        rip: entry.0,
        rsi: ZERO_PAGE.0,
        // Some stack until the kernel has its own.
        rsp: PAGE_TABLES.0 - 16,
        rbp: PAGE_TABLES.0 - 16,
        // Bit 1 is always set.
        rflags: 2,
        ..Default::default()
    })?;
    set_up_mode(vcpu)
}

/// Sets up the state that every CPU gets.
pub fn set_up_any(vcpu: &Vcpu) -> Result<()> {
    vcpu.fd().set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    })?;
    set_up_msrs(vcpu)?;
    set_up_local_apic(vcpu)
}

fn set_up_mode(vcpu: &Vcpu) -> Result<()> {
    const CR0_PROTECTED: u64 = 1;
    const CR0_EXTENSION_TYPE: u64 = 1 << 4;
    const CR0_PAGING: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

    let mut sregs = vcpu.fd().get_sregs()?;
    sregs.gdt.base = GDT.0;
    sregs.gdt.limit = (size_of_val(&DESCRIPTORS) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = segment(CODE);
    sregs.ds = segment(DATA);
    sregs.es = segment(DATA);
    sregs.fs = segment(DATA);
    sregs.gs = segment(DATA);
    sregs.ss = segment(DATA);
    sregs.tr = segment(TASK);
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
    sregs.cr3 = PAGE_TABLES.0;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LONG_MODE;
    vcpu.fd().set_sregs(&sregs)
}

/// Returns the segment that the CPU would load for this descriptor.
fn segment(index: u16) -> kvm_segment {
    let descriptor = DESCRIPTORS[usize::from(index)];
    let bits = |from: u32, count: u32| (descriptor >> from & ((1 << count) - 1)) as u8;
    let granularity = bits(55, 1);
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    kvm_segment {
        base: 0,
        limit: if granularity != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        selector: index * 8,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: granularity,
        unusable: 0,
        padding: 0,
    }
}

fn set_up_msrs(vcpu: &Vcpu) -> Result<()> {
    const MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRINGS: u64 = 1;
    const MTRR_DEFAULT: u32 = 0x2ff;
    const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    for entry in [
        entry(MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK),
        entry(MISC_ENABLE, FAST_STRINGS),
    ] {
        let msrs = Msrs::from_entries(&[entry]).map_err(|_| Error::new(libc::EINVAL))?;
        // A CPU that does not have it does not need it.
        vcpu.fd().set_msrs(&msrs)?;
    }
    Ok(())
}

/// As a BIOS leaves it: the 8259s through the first line, non-maskable interrupts through the
/// second.
fn set_up_local_apic(vcpu: &Vcpu) -> Result<()> {
    const LVT_LINE0: usize = 0x350;
    const LVT_LINE1: usize = 0x360;
    const MODE_SHIFT: u32 = 8;
    const MODE_NMI: u32 = 4;
    const MODE_EXTERNAL: u32 = 7;
    let mut apic = vcpu.fd().get_lapic()?;
    for (at, mode) in [(LVT_LINE0, MODE_EXTERNAL), (LVT_LINE1, MODE_NMI)] {
        let register = &mut apic.regs[at..at + 4];
        let mut bytes = [0; 4];
        bytes
            .iter_mut()
            .zip(&*register)
            .for_each(|(to, from)| *to = *from as u8);
        let value = u32::from_le_bytes(bytes) & !(7 << MODE_SHIFT) | mode << MODE_SHIFT;
        register
            .iter_mut()
            .zip(value.to_le_bytes())
            .for_each(|(to, from)| *to = from as _);
    }
    vcpu.fd().set_lapic(&apic)
}

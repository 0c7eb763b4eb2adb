// SPDX-License-Identifier: GPL-2.0

//! The CPUID of a CPU of the guest: what KVM supports, and its place among the others.

use kvm_bindings::{kvm_cpuid_entry2, CpuId};

/// Adapts what KVM supports to CPU `cpu` of `cpus`, each a core of one package.
pub fn adapt(cpuid: &mut CpuId, cpu: u8, cpus: u8, tsc_deadline: bool) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => features(entry, cpu, cpus, tsc_deadline),
            // Intel: caches, and how many cores share the package.
            0x4 if entry.eax & 0x1f != 0 => {
                let cores = u32::from(cpus).next_power_of_two() - 1;
                entry.eax = entry.eax & 0x03ff_ffff | cores.min(63) << 26;
            }
            // Performance and energy bias: nothing to choose.
            0x6 => entry.ecx &= !(1 << 3),
            0xb | 0x1f => topology(entry, cpu, cpus),
            // AMD: more than one core, how many, and which one this is.
            0x8000_0001 if cpus > 1 => entry.ecx |= 1 << 1,
            0x8000_0008 => {
                entry.ecx = entry.ecx & !0xf0ff | core_bits(cpus) << 12 | u32::from(cpus - 1);
            }
            0x8000_001e => {
                entry.eax = cpu.into();
                entry.ebx = cpu.into();
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

fn features(entry: &mut kvm_cpuid_entry2, cpu: u8, cpus: u8, tsc_deadline: bool) {
    const ECX_TSC_DEADLINE: u32 = 1 << 24;
    const ECX_HYPERVISOR: u32 = 1 << 31;
    const EDX_SEVERAL_CPUS: u32 = 1 << 28;
    entry.ebx = entry.ebx & 0xffff | u32::from(cpus) << 16 | u32::from(cpu) << 24;
    entry.ecx |= ECX_HYPERVISOR;
    entry.ecx &= !ECX_TSC_DEADLINE;
    if tsc_deadline {
        entry.ecx |= ECX_TSC_DEADLINE;
    }
    entry.edx &= !EDX_SEVERAL_CPUS;
    if cpus > 1 {
        entry.edx |= EDX_SEVERAL_CPUS;
    }
}

/// Level 0: one thread for each core. Level 1: the cores of the package.
fn topology(entry: &mut kvm_cpuid_entry2, cpu: u8, cpus: u8) {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, THREAD << 8),
        1 => (core_bits(cpus), cpus.into(), CORE << 8 | 1),
        other => (0, 0, other & 0xff),
    };
    entry.edx = cpu.into();
}

/// Bits that it takes to number the cores.
fn core_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    #[test]
    fn each_cpu_has_its_own_number() {
        let entries = [
            entry(1, 0),
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0x8000_0008, 0),
        ];
        let mut cpuid = CpuId::from_entries(&entries).unwrap();
        adapt(&mut cpuid, 2, 3, true);
        let [leaf1, thread, core, amd] = cpuid.as_slice() else {
            panic!("four entries");
        };
        assert_eq!(leaf1.ebx, 2 << 24 | 3 << 16);
        assert_eq!(leaf1.ecx, 1 << 31 | 1 << 24);
        assert_eq!(leaf1.edx, 1 << 28);
        assert_eq!((thread.eax, thread.ebx, thread.edx), (0, 1, 2));
        assert_eq!((core.eax, core.ebx, core.edx), (2, 3, 2));
        assert_eq!(amd.ecx, 2 << 12 | 2);
    }
}

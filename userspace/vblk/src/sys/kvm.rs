// SPDX-License-Identifier: GPL-2.0

//! A virtual machine that keeps its memory mapped for as long as anything can run in it.

use crate::memory::Memory;
use kvm_bindings::{kvm_pit_config, kvm_userspace_memory_region, KVM_PIT_SPEAKER_DUMMY};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::{
    errno::{Error, Result},
    eventfd::EventFd,
};

/// Address of three pages that KVM on Intel has for itself, in the gap below 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A virtual machine and its memory.
///
/// # Invariants
///
/// The regions that KVM was told of are those of `memory`. KVM runs guest code only through
/// [`Vcpu`]s, each of which holds the memory too.
pub struct Vm {
    fd: Arc<VmFd>,
    memory: Memory,
}

impl Vm {
    /// A machine with `memory`, interrupt controllers and a timer, but no CPUs.
    pub fn new(kvm: &Kvm, memory: Memory) -> Result<Self> {
        let fd = uninterrupted(|| kvm.create_vm())?;
        fd.set_tss_address(TSS_ADDRESS)?;
        for (slot, region) in memory.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: The region is mapped for as long as `memory` exists, which outlives every
            // CPU by the invariants. Regions of a `GuestMemoryMmap` do not overlap.
            unsafe { fd.set_user_memory_region(region) }?;
        }
        fd.create_irq_chip()?;
        fd.create_pit2(kvm_pit_config {
            // Port 0x61 is needed to calibrate clocks against the timer.
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })?;
        Ok(Self {
            fd: Arc::new(fd),
            memory,
        })
    }

    /// Adds a CPU.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        Ok(Vcpu {
            fd: uninterrupted(|| self.fd.create_vcpu(id))?,
            _memory: self.memory.clone(),
        })
    }

    /// Returns whether this machine has a capability.
    pub fn has(&self, cap: Cap) -> bool {
        self.fd.check_extension(cap)
    }

    /// Raises interrupt `gsi` for a moment whenever `event` is signalled.
    pub fn interrupt_on(&self, event: &EventFd, gsi: u32) -> Result<()> {
        self.fd.register_irqfd(event, gsi)
    }

    /// Signals `event` whenever the guest writes `value` to `address` as 32 bits, instead of
    /// leaving guest mode for this process.
    pub fn signal_on_write(&self, event: &EventFd, address: u64, value: u32) -> Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.fd.register_ioevent(event, &address, value)
    }
}

/// Asks KVM again as long as it was interrupted: it gives up for any signal, also one that does
/// nothing, such as SIGCONT after SIGSTOP.
fn uninterrupted<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let interrupted = Error::new(libc::EINTR);
    loop {
        match ask() {
            Err(e) if e == interrupted => {}
            answer => return answer,
        }
    }
}

/// A CPU of a [`Vm`].
pub struct Vcpu {
    fd: VcpuFd,
    _memory: Memory,
}

impl Vcpu {
    /// To set it up.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// To run it.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }
}

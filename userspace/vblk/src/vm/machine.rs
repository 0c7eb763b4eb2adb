// SPDX-License-Identifier: GPL-2.0

//! Putting a machine together, running it, and taking it apart.

use super::{
    boot::{
        Boot,
        Error as BootError, //
    },
    cpuid,
    layout::{
        disk_places,
        memory_ranges,
        MAX_DISKS, //
    },
    registers,
    vcpu::{
        self,
        Ending,
        Surroundings, //
    },
    wiring::Builder, //
};
use crate::{
    backend::{
        self,
        Backend, //
    },
    devices::{
        bus::{
            Bus,
            Shared, //
        },
        serial::SerialConsole,
        virtio::block::{
            BlockDevice,
            Virtqueues, //
        },
    },
    errno, memory,
    seccomp::Filters,
    sys::kvm::{
        Vcpu,
        Vm, //
    },
};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{
    Cap,
    Kvm, //
};
use std::{
    io::{
        self,
        Write, //
    },
    sync::{
        Arc,
        Mutex, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::{
        Duration,
        Instant, //
    },
};
use vm_memory::GuestAddress;
use vmm_sys_util::{
    eventfd::{
        EventFd,
        EFD_NONBLOCK, //
    },
    signal::{
        register_signal_handler,
        Killable,
        SIGRTMIN, //
    },
};

/// Most CPUs: numbers of local APICs have 8 bits here, and one is a broadcast.
pub const MAX_CPUS: u8 = 254;
/// How long CPUs may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no machine. The text names the option or the step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM is not there, or refuses something.
    #[error("{step}: {}", errno::text(.cause))]
    Kvm {
        /// What it refused.
        step: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// More CPUs than KVM can do.
    #[error("--cpus {asked}: this host can do {max} at most")]
    Cpus {
        /// How many were asked for.
        asked: u8,
        /// How many there can be.
        max: usize,
    },
    /// More disks than there are interrupts for.
    #[error("--disk: given {0} times, {MAX_DISKS} is the most")]
    Disks(usize),
    /// Memory can't be mapped.
    #[error("--memory: {0}")]
    Memory(#[from] memory::Error),
    /// The guest can't be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A disk can't be offered.
    #[error("{label}: {cause}")]
    Disk {
        /// What names it.
        label: String,
        /// Why.
        cause: backend::Error,
    },
    /// Two devices at one address: a mistake in the layout.
    #[error(transparent)]
    Layout(#[from] crate::devices::bus::Taken),
}

/// A disk of the machine.
pub struct DiskSlot {
    /// Who serves it.
    pub backend: Box<dyn Backend>,
    /// Which queues it has.
    pub queues: Virtqueues,
    /// What names it in messages.
    pub label: String,
}

/// A machine that is ready to run, or runs.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    threads: Vec<JoinHandle<()>>,
    around: Surroundings,
    serial: Shared<SerialConsole>,
    drained: Arc<EventFd>,
    disks: Vec<Shared<BlockDevice>>,
    _vm: Vm,
}

/// Opens KVM.
///
/// # Errors
///
/// [`Error::Kvm`].
pub fn open_kvm() -> Result<Kvm, Error> {
    Kvm::new().map_err(kvm("/dev/kvm"))
}

impl Machine {
    /// Builds a machine and loads the guest. What the guest writes to its console goes to
    /// `output`. The threads of its CPUs are confined by `filters`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn new(
        kvm_fd: &Kvm,
        cpus: u8,
        memory_bytes: u64,
        boot: Boot,
        disks: Vec<DiskSlot>,
        filters: Filters,
        output: Box<dyn Write + Send>,
    ) -> Result<Self, Error> {
        let max = kvm_fd.get_max_vcpus().min(MAX_CPUS.into());
        if usize::from(cpus) > max {
            return Err(Error::Cpus { asked: cpus, max });
        }
        if disks.len() > MAX_DISKS {
            return Err(Error::Disks(disks.len()));
        }
        let memory = memory::anonymous(&memory_ranges(memory_bytes))?;
        let vm = Vm::new(kvm_fd, memory.clone()).map_err(kvm("creating the machine"))?;
        let ending = Arc::new(Ending::new(event()?));
        let mut builder = Builder {
            vm: &vm,
            memory: &memory,
            ending: &ending,
            ports: Bus::default(),
            mmio: Bus::default(),
        };
        let drained = Arc::new(event()?);
        let serial = builder.serial(drained.clone(), output)?;
        builder.clock()?;
        builder.power()?;
        let devices = disk_places()
            .zip(disks)
            .map(|(place, disk)| builder.disk(place, disk))
            .collect::<Result<Vec<_>, _>>()?;
        let (ports, mmio) = (Arc::new(builder.ports), Arc::new(builder.mmio));
        let entry = boot.load(&memory, cpus, devices.len())?;
        let vcpus = create_vcpus(kvm_fd, &vm, cpus, entry).map_err(kvm("creating CPUs"))?;
        Ok(Self {
            vcpus,
            threads: Vec::new(),
            around: Surroundings {
                ports,
                mmio,
                ending,
                filters,
            },
            serial,
            drained,
            disks: devices,
            _vm: vm,
        })
    }

    /// Lets the guest run.
    ///
    /// # Errors
    ///
    /// When threads can't be started; to be stopped all the same.
    pub fn start(&mut self) -> Result<(), Error> {
        extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        // The signal does nothing but end KVM_RUN.
        register_signal_handler(SIGRTMIN(), wake).map_err(kvm("installing a signal handler"))?;
        for (number, vcpu) in self.vcpus.drain(..).enumerate() {
            let around = self.around.clone();
            let thread = thread::Builder::new()
                .name(format!("vblk-cpu{number}"))
                .spawn(move || vcpu::run(number, vcpu, &around))
                .map_err(|cause| Error::Kvm {
                    step: "starting a thread for a CPU",
                    cause,
                })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Where the guest's end is reported.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.around.ending
    }

    /// The guest's console.
    pub fn serial(&self) -> &Mutex<SerialConsole> {
        &self.serial
    }

    /// Signalled when the guest has read its console's input.
    pub fn drained(&self) -> &EventFd {
        &self.drained
    }

    /// The disks, in the order in which they were given.
    pub fn disks(&self) -> &[Shared<BlockDevice>] {
        &self.disks
    }

    /// Stops the CPUs, whatever the guest does. Whether all of them did.
    pub fn stop(&mut self) -> bool {
        self.around.ending.stop();
        let end = Instant::now() + PATIENCE;
        for thread in &self.threads {
            // A signal that comes just before KVM_RUN is lost: hence more than one.
            while !thread.is_finished() && Instant::now() < end {
                let _ = thread.kill(SIGRTMIN());
                thread::sleep(Duration::from_millis(1));
            }
        }
        let stopped = self.threads.iter().all(JoinHandle::is_finished);
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            // A panic of the thread was reported as the guest's end.
            let _ = thread.join();
        }
        stopped
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn create_vcpus(
    kvm_fd: &Kvm,
    vm: &Vm,
    cpus: u8,
    entry: GuestAddress,
) -> vmm_sys_util::errno::Result<Vec<Vcpu>> {
    let supported = kvm_fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let tsc_deadline = vm.has(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::new();
    for cpu in 0..cpus {
        let vcpu = vm.create_vcpu(cpu.into())?;
        let mut cpuid = supported.clone();
        cpuid::adapt(&mut cpuid, cpu, cpus, tsc_deadline);
        vcpu.fd().set_cpuid2(&cpuid)?;
        registers::set_up_any(&vcpu)?;
        if cpu == 0 {
            registers::set_up_first(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

pub(super) fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK).map_err(|cause| Error::Kvm {
        step: "eventfd",
        cause,
    })
}

pub(super) fn kvm(step: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Error {
    move |error| Error::Kvm {
        step,
        cause: error.into(),
    }
}

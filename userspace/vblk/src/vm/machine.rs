// SPDX-License-Identifier: GPL-2.0

//! Putting a machine together, running it, and taking it apart.

use super::{
    boot::Boot,
    cpuid,
    ending::Ending,
    error::{event, kvm, Error},
    layout::{disk_places, memory_ranges, MAX_DISKS},
    registers,
    vcpu::{self, HaltCheck, VcpuContext},
    wiring::{Builder, DiskSlot},
};
use crate::{
    devices::{
        bus::{Bus, Shared},
        serial::SerialConsole,
        virtio::block::BlockDevice,
    },
    errno, memory,
    output::Output,
    seccomp::Filters,
    sys::kvm::{Vcpu, Vm},
};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};
use std::{
    sync::{mpsc, Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use vm_memory::GuestAddress;
use vmm_sys_util::{
    eventfd::EventFd,
    signal::{register_signal_handler, Killable, SIGRTMIN},
};

/// Most CPUs: numbers of local APICs have 8 bits here, and one is a broadcast.
pub const MAX_CPUS: u8 = 254;
/// How long CPUs may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// A machine that is ready to run, or runs.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    threads: Vec<JoinHandle<()>>,
    context: VcpuContext,
    output: Output,
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
        output: Output,
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
        let serial = builder.serial(drained.clone(), output.clone())?;
        builder.clock()?;
        let marks = boot.restart_marks();
        builder.power(marks)?;
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
            context: VcpuContext {
                ports,
                mmio,
                ending,
                filters,
                gate: Arc::default(),
                halt_check: Arc::new(HaltCheck::new(cpus)),
                memory,
                marks,
            },
            output,
            serial,
            drained,
            disks: devices,
            _vm: vm,
        })
    }

    /// Starts the threads of the CPUs. The guest does not run before [`Self::release`].
    ///
    /// # Errors
    ///
    /// [`Error::Threads`]; to be stopped all the same.
    pub fn start(&mut self) -> Result<(), Error> {
        extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        // The signal does nothing but end KVM_RUN.
        register_signal_handler(SIGRTMIN(), wake).map_err(kvm("installing a signal handler"))?;
        let cpus = self.vcpus.len();
        let failed = |cause: String| Error::Threads { cpus, cause };
        let (tell, confined) = mpsc::channel();
        for (number, vcpu) in self.vcpus.drain(..).enumerate() {
            let (context, tell) = (self.context.clone(), tell.clone());
            let thread = thread::Builder::new()
                .name(format!("vblk-cpu{number}"))
                .spawn(move || vcpu::run(number, vcpu, &context, &tell))
                .map_err(|e| failed(format!("starting a thread: {}", errno::text(&e))))?;
            self.threads.push(thread);
        }
        // So that a thread that ends without a word is noticed.
        drop(tell);
        confined
            .iter()
            .take(cpus)
            .try_for_each(|confined| confined.map_err(|e| failed(e.to_string())))
    }

    /// Lets the guest run.
    pub fn release(&self) {
        self.context.gate.open();
    }

    /// Asks the CPUs whether all of them have halted for good. They report that as the guest's end.
    /// To be called about once a second.
    pub fn check_halted(&self) {
        self.context.halt_check.ask();
        for thread in &self.threads {
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// Returns the place where the guest's end is reported.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.context.ending
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

    /// Stops the CPUs, whatever the guest does. Returns whether all of them did within some
    /// seconds.
    pub fn stop(&mut self) -> bool {
        self.context.ending.stop();
        self.context.gate.open();
        self.output.release();
        let end = Instant::now() + PATIENCE;
        for thread in &self.threads {
            // A signal that comes just before KVM_RUN is lost: hence more than one.
            while !thread.is_finished() && Instant::now() < end {
                let _ = thread.kill(SIGRTMIN());
                thread::sleep(Duration::from_millis(1));
            }
        }
        let (done, stuck): (Vec<_>, Vec<_>) =
            self.threads.drain(..).partition(JoinHandle::is_finished);
        self.threads = stuck;
        for thread in done {
            // A panic of the thread was reported as the guest's end.
            let _ = thread.join();
        }
        self.is_stopped()
    }

    /// Returns whether all CPUs have stopped.
    pub fn is_stopped(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
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

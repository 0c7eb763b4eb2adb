// SPDX-License-Identifier: GPL-2.0

//! The thread of a CPU: runs the guest, and does what the guest can't do alone.

use super::{
    ending::{End, Ending},
    restart::RestartMarks,
};
use crate::{
    devices::bus::Bus,
    memory::Memory,
    seccomp::{self, Filters, Thread},
    sys::kvm::Vcpu,
};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuExit;
use std::sync::{
    atomic::{AtomicBool, AtomicUsize, Ordering},
    mpsc::Sender,
    Arc, Condvar, Mutex, PoisonError,
};
use vm_memory::{Bytes, GuestAddress};

/// Holds the threads of CPUs back until the machine starts.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Lets everybody pass.
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self
                .opened
                .wait(open)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Finds out whether all CPUs have halted for good. The main thread asks, and each CPU answers when
/// it is woken.
#[derive(Default)]
pub struct HaltCheck {
    /// Which CPUs are still to answer.
    asked: Vec<AtomicBool>,
    /// CPUs that have answered that nothing but another CPU can wake them.
    asleep: AtomicUsize,
}

impl HaltCheck {
    /// For this many CPUs.
    pub fn new(cpus: u8) -> Self {
        Self {
            asked: (0..cpus).map(|_| false.into()).collect(),
            asleep: 0.into(),
        }
    }

    /// Asks all CPUs. They answer when they leave the guest, which the caller sees to.
    pub fn ask(&self) {
        self.asleep.store(0, Ordering::SeqCst);
        for asked in &self.asked {
            asked.store(true, Ordering::SeqCst);
        }
    }

    /// Answers for CPU `number` if it is asked. Returns whether all are asleep.
    fn answer(&self, number: usize, vcpu: &Vcpu, memory: &Memory) -> bool {
        let asked = self.asked.get(number);
        let is_asked = asked.is_some_and(|asked| asked.swap(false, Ordering::SeqCst));
        if !is_asked || !is_asleep(vcpu, memory) {
            return false;
        }
        self.asleep.fetch_add(1, Ordering::SeqCst) + 1 == self.asked.len()
    }
}

/// Returns whether no interrupt can wake the CPU: it was not started, or it has halted with
/// interrupts off. KVM may take a halted CPU for one that runs, and let it halt again and again: then
/// it stands behind that instruction.
fn is_asleep(vcpu: &Vcpu, memory: &Memory) -> bool {
    const INTERRUPTS_ON: u64 = 1 << 9;
    let state = vcpu.fd().get_mp_state().map(|state| state.mp_state);
    let (Ok(state), Ok(regs)) = (state, vcpu.fd().get_regs()) else {
        return false;
    };
    let interrupts_on = regs.rflags & INTERRUPTS_ON != 0;
    match state {
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
        KVM_MP_STATE_HALTED => !interrupts_on,
        KVM_MP_STATE_RUNNABLE => !interrupts_on && is_behind_halt(vcpu, memory, regs.rip),
        _ => false,
    }
}

/// Returns whether the instruction before `rip` is HLT. In real mode, where that is not the linear
/// address, it may miss one.
fn is_behind_halt(vcpu: &Vcpu, memory: &Memory, rip: u64) -> bool {
    const HLT: u8 = 0xf4;
    let place = vcpu.fd().translate_gva(rip.wrapping_sub(1));
    let place = place.ok().filter(|place| place.valid != 0);
    let byte = place.map(|place| memory.read_obj::<u8>(GuestAddress(place.physical_address)));
    matches!(byte, Some(Ok(HLT)))
}

/// State that the CPUs share.
#[derive(Clone)]
pub struct VcpuContext {
    /// The ports.
    pub ports: Arc<Bus>,
    /// The address space.
    pub mmio: Arc<Bus>,
    /// The place where the end is reported.
    pub ending: Arc<Ending>,
    /// The system calls that their threads may make.
    pub filters: Filters,
    /// Opened when they may run.
    pub gate: Arc<Gate>,
    /// Asked whether they sleep.
    pub halt_check: Arc<HaltCheck>,
    /// The guest's memory.
    pub memory: Memory,
    /// How the guest's kernel marks its restarts.
    pub marks: RestartMarks,
}

/// Reports a thread that ends by a panic.
struct PanicGuard<'a>(&'a Ending, usize);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cpu = self.1;
            self.0
                .report(End::Failed(format!("CPU {cpu}: its thread panicked")));
        }
    }
}

/// Runs a CPU until the guest ends. Says through `confined` whether the thread could be confined.
pub fn run(
    number: usize,
    mut vcpu: Vcpu,
    context: &VcpuContext,
    confined: &Sender<Result<(), seccomp::Error>>,
) {
    let ending = &*context.ending;
    let _guard = PanicGuard(ending, number);
    // Nobody listens any more when another thread could not be started.
    let _ = confined.send(context.filters.apply(Thread::Vcpu));
    context.gate.pass();
    while !ending.is_over() {
        if let Err(reason) = step(number, &mut vcpu, context) {
            ending.report(match reason {
                Reason::End(end) => end,
                Reason::Failed(why) => End::Failed(format!("CPU {number}: {why}")),
            });
        }
    }
}

enum Reason {
    End(End),
    Failed(String),
}

/// Runs the guest up to its next exit.
fn step(number: usize, vcpu: &mut Vcpu, context: &VcpuContext) -> Result<(), Reason> {
    let failed = |why: &str| Err(Reason::Failed(why.to_owned()));
    match vcpu.fd_mut().run() {
        Ok(VcpuExit::IoIn(port, data)) => context.ports.read(port.into(), data),
        Ok(VcpuExit::IoOut(port, data)) => context.ports.write(port.into(), data),
        Ok(VcpuExit::MmioRead(address, data)) => context.mmio.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => context.mmio.write(address, data),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_)) => {}
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
            return Err(Reason::End(End::PowerOff))
        }
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
            return Err(Reason::End(End::Reset))
        }
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => {
            return Err(Reason::End(End::Panic))
        }
        Ok(VcpuExit::Shutdown) => {
            let end = context.marks.after_triple_fault(&context.memory);
            return Err(Reason::End(end));
        }
        Ok(VcpuExit::FailEntry(why, _)) => {
            return failed(&format!("KVM could not enter the guest ({why:#x})"))
        }
        Ok(VcpuExit::InternalError) => {
            let at = vcpu.fd().get_regs().map_or(0, |regs| regs.rip);
            return failed(&format!("KVM could not go on at {at:#x} (internal error)"));
        }
        Ok(other) => return failed(&format!("unexpected exit {other:?}")),
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
            if context.halt_check.answer(number, vcpu, &context.memory) {
                return Err(Reason::End(End::Halted));
            }
        }
        Err(e) => return failed(&format!("KVM_RUN: {}", crate::errno::text(&e.into()))),
    }
    Ok(())
}

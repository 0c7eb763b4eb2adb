// SPDX-License-Identifier: GPL-2.0

//! The thread of a CPU: runs the guest, and does what the guest can't do alone.

use crate::{
    devices::bus::Bus,
    seccomp::{
        Filters,
        Thread, //
    },
    sys::kvm::Vcpu, //
};
use kvm_bindings::{
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, //
};
use kvm_ioctls::VcpuExit;
use std::sync::{
    atomic::{
        AtomicBool,
        Ordering, //
    },
    Arc,
    Mutex,
    PoisonError, //
};
use vmm_sys_util::eventfd::EventFd;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked for a restart.
    Reset,
    /// Its kernel panicked, and asked for a restart.
    Panic,
    /// It can't go on, or a back-end can't; with the reason.
    Failed(String),
}

/// Where the end of a guest is made known. The first report counts.
pub struct Ending {
    end: Mutex<Option<End>>,
    over: AtomicBool,
    event: EventFd,
}

impl Ending {
    /// No end yet. `event` will be signalled.
    pub fn new(event: EventFd) -> Self {
        Self {
            end: Mutex::new(None),
            over: AtomicBool::new(false),
            event,
        }
    }

    /// Ends the guest.
    pub fn report(&self, end: End) {
        let mut first = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(end);
        self.over.store(true, Ordering::Release);
        let _ = self.event.write(1);
    }

    /// How it ended, if it did.
    pub fn get(&self) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }

    /// Whether CPUs should stop.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Makes CPUs stop although the guest did not end.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Signalled at the end.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// What the CPUs share.
#[derive(Clone)]
pub struct Surroundings {
    /// The ports.
    pub ports: Arc<Bus>,
    /// The address space.
    pub mmio: Arc<Bus>,
    /// Where the end is reported.
    pub ending: Arc<Ending>,
    /// What their threads may do.
    pub filters: Filters,
}

/// Reports a thread that ends by a panic.
struct Watch<'a>(&'a Ending, usize);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cpu = self.1;
            self.0
                .report(End::Failed(format!("CPU {cpu}: its thread panicked")));
        }
    }
}

/// Runs a CPU until the guest ends.
pub fn run(number: usize, mut vcpu: Vcpu, around: &Surroundings) {
    let ending = &*around.ending;
    let _watch = Watch(ending, number);
    if let Err(e) = around.filters.apply(Thread::Vcpu) {
        ending.report(End::Failed(format!("CPU {number}: {e}")));
    }
    while !ending.is_over() {
        if let Err(reason) = step(&mut vcpu, around) {
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
fn step(vcpu: &mut Vcpu, around: &Surroundings) -> Result<(), Reason> {
    let failed = |why: &str| Err(Reason::Failed(why.to_owned()));
    match vcpu.fd_mut().run() {
        Ok(VcpuExit::IoIn(port, data)) => around.ports.read(port.into(), data),
        Ok(VcpuExit::IoOut(port, data)) => around.ports.write(port.into(), data),
        Ok(VcpuExit::MmioRead(address, data)) => around.mmio.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => around.mmio.write(address, data),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_)) => {}
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
            return Err(Reason::End(End::PowerOff))
        }
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => {
            return Err(Reason::End(End::Reset))
        }
        Ok(VcpuExit::SystemEvent(..)) => return Err(Reason::End(End::Panic)),
        Ok(VcpuExit::Shutdown) => return failed("the guest crashed (triple fault)"),
        Ok(VcpuExit::FailEntry(why, _)) => {
            return failed(&format!("KVM could not enter the guest ({why:#x})"))
        }
        Ok(VcpuExit::InternalError) => {
            let at = vcpu.fd().get_regs().map_or(0, |regs| regs.rip);
            return failed(&format!("KVM could not go on at {at:#x} (internal error)"));
        }
        Ok(other) => return failed(&format!("unexpected exit {other:?}")),
        Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
        Err(e) => return failed(&format!("KVM_RUN: {}", crate::errno::text(&e.into()))),
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! Adding devices to a machine: addresses, interrupts, kicks.

use super::{
    ending::{End, Ending},
    error::{event, kvm, Error},
    layout::{DiskPlace, ACPI_PORT, SERIAL_IRQ},
    restart::RestartMarks,
};
use crate::{
    backend::Backend,
    devices::{
        bus::{lock, Bus, Device, Shared},
        clock::{Clock, CLOCK_PORT, CLOCK_PORTS},
        power::{
            self, AcpiPower, KeyboardController, PanicPort, Request, RequestHandler, ResetPort,
        },
        serial::{SerialConsole, SERIAL_PORT, SERIAL_PORTS},
        virtio::{
            block::{BlockDevice, Virtqueues},
            mmio::{MMIO_BYTES, QUEUE_NOTIFY},
        },
    },
    memory::Memory,
    output::Output,
    sys::kvm::Vm,
};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// A disk of the machine.
pub struct DiskSlot {
    /// The back-end that serves it.
    pub backend: Box<dyn Backend>,
    /// Which queues it has.
    pub queues: Virtqueues,
    /// Its name in messages.
    pub label: String,
}

/// The serial port as CPUs reach it. A CPU that writes faster than the output takes waits here,
/// without the lock that input needs.
struct SerialPort {
    console: Shared<SerialConsole>,
    output: Output,
}

impl Device for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        lock(&self.console).read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        lock(&self.console).write(offset, data);
        self.output.wait_for_room();
    }
}

/// Adds devices to a machine.
pub(super) struct Builder<'a> {
    pub(super) vm: &'a Vm,
    pub(super) memory: &'a Memory,
    pub(super) ending: &'a Arc<Ending>,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
}

impl Builder<'_> {
    pub(super) fn serial(
        &mut self,
        drained: Arc<EventFd>,
        output: Output,
    ) -> Result<Shared<SerialConsole>, Error> {
        let interrupt = event()?;
        self.vm
            .interrupt_on(&interrupt, SERIAL_IRQ)
            .map_err(kvm("KVM_IRQFD"))?;
        let console = SerialConsole::new(interrupt, drained, Box::new(output.clone()));
        let console = Arc::new(Mutex::new(console));
        let port = SerialPort {
            console: console.clone(),
            output,
        };
        let port = Arc::new(Mutex::new(port));
        self.ports.insert(SERIAL_PORT, SERIAL_PORTS, port)?;
        Ok(console)
    }

    pub(super) fn clock(&mut self) -> Result<(), Error> {
        let clock = Arc::new(Mutex::new(Clock::default()));
        Ok(self.ports.insert(CLOCK_PORT, CLOCK_PORTS, clock)?)
    }

    pub(super) fn power(&mut self, marks: RestartMarks) -> Result<(), Error> {
        let (ending, memory) = (self.ending.clone(), self.memory.clone());
        let sink: RequestHandler = Arc::new(move |request| {
            ending.report(match request {
                Request::Off => End::PowerOff,
                Request::Reset => marks.after_reset(&memory),
                Request::Panic => End::Panic,
            });
        });
        let acpi = AcpiPower::new(sink.clone());
        let keyboard = KeyboardController::new(sink.clone());
        let control = ResetPort::reset_control(sink.clone());
        let control_a = ResetPort::control_a(sink.clone());
        let panic = PanicPort::new(sink);
        let mut insert = |port, count, device| self.ports.insert(port, count, device);
        insert(ACPI_PORT, power::ACPI_PORTS, shared(acpi))?;
        insert(power::KEYBOARD_PORT, 1, shared(keyboard))?;
        insert(power::RESET_CONTROL_PORT, 1, shared(control))?;
        insert(power::CONTROL_PORT_A, 1, shared(control_a))?;
        insert(power::PANIC_PORT, 1, shared(panic))?;
        Ok(())
    }

    /// Adds a disk.
    pub(super) fn disk(
        &mut self,
        place: DiskPlace,
        disk: DiskSlot,
    ) -> Result<Shared<BlockDevice>, Error> {
        let base = u64::from(place.base);
        let (ending, label) = (self.ending.clone(), disk.label.clone());
        let device = BlockDevice::new(
            disk.backend,
            self.memory.clone(),
            disk.queues,
            Arc::new(move |error| ending.report(End::Failed(format!("{label}: {error}")))),
        )
        .map_err(|cause| Error::Disk {
            label: disk.label,
            cause,
        })?;
        for (queue, kick) in (0..).zip(device.kicks()) {
            self.vm
                .signal_on_write(kick, base + QUEUE_NOTIFY, queue)
                .map_err(kvm("KVM_IOEVENTFD"))?;
        }
        self.vm
            .interrupt_on(device.call(), place.irq)
            .map_err(kvm("KVM_IRQFD"))?;
        let device = Arc::new(Mutex::new(device));
        self.mmio.insert(base, MMIO_BYTES, device.clone())?;
        Ok(device)
    }
}

fn shared(device: impl Device + 'static) -> Shared<dyn Device> {
    Arc::new(Mutex::new(device))
}

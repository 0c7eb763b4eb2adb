// SPDX-License-Identifier: GPL-2.0

//! Adding devices to a machine: addresses, interrupts, kicks.

use super::{
    layout::{
        DiskPlace,
        ACPI_PORT,
        RESET_FLAG,
        RESET_FLAG_WARM,
        SERIAL_IRQ, //
    },
    machine::{
        event,
        kvm,
        DiskSlot,
        Error, //
    },
    vcpu::{
        End,
        Ending, //
    },
};
use crate::{
    devices::{
        bus::{
            Bus,
            Shared, //
        },
        clock::{
            Clock,
            CLOCK_PORT,
            CLOCK_PORTS, //
        },
        power::{
            self,
            AcpiPower,
            KeyboardController,
            Request, //
        },
        serial::{
            SerialConsole,
            SERIAL_PORT,
            SERIAL_PORTS, //
        },
        virtio::{
            block::BlockDevice,
            mmio::{
                MMIO_BYTES,
                QUEUE_NOTIFY, //
            },
        },
    },
    memory::Memory,
    sys::kvm::Vm, //
};
use std::{
    io::Write,
    sync::{
        Arc,
        Mutex, //
    },
};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

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
        output: Box<dyn Write + Send>,
    ) -> Result<Shared<SerialConsole>, Error> {
        let interrupt = event()?;
        self.vm
            .interrupt_on(&interrupt, SERIAL_IRQ)
            .map_err(kvm("KVM_IRQFD"))?;
        let console = SerialConsole::new(interrupt, drained, output);
        let console = Arc::new(Mutex::new(console));
        self.ports
            .insert(SERIAL_PORT, SERIAL_PORTS, console.clone())?;
        Ok(console)
    }

    pub(super) fn clock(&mut self) -> Result<(), Error> {
        let clock = Arc::new(Mutex::new(Clock::default()));
        Ok(self.ports.insert(CLOCK_PORT, CLOCK_PORTS, clock)?)
    }

    pub(super) fn power(&mut self) -> Result<(), Error> {
        let (ending, memory) = (self.ending.clone(), self.memory.clone());
        let sink: power::Sink = Arc::new(move |request| {
            let flag: u16 = memory.read_obj(RESET_FLAG).unwrap_or(0);
            ending.report(match request {
                Request::Off => End::PowerOff,
                // As the command line has told the kernel.
                Request::Reset if flag == RESET_FLAG_WARM => End::Panic,
                Request::Reset => End::Reset,
            });
        });
        let acpi = Arc::new(Mutex::new(AcpiPower::new(sink.clone())));
        let keyboard = Arc::new(Mutex::new(KeyboardController::new(sink)));
        self.ports.insert(ACPI_PORT, power::ACPI_PORTS, acpi)?;
        self.ports.insert(power::KEYBOARD_PORT, 1, keyboard)?;
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

// SPDX-License-Identifier: GPL-2.0

//! How a guest switches itself off, asks for a reset, or says that its kernel panicked: the fixed
//! registers of ACPI, the keyboard controller, the two reset ports of a PC, and QEMU's pvpanic.

use super::bus::Device;
use std::{sync::Arc, time::Instant};

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    Off,
    /// Reset.
    Reset,
    /// The kernel panicked, and nothing in the guest takes care of it.
    Panic,
}

/// Is told what the guest asked for.
pub type RequestHandler = Arc<dyn Fn(Request) + Send + Sync>;

/// Ports of [`AcpiPower`].
pub const ACPI_PORTS: u64 = 16;
/// Event register block, status and enable bits.
pub const PM1_EVENT: u64 = 0;
/// Control register.
pub const PM1_CONTROL: u64 = 4;
/// Reset register.
pub const RESET: u64 = 8;
/// The timer: 32 bits that count on and on.
pub const PM_TIMER: u64 = 12;
/// The value for [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// The type of sleep that is power-off, as the DSDT tells the guest.
pub const SLEEP_TYPE_OFF: u16 = 5;

/// Ticks of the timer in a second (ACPI 6.5, 4.8.2.1).
const PM_TIMER_HZ: u128 = 3_579_545;
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The registers that the FADT points to (ACPI 6.5, 4.8.3).
pub struct AcpiPower {
    sink: RequestHandler,
    /// Which events may interrupt; none ever happens.
    enabled: u16,
    control: u16,
    /// When the timer was 0.
    started: Instant,
}

impl AcpiPower {
    /// Tells `sink` what the guest asks for.
    pub fn new(sink: RequestHandler) -> Self {
        Self {
            sink,
            enabled: 0,
            control: SCI_ENABLE,
            started: Instant::now(),
        }
    }

    /// Without other devices, it is what a kernel calibrates its clocks against.
    fn timer(&self) -> u32 {
        // Wraps, as the register does.
        (self.started.elapsed().as_nanos() * PM_TIMER_HZ / 1_000_000_000) as u32
    }

    fn write_control(&mut self, value: u16) {
        // There is no SMI that would hand over: ACPI mode is always on.
        self.control = value & !SLEEP_ENABLE | SCI_ENABLE;
        let sleep_type = value >> SLEEP_TYPE_SHIFT & 7;
        if value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF {
            (self.sink)(Request::Off);
        }
    }
}

impl Device for AcpiPower {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut bytes = [0; ACPI_PORTS as usize];
        bytes[2..4].copy_from_slice(&self.enabled.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.control.to_le_bytes());
        bytes[12..].copy_from_slice(&self.timer().to_le_bytes());
        for (to, at) in data.iter_mut().zip(offset..) {
            *to = bytes.get(at as usize).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (2, &[low, high]) => self.enabled = u16::from_le_bytes([low, high]),
            // The event register is written as a whole by some: status, then enable.
            (PM1_EVENT, &[_, _, low, high]) => self.enabled = u16::from_le_bytes([low, high]),
            (PM1_CONTROL, &[low, high]) => self.write_control(u16::from_le_bytes([low, high])),
            (RESET, &[RESET_VALUE]) => (self.sink)(Request::Reset),
            _ => {}
        }
    }
}

/// Port of the keyboard controller's commands.
pub const KEYBOARD_PORT: u64 = 0x64;
/// Pulses the CPU's reset line.
const KEYBOARD_RESET: u8 = 0xfe;

/// As much of a keyboard controller as a guest without ACPI needs for a reset.
pub struct KeyboardController {
    sink: RequestHandler,
}

impl KeyboardController {
    /// Tells `sink` what the guest asks for.
    pub fn new(sink: RequestHandler) -> Self {
        Self { sink }
    }
}

impl Device for KeyboardController {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        // Ready for a command, and nothing typed.
        data.fill(0);
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if data == [KEYBOARD_RESET] {
            (self.sink)(Request::Reset);
        }
    }
}

/// Port of the reset control register, which chipsets have since the PIIX3.
pub const RESET_CONTROL_PORT: u64 = 0xcf9;
/// System control port A.
pub const CONTROL_PORT_A: u64 = 0x92;

/// A port in which setting a bit resets the machine.
pub struct ResetPort {
    sink: RequestHandler,
    reset: u8,
    /// The last value that the guest wrote, without that bit.
    value: u8,
}

impl ResetPort {
    /// The reset control register. Which kind of reset it is, is told by other bits.
    pub fn reset_control(sink: RequestHandler) -> Self {
        Self {
            sink,
            reset: 1 << 2,
            value: 0,
        }
    }

    /// System control port A, which also has the gate of the 20th address line: it is open.
    pub fn control_a(sink: RequestHandler) -> Self {
        Self {
            sink,
            reset: 1 << 0,
            value: 1 << 1,
        }
    }
}

impl Device for ResetPort {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(self.value);
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if let &[value] = data {
            self.value = value & !self.reset;
            if value & self.reset != 0 {
                (self.sink)(Request::Reset);
            }
        }
    }
}

/// Port of [`PanicPort`], as in QEMU.
pub const PANIC_PORT: u64 = 0x505;
/// The kernel panicked.
const PANICKED: u8 = 1 << 0;

/// The port by which a kernel with a driver for it says that it panicked (pvpanic in QEMU's
/// docs/specs). Of the events there, one is offered: a kernel that panics and goes on by loading
/// another one (kexec) has nothing to tell here.
pub struct PanicPort {
    sink: RequestHandler,
}

impl PanicPort {
    /// Tells `sink` what the guest says.
    pub fn new(sink: RequestHandler) -> Self {
        Self { sink }
    }
}

impl Device for PanicPort {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if matches!(data, [events] if events & PANICKED != 0) {
            (self.sink)(Request::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn recorder() -> (RequestHandler, Arc<Mutex<Vec<Request>>>) {
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let sink = seen.clone();
        (
            Arc::new(move |request| sink.lock().unwrap().push(request)),
            seen,
        )
    }

    #[test]
    fn sleep_type_5_with_enable_powers_off() {
        let (sink, seen) = recorder();
        let mut power = AcpiPower::new(sink);
        // As Linux does it: the type first, then the type with the enable bit.
        power.write(PM1_CONTROL, &(5u16 << 10).to_le_bytes());
        assert_eq!(*seen.lock().unwrap(), []);
        power.write(PM1_CONTROL, &(5u16 << 10 | 1 << 13).to_le_bytes());
        power.write(PM1_CONTROL, &(3u16 << 10 | 1 << 13).to_le_bytes());
        assert_eq!(*seen.lock().unwrap(), [Request::Off]);
        let mut control = [0; 2];
        power.read(PM1_CONTROL, &mut control);
        assert_eq!(u16::from_le_bytes(control) & SCI_ENABLE, SCI_ENABLE);
    }

    #[test]
    fn both_reset_registers_reset() {
        let (sink, seen) = recorder();
        AcpiPower::new(sink.clone()).write(RESET, &[RESET_VALUE]);
        AcpiPower::new(sink.clone()).write(RESET, &[0]);
        KeyboardController::new(sink.clone()).write(0, &[0xfe]);
        KeyboardController::new(sink).write(0, &[0xd1]);
        assert_eq!(*seen.lock().unwrap(), [Request::Reset, Request::Reset]);
    }

    /// As Linux does with `reboot=p`, cold and warm, and FreeBSD at port 0x92.
    #[test]
    fn reset_ports_reset_when_their_bit_is_set() {
        for values in [[0x02, 0x0e], [0x02, 0x06]] {
            let (sink, seen) = recorder();
            let mut port = ResetPort::reset_control(sink);
            port.write(0, &[values[0]]);
            assert_eq!(*seen.lock().unwrap(), []);
            port.write(0, &[values[1]]);
            assert_eq!(*seen.lock().unwrap(), [Request::Reset]);
            let mut value = [0];
            port.read(0, &mut value);
            assert_eq!(value[0] & 4, 0);
        }
        let (sink, seen) = recorder();
        let mut port = ResetPort::control_a(sink);
        let mut value = [0];
        port.read(0, &mut value);
        assert_eq!(value, [2]);
        port.write(0, &[value[0]]);
        assert_eq!(*seen.lock().unwrap(), []);
        port.write(0, &[value[0] | 1]);
        port.write(0, &[1, 1]);
        assert_eq!(*seen.lock().unwrap(), [Request::Reset]);
    }

    #[test]
    fn only_the_event_that_is_offered_is_a_panic() {
        let (sink, seen) = recorder();
        let mut port = PanicPort::new(sink);
        let mut offered = [0];
        port.read(0, &mut offered);
        assert_eq!(offered, [1]);
        // A kernel that another one takes over from, and a word.
        port.write(0, &[2]);
        port.write(0, &[1, 0]);
        assert_eq!(*seen.lock().unwrap(), []);
        port.write(0, &[1]);
        assert_eq!(*seen.lock().unwrap(), [Request::Panic]);
    }

    #[test]
    fn accesses_of_any_size_are_harmless() {
        let mut power = AcpiPower::new(Arc::new(|_| {}));
        for offset in 0..ACPI_PORTS {
            for size in 0..=8 {
                power.write(offset, &vec![0; size]);
                power.read(offset, &mut vec![0; size]);
            }
        }
    }
}

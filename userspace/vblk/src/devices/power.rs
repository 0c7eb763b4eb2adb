// SPDX-License-Identifier: GPL-2.0

//! How a guest switches itself off or asks for a reset: the fixed registers of ACPI, and the
//! keyboard controller.

use super::bus::Device;
use std::{
    sync::Arc,
    time::Instant, //
};

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    Off,
    /// Reset.
    Reset,
}

/// Is told what the guest asked for.
pub type Sink = Arc<dyn Fn(Request) + Send + Sync>;

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
/// What to write to [`RESET`].
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
    sink: Sink,
    /// Which events may interrupt; none ever happens.
    enabled: u16,
    control: u16,
    /// When the timer was 0.
    started: Instant,
}

impl AcpiPower {
    /// Tells `sink` what the guest asks for.
    pub fn new(sink: Sink) -> Self {
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
    sink: Sink,
}

impl KeyboardController {
    /// Tells `sink` what the guest asks for.
    pub fn new(sink: Sink) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn recorder() -> (Sink, Arc<Mutex<Vec<Request>>>) {
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

// SPDX-License-Identifier: GPL-2.0

//! The guest's first serial port, its console.

use super::bus::Device;
use std::{collections::VecDeque, io::Write, sync::Arc};
use vm_superio::{serial::SerialEvents, Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The first port.
pub const SERIAL_PORT: u64 = 0x3f8;
/// How many ports it has.
pub const SERIAL_PORTS: u64 = 8;

/// The register that enables interrupts, and the bit for received data.
const INTERRUPT_ENABLE: u64 = 1;
const RECEIVED_DATA: u8 = 1;

/// The register of the lines to the terminal.
const MODEM_CONTROL: u64 = 4;
/// Bits set there by a driver that is ready for input: "data terminal ready", "request to
/// send", and OUT2, which lets interrupts of the port through in a PC.
const READY: u8 = 1 << 0 | 1 << 1 | 1 << 3;
/// The bit set there while a driver tests the port: what it says does not reach the terminal then.
const LOOPBACK: u8 = 1 << 4;

/// Input that may wait for the guest to read it.
const MAX_PENDING: usize = 4096;

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Says when the guest has read everything.
struct Drained(Arc<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        let _ = self.0.write(1);
    }
}

/// The serial port.
pub struct SerialConsole {
    port: Serial<Interrupt, Drained, Box<dyn Write + Send>>,
    pending: VecDeque<u8>,
    /// The guest has opened the port. What it finds there before, it throws away.
    listening: bool,
}

impl SerialConsole {
    /// Writes to `output` and signals `interrupt`; signals `drained` when input can be taken.
    pub fn new(interrupt: EventFd, drained: Arc<EventFd>, output: Box<dyn Write + Send>) -> Self {
        Self {
            port: Serial::with_events(Interrupt(interrupt), Drained(drained), output),
            pending: VecDeque::new(),
            listening: false,
        }
    }

    /// Returns whether [`Self::input`] would drop something.
    pub fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    /// Types `bytes` into the guest. What does not fit any more is lost.
    pub fn input(&mut self, bytes: &[u8]) {
        let room = MAX_PENDING.saturating_sub(self.pending.len());
        self.pending.extend(bytes.iter().take(room));
        self.feed();
    }

    /// Hands over what is waiting, as much as fits.
    pub fn feed(&mut self) {
        while self.listening && self.port.fifo_capacity() > 0 {
            let Some(&byte) = self.pending.front() else {
                return;
            };
            // Refused in loopback mode, in which the guest tests the port.
            if !matches!(self.port.enqueue_raw_bytes(&[byte]), Ok(1)) {
                return;
            }
            self.pending.pop_front();
        }
    }

    /// Returns whether a terminal would send: flow control as the lines have it. Enabled interrupts
    /// alone do not say that the guest listens, since drivers enable them to find out what the port
    /// is, and empty it before they use it.
    fn is_wanted(&self) -> bool {
        let state = self.port.state();
        state.interrupt_enable & RECEIVED_DATA != 0
            && state.modem_control & (READY | LOOPBACK) == READY
    }
}

impl Device for SerialConsole {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match data {
            [byte] => *byte = self.port.read(offset as u8),
            other => other.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let &[byte] = data {
            // A console that nobody reads is no reason to stop the guest.
            let _ = self.port.write(offset as u8, byte);
            if matches!(offset, INTERRUPT_ENABLE | MODEM_CONTROL) {
                self.listening = self.is_wanted();
                self.feed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE_STATUS: u64 = 5;
    const DATA_READY: u8 = 1;

    fn console() -> SerialConsole {
        let event = || EventFd::new(0).unwrap();
        SerialConsole::new(event(), Arc::new(event()), Box::new(Vec::new()))
    }

    fn get(console: &mut SerialConsole, register: u64) -> u8 {
        let mut byte = [0];
        console.read(register, &mut byte);
        byte[0]
    }

    fn has_input(console: &mut SerialConsole) -> bool {
        get(console, LINE_STATUS) & DATA_READY != 0
    }

    #[test]
    fn input_waits_until_the_guest_listens() {
        let mut console = console();
        console.input(b"ab");
        assert!(!has_input(&mut console));
        console.write(INTERRUPT_ENABLE, &[RECEIVED_DATA]);
        assert!(!has_input(&mut console));
        console.write(MODEM_CONTROL, &[READY]);
        assert!(has_input(&mut console));
        assert_eq!([get(&mut console, 0), get(&mut console, 0)], *b"ab");
        assert!(!has_input(&mut console));
        // A guest that is busy says so.
        console.write(MODEM_CONTROL, &[READY & !2]);
        console.input(b"c");
        assert!(!has_input(&mut console));
        console.write(MODEM_CONTROL, &[READY]);
        assert_eq!(get(&mut console, 0), b'c');
    }

    /// As Linux does (autoconfig and serial8250_do_startup in 8250_port.c), with and without an
    /// early console before, which leaves two lines set.
    #[test]
    fn a_driver_that_tests_the_port_takes_no_input() {
        const ALL: u8 = 0xf;
        const LINE_CONTROL: u64 = 3;
        const DIVISOR_ACCESS: u8 = 0x80;
        for early in [0, 3] {
            let mut console = console();
            console.input(b"first line\n");
            console.write(MODEM_CONTROL, &[early]);
            console.write(INTERRUPT_ENABLE, &[0]);
            console.write(INTERRUPT_ENABLE, &[ALL]);
            assert_eq!(get(&mut console, INTERRUPT_ENABLE), ALL);
            // Whether what is written comes back.
            console.write(MODEM_CONTROL, &[LOOPBACK | READY]);
            console.write(MODEM_CONTROL, &[early]);
            // The divisor is where the enabled interrupts are otherwise.
            console.write(LINE_CONTROL, &[DIVISOR_ACCESS]);
            console.write(INTERRUPT_ENABLE, &[0]);
            console.write(LINE_CONTROL, &[0]);
            // Whatever is there is old.
            for _ in 0..3 {
                assert_eq!(get(&mut console, 0), 0, "{early}");
            }
            console.write(INTERRUPT_ENABLE, &[0]);
            console.write(MODEM_CONTROL, &[READY & !2]);
            console.write(INTERRUPT_ENABLE, &[RECEIVED_DATA]);
            assert!(!has_input(&mut console));
            console.write(MODEM_CONTROL, &[READY]);
            for expected in b"first line\n" {
                assert_eq!(get(&mut console, 0), *expected, "{early}");
            }
        }
    }

    #[test]
    fn input_without_end_is_bounded() {
        let mut console = console();
        for _ in 0..100 {
            console.input(&[b'x'; 1000]);
        }
        assert!(console.is_full());
        assert_eq!(console.pending.len(), MAX_PENDING);
    }

    #[test]
    fn accesses_of_any_size_are_harmless() {
        let mut console = console();
        for offset in 0..SERIAL_PORTS {
            for size in [0, 1, 2, 4, 8] {
                console.write(offset, &vec![0xff; size]);
                console.read(offset, &mut vec![0; size]);
            }
        }
    }
}

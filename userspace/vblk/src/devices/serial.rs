// SPDX-License-Identifier: GPL-2.0

//! The guest's first serial port, its console.

use super::bus::Device;
use std::{
    collections::VecDeque,
    io::Write,
    sync::Arc, //
};
use vm_superio::{
    serial::SerialEvents,
    Serial,
    Trigger, //
};
use vmm_sys_util::eventfd::EventFd;

/// Where the port is.
pub const SERIAL_PORT: u64 = 0x3f8;
/// How many ports it has.
pub const SERIAL_PORTS: u64 = 8;

/// The register that enables interrupts, and the bit for received data.
const INTERRUPT_ENABLE: u64 = 1;
const RECEIVED_DATA: u8 = 1;

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
    /// The guest has opened the port. What it finds there while it does so, it throws away.
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

    /// Whether [`Self::input`] would drop something.
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
            if offset == INTERRUPT_ENABLE {
                self.listening = self.port.state().interrupt_enable & RECEIVED_DATA != 0;
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

    #[test]
    fn input_waits_until_the_guest_listens() {
        let mut console = console();
        console.input(b"ab");
        assert_eq!(get(&mut console, LINE_STATUS) & DATA_READY, 0);
        console.write(INTERRUPT_ENABLE, &[RECEIVED_DATA]);
        assert_eq!(get(&mut console, LINE_STATUS) & DATA_READY, 1);
        assert_eq!([get(&mut console, 0), get(&mut console, 0)], *b"ab");
        assert_eq!(get(&mut console, LINE_STATUS) & DATA_READY, 0);
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

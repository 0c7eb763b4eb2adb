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
}

impl SerialConsole {
    /// Writes to `output` and signals `interrupt`; signals `drained` when input can be taken.
    pub fn new(
        interrupt: EventFd,
        drained: Arc<EventFd>,
        output: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            port: Serial::with_events(Interrupt(interrupt), Drained(drained), output),
            pending: VecDeque::new(),
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
        while self.port.fifo_capacity() > 0 {
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
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Standard input as the guest's keyboard, while waiting for its end.

mod watch;

use crate::{
    devices::bus::lock,
    sys::{
        poll,
        signals::Signals,
        terminal::RawMode, //
    },
    vm::Machine,
};
use std::{
    fs::File,
    io::{
        self,
        Read, //
    },
    os::fd::{
        AsFd,
        AsRawFd, //
    },
};
use watch::{
    Health,
    Watch, //
};

/// Ctrl-A, the first of two keys that are for the launcher.
const PREFIX: u8 = 1;
/// The second one.
const QUIT: u8 = b'x';

/// Files to wait for that come before those of the disks.
const WATCHED_AT: usize = 3;

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The guest ended.
    Ended,
    /// The user asked for it.
    Quit,
    /// A signal came.
    Signal(i32),
    /// A back-end died; stopping it tells why.
    BackendDied,
}

/// Standard input, and the signals that end the process.
pub struct Console {
    signals: Signals,
}

impl Console {
    /// Takes over signals. To be called before the process has threads.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let ending = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        // In the background, a change of the terminal's mode would stop the process.
        let ignored = [libc::SIGTTOU, libc::SIGTTIN, libc::SIGPIPE];
        Ok(Self {
            signals: Signals::block(&ending, &ignored)?,
        })
    }

    /// Passes keys to the guest until it ends, or somebody ends it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn run(&self, machine: &Machine) -> io::Result<Stopped> {
        let stdin = io::stdin();
        // Closed standard input is no terminal, and has nothing to read.
        let raw = RawMode::enter(stdin.as_fd()).unwrap_or(None);
        let mut input = Input {
            // Without the buffer of the standard library, in which keys would wait unseen.
            file: stdin.as_fd().try_clone_to_owned()?.into(),
            open: true,
            escape: raw.as_ref().map(|_| Escape::default()),
        };
        let mut watch = Watch::new(machine.disks())?;
        let mut files = vec![
            machine.ending().event().as_raw_fd(),
            self.signals.as_fd().as_raw_fd(),
            machine.drained().as_raw_fd(),
        ];
        files.extend(watch.files());
        let input_at = files.len();
        loop {
            files.truncate(input_at);
            if input.wanted(machine) {
                files.push(stdin.as_raw_fd());
            }
            let ready = poll::readable(&files)?;
            if machine.ending().get().is_some() {
                return Ok(Stopped::Ended);
            }
            if let Some(signal) = self.signals.next() {
                return Ok(Stopped::Signal(signal));
            }
            if watch.look(&ready[WATCHED_AT..]) == Health::Died {
                return Ok(Stopped::BackendDied);
            }
            if machine.drained().read().is_ok() {
                lock(machine.serial()).feed();
            }
            if ready.get(input_at) == Some(&true) && input.pass(machine) {
                return Ok(Stopped::Quit);
            }
        }
    }
}

/// Standard input on its way to the guest.
struct Input {
    file: File,
    open: bool,
    /// Looks for the keys that quit, on a terminal only: a file may have any bytes.
    escape: Option<Escape>,
}

impl Input {
    /// Whether to read on. A file waits until the guest takes more; from a terminal, keys are read
    /// and lost, so that one can always quit.
    fn wanted(&self, machine: &Machine) -> bool {
        self.open && (self.escape.is_some() || !lock(machine.serial()).is_full())
    }

    /// Reads something and passes it on; whether to quit.
    fn pass(&mut self, machine: &Machine) -> bool {
        let mut buffer = [0; 256];
        let bytes = match self.file.read(&mut buffer) {
            Ok(count @ 1..) => &buffer[..count],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => &[],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => &[],
            // Its end, or a terminal that went away: the guest runs on without.
            _ => {
                self.open = false;
                return false;
            }
        };
        let Some(escape) = &mut self.escape else {
            lock(machine.serial()).input(bytes);
            return false;
        };
        let mut keys = Vec::with_capacity(bytes.len() + 1);
        let quit = bytes.iter().any(|&byte| escape.take(byte, &mut keys));
        lock(machine.serial()).input(&keys);
        quit
    }
}

/// Finds Ctrl-A x among the keys. Ctrl-A twice is Ctrl-A for the guest.
#[derive(Default)]
struct Escape {
    prefix: bool,
}

impl Escape {
    /// Takes a key; what is for the guest goes to `keys`. Whether to quit.
    fn take(&mut self, byte: u8, keys: &mut Vec<u8>) -> bool {
        match (std::mem::take(&mut self.prefix), byte) {
            (false, PREFIX) => self.prefix = true,
            (true, QUIT) => return true,
            (true, PREFIX) | (false, _) => keys.push(byte),
            (true, other) => keys.extend([PREFIX, other]),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (bool, Vec<u8>) {
        let (mut escape, mut out) = (Escape::default(), Vec::new());
        let quit = keys.iter().any(|&key| escape.take(key, &mut out));
        (quit, out)
    }

    #[test]
    fn only_the_prefix_and_x_quit() {
        assert_eq!(typed(b"ab\x01xc"), (true, b"ab".to_vec()));
        assert_eq!(typed(b"x\x01\x01x"), (false, b"x\x01x".to_vec()));
        assert_eq!(typed(b"\x01y"), (false, b"\x01y".to_vec()));
    }
}

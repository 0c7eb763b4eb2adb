// SPDX-License-Identifier: GPL-2.0

//! Standard input on its way to the guest.

use crate::{devices::bus::lock, vm::Machine};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::BorrowedFd,
};

/// Ctrl-A, the first of two keys that are for the launcher.
const PREFIX: u8 = 1;
/// The second one.
const QUIT: u8 = b'x';

/// Standard input on its way to the guest.
pub struct Input {
    file: File,
    open: bool,
    /// Looks for the keys that quit, on a terminal only: a file may have any bytes.
    escape: Option<Escape>,
}

impl Input {
    /// Reads a duplicate of `stdin`.
    ///
    /// # Errors
    ///
    /// Returns an error when there are no file descriptors left.
    pub fn new(stdin: BorrowedFd<'_>, is_terminal: bool) -> io::Result<Self> {
        Ok(Self {
            // Without the buffer of the standard library, in which keys would wait unseen.
            file: stdin.try_clone_to_owned()?.into(),
            open: true,
            escape: is_terminal.then(Escape::default),
        })
    }

    /// Returns whether to read on. A file waits until the guest takes more. From a terminal in
    /// whose foreground the launcher is, keys are read and lost, so that one can always quit.
    pub fn is_wanted(&self, machine: &Machine, has_terminal: bool) -> bool {
        let takes = match self.escape {
            Some(_) => has_terminal,
            None => !lock(machine.serial()).is_full(),
        };
        self.open && takes
    }

    /// Reads something and passes it on. Returns whether to quit.
    pub fn pass(&mut self, machine: &Machine) -> bool {
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
    /// Takes a key; what is for the guest goes to `keys`. Returns whether to quit.
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

// SPDX-License-Identifier: GPL-2.0

//! Output that never blocks the thread that produces it: the guest's console and the launcher's
//! own lines.
//!
//! A pipe or a terminal may take nothing for hours. Bytes go to a queue in memory, and a thread of
//! their own writes them to the file. No lock is held over that write.

use crate::seccomp::{Filters, Thread};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Bytes in the queue from which [`Output::wait_for_room`] waits.
const ROOM: usize = 64 << 10;
/// Bytes that are written at a time.
const CHUNK: usize = 4096;

/// A file that a thread writes to.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when `state` changes.
    changed: Condvar,
    /// Signalled when everything has been written.
    written: EventFd,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes that the thread is writing now.
    writing: usize,
    /// The file takes nothing any more: what comes is dropped.
    broken: bool,
    /// No thread waits for room any more.
    released: bool,
}

impl State {
    fn is_written(&self) -> bool {
        self.broken || self.pending.len() + self.writing == 0
    }
}

impl Output {
    /// Starts a thread `name` that writes to a duplicate of `file` and makes only the system calls
    /// that `filters` allow. A file that is not open takes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error when there are no threads or file descriptors left.
    pub fn spawn(name: &str, file: BorrowedFd<'_>, filters: &Filters) -> io::Result<Self> {
        let file = File::from(file.try_clone_to_owned()?);
        let output = Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            written: EventFd::new(EFD_NONBLOCK)?,
        }));
        let (shared, filters) = (output.0.clone(), filters.clone());
        thread::Builder::new().name(name.into()).spawn(move || {
            match filters.apply(Thread::Output) {
                Ok(()) => shared.write_on(file),
                Err(_) => shared.give_up(),
            }
        })?;
        Ok(output)
    }

    /// Appends `bytes`. Never blocks.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if !state.broken {
            state.pending.extend_from_slice(bytes);
            self.0.changed.notify_all();
        }
    }

    /// Appends a line of the launcher. Never blocks.
    pub fn tell(&self, line: &str) {
        self.push(format!("vblk: {line}\n").as_bytes());
    }

    /// Waits until there is room for more, so that who produces faster than the file takes is
    /// slowed down. Returns at once after [`Self::release`].
    pub fn wait_for_room(&self) {
        let mut state = self.0.lock();
        while state.pending.len() >= ROOM && !state.broken && !state.released {
            state = self.0.wait(state);
        }
    }

    /// Lets everybody go on who waits for room.
    pub fn release(&self) {
        self.0.lock().released = true;
        self.0.changed.notify_all();
    }

    /// Returns whether everything has been written, or never will be.
    pub fn is_written(&self) -> bool {
        self.0.lock().is_written()
    }

    /// Signalled when everything has been written.
    pub fn written(&self) -> &EventFd {
        &self.0.written
    }

    /// Waits until everything has been written, but not longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.0.lock();
        while !state.is_written() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn write_on(&self, mut file: File) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            self.take(&mut chunk);
            // Without the lock: this may take for ever.
            if write_all(&mut file, &chunk).is_err() {
                return self.give_up();
            }
        }
    }

    /// Moves the next bytes to `chunk`, waiting until there are some.
    fn take(&self, chunk: &mut Vec<u8>) {
        let mut state = self.lock();
        state.writing = 0;
        if state.is_written() {
            let _ = self.written.write(1);
        }
        self.changed.notify_all();
        while state.pending.is_empty() {
            state = self.wait(state);
        }
        let len = state.pending.len().min(CHUNK);
        chunk.clear();
        chunk.extend(state.pending.drain(..len));
        state.writing = len;
    }

    fn give_up(&self) {
        let mut state = self.lock();
        *state = State {
            broken: true,
            released: state.released,
            ..State::default()
        };
        let _ = self.written.write(1);
        self.changed.notify_all();
    }
}

/// As [`Write::write_all`], but waits where a file that others made non-blocking is full.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                crate::sys::poll::writable(file.as_fd())?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixStream};

    /// Longer than any test takes, unless something hangs.
    const LONG: Duration = Duration::from_secs(30);

    fn spawn(file: BorrowedFd<'_>) -> Output {
        Output::spawn("test", file, &Filters::default()).unwrap()
    }

    #[test]
    fn bytes_arrive_in_their_order() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let output = spawn(writer.as_fd());
        let expected: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        for part in expected.chunks(777) {
            output.push(part);
        }
        let mut got = vec![0; expected.len()];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
        output.flush(LONG);
        assert!(output.is_written());
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_only_who_waits_for_room() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let output = spawn(writer.as_fd());
        output.push(&vec![b'x'; 1 << 20]);
        assert!(!output.is_written());
        let waiter = output.clone();
        let waits = thread::spawn(move || waiter.wait_for_room());
        // The others are not held up.
        output.push(b"y");
        output.flush(Duration::ZERO);
        assert!(!waits.is_finished());
        output.release();
        waits.join().unwrap();
        let mut got = vec![0; (1 << 20) + 1];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got.last(), Some(&b'y'));
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_output() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let output = spawn(writer.as_fd());
        drop(reader);
        output.push(&vec![b'x'; 1 << 20]);
        output.flush(LONG);
        assert!(output.is_written());
        output.push(&vec![b'x'; 1 << 20]);
        output.wait_for_room();
    }

    #[test]
    fn a_full_disk_ends_the_output() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = spawn(full.as_fd());
        output.push(b"x");
        output.flush(LONG);
        assert!(output.is_written());
    }
}

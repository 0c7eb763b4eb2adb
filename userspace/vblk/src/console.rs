// SPDX-License-Identifier: GPL-2.0

//! The main thread while a guest runs: passes standard input to the guest, and waits for its end.
//!
//! This thread never takes a lock that another holds over something that can block, so that a
//! signal or Ctrl-A x always ends the guest.

mod input;

use crate::{
    devices::bus::lock,
    sys::{
        poll,
        signals::{self, Signals},
        terminal::Terminal,
    },
    vm::Machine,
};
use input::Input;
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};
use vmm_sys_util::eventfd::EventFd;

/// How often to look for what nothing signals: CPUs that will never wake up, and a shell that has
/// brought the launcher to the foreground.
const TICK: Duration = Duration::from_secs(1);

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

/// How [`Console::wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The event was signalled.
    Done,
    /// The time is over.
    TimeOut,
    /// A signal came that ends the process.
    Signal(i32),
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
    /// Returns the kernel's error.
    pub fn new() -> io::Result<Self> {
        let wanted = [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGTSTP,
            libc::SIGCONT,
        ];
        // In the background, touching the terminal would stop the process.
        let ignored = [libc::SIGTTOU, libc::SIGTTIN, libc::SIGPIPE];
        Ok(Self {
            signals: Signals::block(&wanted, &ignored)?,
        })
    }

    /// Passes keys to the guest until it ends, or the user ends it. `died` are signalled by
    /// back-ends that die.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn run(&self, machine: &mut Machine, died: &[EventFd]) -> io::Result<Stopped> {
        let stdin = io::stdin();
        // Closed standard input is no terminal, and has nothing to read.
        let mut terminal = Terminal::open(stdin.as_fd()).unwrap_or(None);
        let mut input = Input::new(stdin.as_fd(), terminal.is_some())?;
        let mut files = vec![
            machine.ending().event().as_raw_fd(),
            self.signals.as_fd().as_raw_fd(),
            machine.drained().as_raw_fd(),
        ];
        let died_at = files.len();
        files.extend(died.iter().map(AsRawFd::as_raw_fd));
        let input_at = files.len();
        let mut has_terminal = false;
        let mut tick = Instant::now() + TICK;
        loop {
            let had_terminal = std::mem::replace(
                &mut has_terminal,
                terminal.as_ref().is_some_and(Terminal::is_ours),
            );
            if let Some(terminal) = terminal.as_mut().filter(|_| has_terminal && !had_terminal) {
                // One that went away is found when it is read.
                let _ = terminal.enter_raw_mode();
            }
            files.truncate(input_at);
            if input.is_wanted(machine, has_terminal) {
                files.push(stdin.as_raw_fd());
            }
            let left = tick.saturating_duration_since(Instant::now());
            let ready = poll::readable(&files, Some(left))?;
            if machine.ending().get().is_some() {
                return Ok(Stopped::Ended);
            }
            match self.signals.next() {
                Some(libc::SIGTSTP) => {
                    if let Some(terminal) = &mut terminal {
                        terminal.leave_raw_mode();
                    }
                    signals::stop_self();
                }
                // Others have used the terminal meanwhile.
                Some(libc::SIGCONT) => has_terminal = false,
                Some(signal) => return Ok(Stopped::Signal(signal)),
                None => {}
            }
            if ready[died_at..input_at].contains(&true) {
                return Ok(Stopped::BackendDied);
            }
            if machine.drained().read().is_ok() {
                lock(machine.serial()).feed();
            }
            if ready.get(input_at) == Some(&true) && input.pass(machine) {
                return Ok(Stopped::Quit);
            }
            if Instant::now() >= tick {
                machine.check_halted();
                tick = Instant::now() + TICK;
            }
        }
    }

    /// Waits until `event` is signalled, for as long as `limit` allows and no signal ends it.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn wait(&self, event: &EventFd, limit: Option<Duration>) -> io::Result<Waited> {
        let end = limit.map(|limit| Instant::now() + limit);
        let files = [event.as_raw_fd(), self.signals.as_fd().as_raw_fd()];
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let ready = poll::readable(&files, left)?;
            match self.signals.next() {
                Some(libc::SIGTSTP) => signals::stop_self(),
                Some(libc::SIGCONT) | None => {}
                Some(signal) => return Ok(Waited::Signal(signal)),
            }
            if ready[0] && event.read().is_ok() {
                return Ok(Waited::Done);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Waited::TimeOut);
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The thread of a disk. It is there from the time the disk is opened, so that the thread that
//! starts the disk, a CPU's thread, need not be able to start threads.

use super::worker::{self, Setup};
use crate::{
    backend::{Error, Position},
    seccomp::{Filters, Thread},
    sys::ioprio,
};
use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
};

/// A message of the thread.
enum Report {
    /// It serves the disk, or could not begin to; is ready for that, when it is new.
    Begun(io::Result<()>),
    /// It serves the disk no more.
    Ended(io::Result<Vec<Position>>),
}

/// A thread that serves a disk whenever it is told to.
pub struct DiskThread {
    /// Gone when the thread is to end.
    orders: Option<Sender<Setup>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl DiskThread {
    /// A thread that waits, and makes only the system calls that `filters` allow.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`].
    pub fn spawn(filters: Filters) -> Result<Self, Error> {
        let (orders, taken) = mpsc::channel();
        let (tell, reports) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("vblk-io-uring".into())
            .spawn(move || run(&filters, &taken, &tell))
            .map_err(Error::setup("starting a thread"))?;
        let mut this = Self {
            orders: Some(orders),
            reports,
            thread: Some(thread),
        };
        this.begun(Error::setup("confining a thread"))?;
        Ok(this)
    }

    /// Lets it serve; waits until it does.
    ///
    /// # Errors
    ///
    /// [`Error::IoUring`] and [`Error::Died`].
    pub fn begin(&mut self, setup: Setup) -> Result<(), Error> {
        if let Some(orders) = &self.orders {
            // If it is dead, that is found next.
            let _ = orders.send(setup);
        }
        self.begun(|e| Error::IoUring(crate::errno::text(&e)))
    }

    fn begun(&mut self, failed: impl FnOnce(io::Error) -> Error) -> Result<(), Error> {
        match self.reports.recv() {
            Ok(Report::Begun(result)) => result.map_err(failed),
            Ok(Report::Ended(_)) | Err(_) => Err(self.died()),
        }
    }

    /// Waits until it serves no more.
    ///
    /// # Errors
    ///
    /// [`Error::Died`].
    pub fn end(&mut self) -> Result<Vec<Position>, Error> {
        match self.reports.recv() {
            Ok(Report::Ended(result)) => result.map_err(|e| Error::Died(crate::errno::text(&e))),
            Ok(Report::Begun(_)) | Err(_) => Err(self.died()),
        }
    }

    fn died(&mut self) -> Error {
        self.orders = None;
        let panicked = self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err());
        Error::Died(match panicked {
            true => "its thread panicked".to_owned(),
            false => "its thread ended early".to_owned(),
        })
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(filters: &Filters, orders: &Receiver<Setup>, tell: &Sender<Report>) {
    // No filter allows to ask.
    let realtime = ioprio::may_use_realtime();
    // Nobody listens any more when the owner is going away.
    let tell = |report| drop(tell.send(report));
    let confined = filters.apply(Thread::Disk).map_err(io::Error::other);
    let failed = confined.is_err();
    tell(Report::Begun(confined));
    if failed {
        return;
    }
    for setup in orders {
        let end = worker::run(setup, realtime, |begun| tell(Report::Begun(begun)));
        if let Some(end) = end {
            tell(Report::Ended(end));
        }
    }
}

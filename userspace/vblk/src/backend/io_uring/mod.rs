// SPDX-License-Identifier: GPL-2.0

//! The back-end in this process: a thread for each disk, which waits for kicks and for the disk
//! in one io_uring.
//!
//! It runs on the same parser as the kernel module, so that it answers alike. Aligned data goes
//! straight between disk and guest memory.

mod counters;
mod memory;
mod pool;
mod queue;
mod request;
mod serve;
mod worker;

use super::{
    Backend,
    Error,
    Kind,
    Offer,
    Position,
    QueueConfig, //
};
use crate::{
    disk::Disk,
    memory::Memory, //
};
use counters::Counters;
use std::{
    fs::File,
    io,
    sync::{
        mpsc,
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    },
};
use vblk_core::{
    config::Queues,
    features::{
        bit,
        Features, //
    },
    request::{
        self as rules,
        ID_BYTES, //
    },
    uapi::Stats, //
};
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

/// A disk that a thread of this process serves.
pub struct IoUring {
    disk: Disk,
    counters: Arc<Counters>,
    died: EventFd,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<Result<Vec<Position>, io::Error>>,
    stop: Arc<EventFd>,
}

/// What the thread is given of a disk.
struct Target {
    file: File,
    rules: rules::Disk,
    memory_align: u32,
    id: [u8; ID_BYTES],
    /// Writes must be durable when they are answered: the driver has no command to make them so.
    write_through: bool,
}

impl IoUring {
    /// Makes `disk` ready.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when there are no file descriptors left.
    pub fn open(disk: Disk) -> Result<Self, Error> {
        Ok(Self {
            disk,
            counters: Arc::default(),
            died: event_fd()?,
            running: None,
        })
    }

    fn target(&self, features: Features) -> Result<Target, Error> {
        let file = self.disk.file().try_clone();
        Ok(Target {
            file: file.map_err(setup("duplicating the disk's descriptor"))?,
            rules: self.disk.rules(),
            memory_align: self.disk.memory_align(),
            id: *self.disk.id(),
            write_through: !features.has(vblk_core::features::bit::BLK_FLUSH),
        })
    }
}

/// What only the module does.
const NOT_HERE: u64 = 1 << bit::BLK_CONFIG_WCE
    | 1 << bit::BLK_DISCARD
    | 1 << bit::BLK_WRITE_ZEROES
    | 1 << bit::BLK_SECURE_ERASE;

impl Backend for IoUring {
    fn kind(&self) -> Kind {
        Kind::IoUring
    }

    fn features(&self) -> Features {
        Features(Features::SUPPORTED.0 & !NOT_HERE)
    }

    fn offer(&self, queues: Queues) -> Result<Offer, Error> {
        let limits = self.disk.limits();
        Ok(Offer {
            features: Features(limits.features(&queues).0 & !NOT_HERE),
            config: limits.config(&queues),
        })
    }

    fn set_writeback(&mut self, _on: bool) -> Result<(), Error> {
        // Not offered, so that no driver asks for it.
        Ok(())
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }

    fn start(
        &mut self,
        memory: &Memory,
        features: Features,
        queues: Vec<QueueConfig>,
    ) -> Result<(), Error> {
        if self.running.is_some() {
            return Err(Error::Started);
        }
        let features = Features(features.0 & self.features().0);
        queue::check(memory, features, &queues)?;
        let stop = Arc::new(event_fd()?);
        let (report, started) = mpsc::sync_channel(1);
        let setup = worker::Setup {
            target: self.target(features)?,
            memory: memory.clone(),
            features,
            queues,
            stop: stop.clone(),
            counters: self.counters.clone(),
            died: self.died.try_clone().map_err(self::setup("eventfd"))?,
        };
        let thread = thread::Builder::new()
            .name("vblk-io-uring".into())
            .spawn(move || worker::run(setup, &report))
            .map_err(self::setup("starting a thread"))?;
        // The ring belongs to the thread that made it, so that the thread tells whether it could.
        match started.recv() {
            Ok(Ok(())) => {
                self.running = Some(Running { thread, stop });
                Ok(())
            }
            Ok(Err(e)) => {
                let _ = thread.join();
                Err(Error::IoUring(e))
            }
            Err(_) => Err(died(thread.join())),
        }
    }

    fn stop(&mut self) -> Result<Vec<Position>, Error> {
        let Some(running) = self.running.take() else {
            return Ok(Vec::new());
        };
        running.stop.write(1).map_err(setup("eventfd"))?;
        match running.thread.join() {
            Ok(Ok(positions)) => Ok(positions),
            other => Err(died(other)),
        }
    }

    fn stats(&self) -> Result<Stats, Error> {
        Ok(self.counters.read())
    }

    fn died(&self) -> Option<&EventFd> {
        Some(&self.died)
    }
}

impl Drop for IoUring {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn event_fd() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK).map_err(setup("eventfd"))
}

fn setup(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Setup { step, cause }
}

fn died<T>(end: thread::Result<Result<T, io::Error>>) -> Error {
    Error::Died(match end {
        Ok(Ok(_)) => "it ended early".to_owned(),
        Ok(Err(e)) => crate::errno::text(&e),
        Err(_) => "its thread panicked".to_owned(),
    })
}

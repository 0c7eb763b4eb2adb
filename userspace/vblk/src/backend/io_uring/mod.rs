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
mod ranges;
mod request;
mod serve;
mod thread;
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
    disk::{
        self,
        Disk, //
    },
    memory::Memory,
    seccomp::Filters, //
};
use counters::Counters;
use std::{
    fs::File,
    io,
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering, //
        },
        Arc, //
    },
};
use thread::DiskThread;
use vblk_core::{
    config::{
        Limits,
        Queues, //
    },
    features::{
        bit,
        Features, //
    },
    range::RangeOps,
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
    live: Arc<Live>,
    counters: Arc<Counters>,
    died: EventFd,
    thread: DiskThread,
    /// Tells the thread to stop, while it serves.
    running: Option<Arc<EventFd>>,
}

/// What the thread is given of a disk.
struct Target {
    file: File,
    kind: disk::Kind,
    rules: rules::Disk,
    memory_align: u32,
    id: [u8; ID_BYTES],
    live: Arc<Live>,
}

impl Target {
    /// What decides over a request now.
    fn rules(&self) -> rules::Disk {
        rules::Disk {
            sectors: self.live.sectors.load(Ordering::Relaxed),
            ..self.rules
        }
    }

    /// Whether writes must be durable when they are answered.
    fn write_through(&self) -> bool {
        self.live.write_through.load(Ordering::Relaxed)
    }
}

/// What may change while the thread serves the disk. The driver sees that something has changed
/// before it makes requests that rely on it, and the ring orders those: no ordering is needed here.
struct Live {
    /// Length of the disk.
    sectors: AtomicU64,
    /// Writes must be durable when they are answered: the driver wants it so, or has no command to
    /// make them durable.
    write_through: AtomicBool,
}

impl IoUring {
    /// Makes `disk` ready, with a thread that makes only the system calls that `filters` allow.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when there are no file descriptors or threads left.
    pub fn open(disk: Disk, filters: &Filters) -> Result<Self, Error> {
        Ok(Self {
            live: Arc::new(Live {
                sectors: disk.sectors().into(),
                write_through: false.into(),
            }),
            disk,
            counters: Arc::default(),
            died: event_fd()?,
            thread: DiskThread::spawn(filters.clone())?,
            running: None,
        })
    }

    fn target(&self, features: Features) -> Result<Target, Error> {
        let file = self.disk.file().try_clone();
        Ok(Target {
            file: file.map_err(setup("duplicating the disk's descriptor"))?,
            kind: self.disk.kind(),
            rules: self.disk.rules(RangeOps::negotiated(features)),
            memory_align: self.disk.memory_align(),
            id: *self.disk.id(),
            live: self.live.clone(),
        })
    }
}

/// What only the module does.
const NOT_HERE: u64 = 1 << bit::BLK_SECURE_ERASE;

impl Backend for IoUring {
    fn kind(&self) -> Kind {
        Kind::IoUring
    }

    fn features(&self) -> Features {
        Features(Features::SUPPORTED.0 & !NOT_HERE)
    }

    fn offer(&self, queues: Queues) -> Result<Offer, Error> {
        let sectors = self.disk.sectors_now();
        let limits = Limits {
            sectors: sectors.map_err(setup("asking for the disk's size"))?,
            ..self.disk.limits()
        };
        self.live.sectors.store(limits.sectors, Ordering::Relaxed);
        Ok(Offer {
            features: Features(limits.features(&queues).0 & !NOT_HERE),
            config: limits.config(&queues),
        })
    }

    fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        self.live.write_through.store(!on, Ordering::Relaxed);
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
        self.set_writeback(features.has(bit::BLK_FLUSH))?;
        let stop = Arc::new(event_fd()?);
        let setup = worker::Setup {
            target: self.target(features)?,
            memory: memory.clone(),
            features,
            queues,
            stop: stop.clone(),
            counters: self.counters.clone(),
            died: self.died.try_clone().map_err(self::setup("eventfd"))?,
        };
        // The ring belongs to the thread that made it, so that the thread tells whether it could.
        self.thread.begin(setup)?;
        self.running = Some(stop);
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<Position>, Error> {
        let Some(running) = self.running.take() else {
            return Ok(Vec::new());
        };
        running.write(1).map_err(setup("eventfd"))?;
        self.thread.end()
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

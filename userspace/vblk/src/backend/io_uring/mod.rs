// SPDX-License-Identifier: GPL-2.0

//! The back-end in this process: a thread for each disk, which waits for kicks and for the disk
//! in one io_uring.
//!
//! It runs on the same parser as the kernel module, so that it answers alike. Aligned data goes
//! straight between disk and guest memory.

mod counters;
mod memory;
mod next;
mod pool;
mod probe;
mod queue;
mod ranges;
mod request;
mod shared;
mod submitter;
mod target;
mod thread;
mod tracker;
mod worker;

use super::{Backend, Error, Kind, OfferSource, Position, QueueConfig};
use crate::{
    disk::{Disk, DiskKind},
    memory::Memory,
    seccomp::Filters,
};
use counters::Counters;
use shared::{SharedState, NOT_HERE};
use std::sync::{atomic::Ordering, Arc};
use target::Target;
use thread::DiskThread;
use vblk_core::{
    features::{bit, Features},
    range::RangeOps,
    uapi::Stats,
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// A disk that a thread of this process serves.
pub struct IoUring {
    shared: Arc<SharedState>,
    counters: Arc<Counters>,
    died: EventFd,
    thread: DiskThread,
    /// Tells the thread to stop, while it serves.
    running: Option<Arc<EventFd>>,
}

impl IoUring {
    /// Makes `disk` ready, with a thread that makes only the system calls that `filters` allow.
    /// Tries an io_uring of the size that it may need, so that a kernel that refuses one is found
    /// now.
    ///
    /// # Errors
    ///
    /// [`Error::IoUring`], and [`Error::Setup`] when there are no file descriptors or threads left.
    pub fn open(disk: Disk, filters: &Filters) -> Result<Self, Error> {
        let abilities = probe::ring(disk.file())?;
        Ok(Self {
            shared: Arc::new(SharedState {
                sectors: disk.sectors().into(),
                write_through: false.into(),
                // A hole can be punched into a file without it.
                can_discard: disk.kind() == DiskKind::File || abilities.discard,
                disk,
            }),
            counters: Arc::default(),
            died: event_fd()?,
            thread: DiskThread::spawn(filters.clone())?,
            running: None,
        })
    }

    fn target(&self, features: Features) -> Result<Target, Error> {
        let disk = &self.shared.disk;
        let file = disk.file().try_clone();
        Ok(Target {
            file: file.map_err(Error::setup("duplicating the disk's descriptor"))?,
            kind: disk.kind(),
            rules: disk.rules(RangeOps::negotiated(features)),
            memory_align: disk.memory_align(),
            id: *disk.id(),
            shared: self.shared.clone(),
        })
    }
}

impl Backend for IoUring {
    fn kind(&self) -> Kind {
        Kind::IoUring
    }

    fn features(&self) -> Features {
        Features(Features::SUPPORTED.0 & !NOT_HERE)
    }

    fn offer_source(&self) -> Arc<dyn OfferSource> {
        self.shared.clone()
    }

    fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        self.shared.write_through.store(!on, Ordering::Relaxed);
        Ok(())
    }

    fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    fn can_track(&self) -> bool {
        true
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
        self.counters.stopped_queues.set(0);
        let stop = Arc::new(event_fd()?);
        let setup = worker::Setup {
            target: self.target(features)?,
            memory: memory.clone(),
            features,
            queues,
            stop: stop.clone(),
            counters: self.counters.clone(),
            died: self.died.try_clone().map_err(Error::setup("eventfd"))?,
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
        running.write(1).map_err(Error::setup("eventfd"))?;
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
    EventFd::new(EFD_NONBLOCK).map_err(Error::setup("eventfd"))
}

// SPDX-License-Identifier: GPL-2.0

//! A thread that looks after the disks: it tells drivers of a length that changed and of a queue
//! that stopped, and at the end it stops the disks.
//!
//! Questions to a disk may block for as long as the disk likes. The main thread only waits for
//! it, and can stop waiting at any time.

use crate::{
    devices::{
        bus::{lock, Shared},
        virtio::block::{BlockDevice, Prober},
    },
    seccomp::{Filters, Thread},
    sys::poll,
};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// How often a disk is asked whose back-end does not tell of changes.
const PERIOD: Duration = Duration::from_secs(1);

/// A disk that was stopped.
pub struct StoppedDisk {
    /// Why the back-end could not be stopped properly.
    pub error: Option<String>,
    /// One line with its counters.
    pub summary: String,
}

/// The thread that looks after the disks.
pub struct DiskMonitor {
    /// Tells the thread to stop the disks.
    stop: EventFd,
    /// Signalled when all disks are stopped.
    stopped: EventFd,
    /// The disk that is being stopped.
    current: Arc<AtomicUsize>,
    reports: Receiver<StoppedDisk>,
}

/// A disk and its events.
struct Watched {
    disk: Shared<BlockDevice>,
    prober: Prober,
    /// Signalled when the configuration has changed; a disk without it is asked each period.
    config: Option<EventFd>,
    /// Signalled when a queue has made a mistake, or has stopped.
    err: EventFd,
}

impl DiskMonitor {
    /// Starts the thread, which makes only the system calls that `filters` allow.
    ///
    /// # Errors
    ///
    /// Returns an error when there are no threads or file descriptors left.
    pub fn spawn(disks: &[Shared<BlockDevice>], filters: &Filters) -> io::Result<Self> {
        let watched = disks.iter().map(watch).collect::<io::Result<Vec<_>>>()?;
        let (tell, reports) = mpsc::channel();
        let monitor = Self {
            stop: EventFd::new(EFD_NONBLOCK)?,
            stopped: EventFd::new(EFD_NONBLOCK)?,
            current: Arc::default(),
            reports,
        };
        let (stop, stopped) = (monitor.stop.try_clone()?, monitor.stopped.try_clone()?);
        let (current, filters) = (monitor.current.clone(), filters.clone());
        thread::Builder::new()
            .name("vblk-monitor".into())
            .spawn(move || {
                if filters.apply(Thread::Monitor).is_ok() {
                    follow(&watched, &stop);
                }
                stop_all(&watched, &current, &tell);
                let _ = stopped.write(1);
            })?;
        Ok(monitor)
    }

    /// Lets the thread stop all disks, one after the other. Does not wait.
    pub fn stop_disks(&self) {
        let _ = self.stop.write(1);
    }

    /// Signalled when all disks are stopped.
    pub fn stopped(&self) -> &EventFd {
        &self.stopped
    }

    /// The number of the disk that is being stopped.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The disks that were stopped since the last call, in their order.
    pub fn reports(&self) -> impl Iterator<Item = StoppedDisk> + '_ {
        self.reports.try_iter()
    }
}

fn watch(disk: &Shared<BlockDevice>) -> io::Result<Watched> {
    let device = lock(disk);
    let config = device.backend().config_call();
    Ok(Watched {
        disk: disk.clone(),
        prober: device.prober().clone(),
        config: config.map(EventFd::try_clone).transpose()?,
        err: device.err().try_clone()?,
    })
}

/// Follows the disks until `stop` is signalled.
fn follow(watched: &[Watched], stop: &EventFd) {
    let mut files = vec![stop.as_raw_fd()];
    for disk in watched {
        files.push(disk.err.as_raw_fd());
        files.extend(disk.config.as_ref().map(AsRawFd::as_raw_fd));
    }
    let asks = watched.iter().any(|disk| disk.config.is_none());
    let mut tick = Instant::now() + PERIOD;
    while stop.read().is_err() {
        let left = asks.then(|| tick.saturating_duration_since(Instant::now()));
        if wait(&files, left).is_err() {
            return;
        }
        let is_tick = asks && Instant::now() >= tick;
        if is_tick {
            tick = Instant::now() + PERIOD;
        }
        for disk in watched {
            if disk.err.read().is_ok() {
                lock(&disk.disk).check_queues();
            }
            let has_news = match &disk.config {
                Some(event) => event.read().is_ok(),
                None => is_tick,
            };
            if has_news {
                // Asked without the lock. A disk that does not answer is no reason to end the
                // guest: its requests will fail.
                if let Ok(offer) = disk.prober.offer() {
                    lock(&disk.disk).renew(offer);
                }
            }
        }
    }
}

fn wait(files: &[RawFd], limit: Option<Duration>) -> io::Result<()> {
    poll::readable(files, limit).map(drop)
}

fn stop_all(watched: &[Watched], current: &AtomicUsize, tell: &Sender<StoppedDisk>) {
    for (number, disk) in watched.iter().enumerate() {
        current.store(number, Ordering::Relaxed);
        let mut device = lock(&disk.disk);
        let error = device.stop().err().map(|e| e.to_string());
        let summary = device.summary();
        drop(device);
        // Nobody listens any more when the launcher has given up.
        let _ = tell.send(StoppedDisk { error, summary });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Kind,
        devices::{bus::Device, virtio::block::Virtqueues},
        disk::{Disk, Options},
        memory,
    };
    use std::sync::Mutex;
    use tempfile::NamedTempFile;
    use vm_memory::GuestAddress;

    /// Longer than any test takes, unless something hangs.
    const LONG: Duration = Duration::from_secs(30);

    fn disk() -> (NamedTempFile, Shared<BlockDevice>) {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = Disk::open(file.path(), &Options::default()).unwrap();
        let backend = Kind::IoUring.open(disk, &Filters::default()).unwrap();
        let memory = memory::anonymous(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let queues = Virtqueues {
            count: 1,
            size: 16,
            packed: false,
        };
        let device = BlockDevice::new(backend, memory, queues, Arc::new(|_| {})).unwrap();
        (file, Arc::new(Mutex::new(device)))
    }

    fn sectors(disk: &Shared<BlockDevice>) -> u64 {
        let mut capacity = [0; 8];
        lock(disk).read(0x100, &mut capacity);
        u64::from_le_bytes(capacity)
    }

    #[test]
    fn a_length_that_changed_is_seen_and_disks_are_stopped_in_their_order() {
        let disks = [disk(), disk()];
        let devices = [disks[0].1.clone(), disks[1].1.clone()];
        let monitor = DiskMonitor::spawn(&devices, &Filters::default()).unwrap();
        disks[1].0.as_file().set_len(2 << 20).unwrap();
        let end = Instant::now() + LONG;
        while sectors(&devices[1]) != 4096 {
            assert!(Instant::now() < end, "the length is not seen");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(sectors(&devices[0]), 2048);
        assert!(monitor.stopped().read().is_err());
        monitor.stop_disks();
        assert!(poll::readable(&[monitor.stopped().as_raw_fd()], Some(LONG)).unwrap()[0]);
        let reports: Vec<_> = monitor.reports().collect();
        assert_eq!(reports.len(), 2);
        for (report, (file, _)) in reports.iter().zip(&disks) {
            assert_eq!(report.error, None);
            let start = format!("path={} backend=io-uring ", file.path().display());
            assert!(report.summary.starts_with(&start), "{}", report.summary);
        }
    }

    /// Whatever holds a disk, only this thread waits for it.
    #[test]
    fn a_disk_that_does_not_stop_is_named() {
        let disks = [disk(), disk()];
        let devices = [disks[0].1.clone(), disks[1].1.clone()];
        let monitor = DiskMonitor::spawn(&devices, &Filters::default()).unwrap();
        let held = lock(&devices[1]);
        monitor.stop_disks();
        let end = Instant::now() + LONG;
        while monitor.current() != 1 {
            assert!(Instant::now() < end, "the first disk is not stopped");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(monitor.stopped().read().is_err());
        drop(held);
        assert!(poll::readable(&[monitor.stopped().as_raw_fd()], Some(LONG)).unwrap()[0]);
    }
}

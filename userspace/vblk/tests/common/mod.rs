// SPDX-License-Identifier: GPL-2.0

//! A guest without a machine: memory, a driver, a disk, and a back-end that serves it.

#![allow(dead_code)]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
pub use vblk::testing::Guest;
use vblk::{
    backend::{Backend, Features, Kind, Position, QueueConfig},
    disk::{Disk, Options},
    memory,
    seccomp::Filters,
};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    queue::QueueSize,
    ring::Format,
    testing::{BlockRequest, Buf, Driver, DriverMemory, Layout, UsedEntry},
};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Two regions of memory meet here.
pub const SEAM: u64 = 8 << 20;
/// Where the rings are.
const RINGS: GuestAddr = GuestAddr(0x10_0000);
/// Where headers and status bytes go.
const HEADERS: u64 = 0x2_0000;
/// Memory for data: from here to the end.
pub const DATA: u64 = 4 << 20;
pub const MEMORY_END: u64 = 16 << 20;

/// A file with these contents, as a disk.
pub fn file_disk(contents: &[u8], options: &Options) -> (NamedTempFile, Disk) {
    // Beside the build, as direct I/O needs a real file system.
    let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(contents).unwrap();
    let disk = Disk::open(file.path(), options).unwrap();
    (file, disk)
}

/// Bytes that differ from their neighbours, and from those of another seed.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// How to set a rig up.
pub struct Setup {
    pub contents: Vec<u8>,
    pub options: Options,
    pub queue_size: u32,
    pub features: Features,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            contents: pattern(1, 4 << 20),
            options: Options::default(),
            queue_size: 256,
            features: Features::SUPPORTED,
        }
        .without(bit::RING_PACKED)
    }
}

impl Setup {
    /// With packed rings.
    pub fn packed() -> Self {
        let mut setup = Self::default();
        setup.features.0 |= 1 << bit::RING_PACKED;
        setup
    }

    pub fn without(mut self, bit: u32) -> Self {
        self.features.0 &= !(1 << bit);
        self
    }
}

/// Everything together, with one queue.
pub struct Rig {
    pub file: NamedTempFile,
    pub backend: Box<dyn Backend>,
    pub memory: Guest,
    pub driver: Driver<Guest>,
    pub kick: EventFd,
    pub call: EventFd,
    pub err: EventFd,
    pub features: Features,
}

impl Rig {
    /// A rig that runs.
    pub fn new(setup: Setup) -> Self {
        let (file, disk) = file_disk(&setup.contents, &setup.options);
        let backend = Kind::IoUring.open(disk, &Filters::default()).unwrap();
        Self {
            file,
            ..Self::with_backend(setup, backend)
        }
    }

    /// A rig that runs with this back-end. Its file is another.
    pub fn with_backend(setup: Setup, backend: Box<dyn Backend>) -> Self {
        let file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let seam = SEAM as usize;
        let ranges = [
            (GuestAddress(0), seam),
            (GuestAddress(SEAM), MEMORY_END as usize - seam),
        ];
        let memory = Guest(memory::anonymous(&ranges).unwrap());
        let size = QueueSize::new(setup.queue_size).unwrap();
        let layout = Layout::new(Format::of(setup.features), size, RINGS);
        let event_idx = setup.features.has(bit::RING_EVENT_IDX);
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let mut rig = Self {
            file,
            backend,
            driver: Driver::new(memory.clone(), layout, event_idx),
            memory,
            kick: event(),
            call: event(),
            err: event(),
            features: setup.features,
        };
        rig.start(rig.driver.base());
        rig
    }

    /// Starts the back-end.
    pub fn start(&mut self, base: u32) {
        let config = self.queue_config(base);
        if let Err(e) = self
            .backend
            .start(&self.memory.0, self.features, vec![config])
        {
            panic!("THE IO-URING BACK-END CAN'T BE TESTED HERE: {e}");
        }
    }

    pub fn queue_config(&self, base: u32) -> QueueConfig {
        let layout = self.driver.layout();
        QueueConfig {
            index: 0,
            size: layout.size.get(),
            desc: GuestAddress(layout.desc.0),
            avail: GuestAddress(layout.avail.0),
            used: GuestAddress(layout.used.0),
            base,
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
            err: Some(self.err.try_clone().unwrap()),
            tracking: None,
        }
    }

    pub fn stop(&mut self) -> Position {
        let positions = self.backend.stop().unwrap();
        assert_eq!(positions.len(), 1);
        positions[0]
    }

    /// What is on the disk.
    pub fn disk(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Makes visible what was added, and kicks if wanted.
    pub fn publish(&mut self) {
        if self.driver.publish_needs_kick() {
            self.kick.write(1).unwrap();
        }
    }

    /// The next chain that is given back.
    pub fn wait(&mut self) -> UsedEntry {
        let mut entry = None;
        wait_for("a used entry", || {
            entry = self.driver.poll_used();
            entry.is_some()
        });
        entry.unwrap()
    }

    /// Sends buffers, and waits for the answer.
    pub fn send(&mut self, bufs: &[Buf]) -> UsedEntry {
        let head = self.driver.add(bufs).unwrap();
        self.publish();
        let used = self.wait();
        assert_eq!(used.id, u32::from(head));
        used
    }

    /// Sends a request in its usual layout; its status and used length.
    pub fn request(&mut self, request: &BlockRequest) -> (u8, u32) {
        request.prepare(&self.memory);
        let used = self.send(&request.buffers());
        (self.memory.read_u8(request.status), used.len)
    }
}

/// Where the header and the status byte of request `index` go.
pub fn header_at(index: u64) -> (GuestAddr, GuestAddr) {
    let at = HEADERS + index * 32;
    (GuestAddr(at), GuestAddr(at + 16))
}

pub fn read(sector: u64, at: u64, len: u32) -> BlockRequest {
    let (header, status) = header_at(0);
    BlockRequest::read(sector, header, status).data(GuestAddr(at), len)
}

pub fn write(sector: u64, at: u64, len: u32) -> BlockRequest {
    let (header, status) = header_at(0);
    BlockRequest::write(sector, header, status).data(GuestAddr(at), len)
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        thread::yield_now();
    }
}

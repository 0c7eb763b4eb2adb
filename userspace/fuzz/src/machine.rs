// SPDX-License-Identifier: GPL-2.0

//! A disk with a guest's memory, and what a guest does to both.

use crate::{
    layout::{layout, MEMORY, QUEUE_SIZE},
    step::{Control, Step},
    watch::{put, Watch},
};
use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
use vblk::{
    backend::{Error, Features, Format, Kind, Stats},
    devices::{
        bus::Device,
        virtio::{
            block::{BlockDevice, Virtqueues},
            mmio::QUEUE_NOTIFY,
        },
    },
    disk::{Disk, Options},
    memory::{self, Memory},
    seccomp::Filters,
};
use vm_memory::{Bytes, GuestAddress};

const QUEUES: u16 = 2;
/// Bytes of the disk, and what is on it.
const DISK: usize = 64 << 10;
const CONTENT: u8 = 0x5a;
/// How long a kick may take to arrive. Later is no finding: it may be too late for this input.
const PATIENCE: Duration = Duration::from_millis(20);

/// Everything together.
pub struct Machine {
    control: Control,
    file: NamedTempFile,
    memory: Memory,
    device: BlockDevice,
    watch: Watch,
    /// Failures of the back-end.
    failures: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    pub fn new(control: Control) -> Self {
        let file = NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), [CONTENT; DISK]).expect("room for a disk");
        let options = Options {
            read_only: control.read_only,
            ..Options::default()
        };
        let disk = Disk::open(file.path(), &options).expect("a disk");
        let backend = Kind::IoUring.open(disk, &Filters::default());
        let memory = memory::anonymous(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let queues = Virtqueues {
            count: QUEUES,
            size: QUEUE_SIZE,
            packed: control.packed,
        };
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let sink = failures.clone();
        let failed = Arc::new(move |e: &Error| sink.lock().expect("a list").push(e.to_string()));
        let backend = backend.expect("an io_uring");
        let mut device =
            BlockDevice::new(backend, memory.clone(), queues, failed).expect("a device");
        Self {
            control,
            file,
            memory,
            watch: Watch::new(&mut device, QUEUES.into()),
            device,
            failures,
        }
    }

    pub fn perform(&mut self, step: &Step) {
        match step {
            Step::Register { number, value } => {
                self.write(u64::from(*number) * 4, &value.to_le_bytes());
            }
            Step::Write(at, data) => self.write((*at).into(), data),
            Step::Read(at, len) => self.device.read((*at).into(), &mut vec![0; *len]),
            Step::Fill(at, bytes) => {
                let at = *at as usize % MEMORY;
                let bytes = &bytes[..bytes.len().min(MEMORY - at)];
                let written = self.memory.write_slice(bytes, GuestAddress(at as u64));
                written.expect("guest memory");
            }
            Step::Begin(features) => self.begin(*features),
            Step::Kick(queue) => self.kick(u16::from(*queue) % QUEUES),
            Step::Refresh => {
                self.device.refresh();
                self.watch.look(&mut self.device);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let kicks = self.kicks();
        self.device.write(offset, data);
        self.watch.wrote(&mut self.device, offset, data);
        if let (QUEUE_NOTIFY, &[queue, 0, 0, 0]) = (offset, data) {
            self.wait(queue.into(), kicks);
        }
    }

    /// Virtio 1.2, 3.1.1.
    fn begin(&mut self, features: Features) {
        let format = match features.has(vblk_core::features::bit::RING_PACKED) {
            true => Format::Packed,
            false => Format::Split,
        };
        let layout = layout(format);
        let mut writes = vec![(0x70, 0), (0x70, 1), (0x70, 3)];
        for word in [0u32, 1] {
            writes.push((0x24, word));
            writes.push((0x20, (features.0 >> (32 * word)) as u32));
        }
        writes.extend([(0x70, 11), (0x30, 0), (0x38, layout.size.get().into())]);
        for (register, addr) in [
            (0x80, layout.desc),
            (0x90, layout.avail),
            (0xa0, layout.used),
        ] {
            writes.push((register, addr.0 as u32));
            writes.push((register + 4, (addr.0 >> 32) as u32));
        }
        writes.extend([(0x44, 1), (0x70, 15)]);
        for (offset, value) in writes {
            self.write(offset, &value.to_le_bytes());
        }
    }

    fn kick(&mut self, queue: u16) {
        let kicks = self.kicks();
        let kick = &self.device.kicks()[usize::from(queue)];
        kick.write(1).expect("an eventfd that is not full");
        self.wait(queue, kicks);
    }

    fn kicks(&self) -> u64 {
        self.stats().kicks
    }

    fn stats(&self) -> Stats {
        self.device.backend().stats().expect("counters")
    }

    /// Until the back-end has seen a kick, if there were `kicks` before it. What it does about that
    /// comes before it sees anything else.
    fn wait(&mut self, queue: u16, kicks: u64) {
        let end = Instant::now() + PATIENCE;
        while self.watch.serves(queue) && self.kicks() == kicks && Instant::now() < end {
            std::thread::yield_now();
        }
    }

    /// Stops the disk, and looks at what was not to happen.
    pub fn finish(mut self) -> Stats {
        put(&mut self.device, 0x70, 0);
        let failures = self.failures.lock().expect("a list");
        assert!(failures.is_empty(), "the back-end failed: {failures:?}");
        let stats = self.stats();
        // Whatever the disk could not do should not have been asked of it.
        assert_eq!(stats.io_errors, 0, "errors of the disk");
        let content = fs::read(self.file.path()).expect("the disk");
        assert_eq!(content.len(), DISK, "length of the disk");
        if self.control.read_only {
            assert!(content == [CONTENT; DISK], "a read-only disk was written");
        }
        stats
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A whole virtio disk without KVM: registers in front, the io-uring back-end behind.

mod common;

use common::*;
use std::sync::{
    Arc,
    Mutex, //
};
use vblk::{
    backend::{
        Features,
        Kind, //
    },
    devices::{
        bus::Device,
        virtio::{
            block::BlockDevice,
            mmio::QUEUE_NOTIFY, //
        },
    },
    disk::{
        Options, //
    },
    memory::{
        self,
        Memory, //
    },
};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    ring::Format,
    testing::{
        Driver,
        DriverMemory,
        Layout, //
    },
};
use vm_memory::GuestAddress;

const STATUS: u64 = 0x70;

struct Machine {
    device: BlockDevice,
    memory: Memory,
    failures: Arc<Mutex<Vec<String>>>,
    _file: tempfile::NamedTempFile,
}

impl Machine {
    fn new(options: &Options) -> Self {
        let (file, disk) = file_disk(&pattern(3, 1 << 20), options);
        let backend = Kind::IoUring.open(disk).unwrap();
        let ranges = [(GuestAddress(0), MEMORY_END as usize)];
        let memory = memory::anonymous(&ranges).unwrap();
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let sink = failures.clone();
        let failed = Arc::new(move |e: &vblk::backend::Error| {
            sink.lock().unwrap().push(e.to_string());
        });
        Self {
            device: BlockDevice::new(backend, memory.clone(), 2, 128, failed).unwrap(),
            memory,
            failures,
            _file: file,
        }
    }

    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn put(&mut self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    fn offered(&mut self) -> Features {
        self.put(0x14, 1);
        let high = self.get(0x10);
        self.put(0x14, 0);
        Features(u64::from(high) << 32 | u64::from(self.get(0x10)))
    }

    /// As a driver begins.
    fn begin(&mut self, layout: &Layout) {
        for status in [0, 1, 3] {
            self.put(STATUS, status);
        }
        let mut offered = self.offered();
        if layout.format == Format::Split {
            offered.0 &= !(1 << bit::RING_PACKED);
        }
        for word in [0, 1] {
            self.put(0x24, word);
            self.put(0x20, (offered.0 >> (32 * word)) as u32);
        }
        self.put(STATUS, 11);
        assert_eq!(self.get(STATUS), 11);
        self.put(0x30, 1);
        self.put(0x38, layout.size.get().into());
        for (register, addr) in [
            (0x80, layout.desc),
            (0x90, layout.avail),
            (0xa0, layout.used),
        ] {
            self.put(register, addr.0 as u32);
            self.put(register + 4, (addr.0 >> 32) as u32);
        }
        self.put(0x44, 1);
        self.put(STATUS, 15);
    }
}

#[test]
fn a_driver_reads_through_registers_and_a_ring() {
    let mut machine = Machine::new(&Options::default());
    let guest = Guest(machine.memory.clone());
    // Twice each, as after a reboot of the guest.
    let layouts = [Layout::with_size, Layout::packed].map(|new| new(128, GuestAddr(0x10_0000)));
    for (round, layout) in [layouts, layouts].into_iter().flatten().enumerate() {
        let mut driver = Driver::new(guest.clone(), layout, true);
        machine.begin(&layout);
        assert_eq!(machine.get(STATUS), 15, "{round}");
        let request = read(2, DATA, 4096);
        request.prepare(&guest);
        driver.add(&request.buffers()).unwrap();
        assert!(driver.publish_needs_kick());
        machine.put(QUEUE_NOTIFY, 1);
        wait_for("an interrupt", || machine.device.call().read().is_ok());
        assert_eq!(machine.get(0x60), 1);
        machine.put(0x64, 1);
        assert_eq!(driver.poll_used().unwrap().len, 4097);
        let expected = &pattern(3, 1 << 20)[1024..][..4096];
        assert_eq!(guest.read_vec(GuestAddr(DATA), 4096), expected);
        machine.put(STATUS, 0);
        assert_eq!(machine.get(STATUS), 0);
    }
    let stats = machine.device.backend().stats().unwrap();
    assert_eq!(stats.requests, 4);
    assert_eq!(*machine.failures.lock().unwrap(), [""; 0]);
}

#[test]
fn impossible_rings_ask_for_a_reset() {
    let mut machine = Machine::new(&Options::default());
    let mut layout = Layout::with_size(128, GuestAddr(0x10_0000));
    layout.used = GuestAddr(MEMORY_END);
    machine.begin(&layout);
    assert_eq!(machine.get(STATUS), 15 | 64);
    assert_eq!(machine.get(0x60) & 2, 2);
    assert!(machine.device.call().read().is_ok());
    // The driver does better the next time.
    machine.begin(&Layout::with_size(128, GuestAddr(0x10_0000)));
    assert_eq!(machine.get(STATUS), 15);
    assert_eq!(*machine.failures.lock().unwrap(), [""; 0]);
}

#[test]
fn features_follow_the_disk() {
    let bit = |features: Features, bit| features.has(bit);
    let writable = Machine::new(&Options::default()).offered();
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let read_only = Machine::new(&options).offered();
    assert!(!bit(writable, 5) && bit(read_only, 5));
    for wanted in [2, 6, 9, 12, 28, 29, 32] {
        assert!(bit(writable, wanted), "{wanted}");
    }
}

/// The offsets are those of `struct virtio_blk_config` (virtio 1.2, 5.2.4).
#[test]
fn the_configuration_space_describes_the_disk() {
    let mut machine = Machine::new(&Options::default());
    let mut config = [0; 36];
    machine.device.read(0x100, &mut config);
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4)), (2048, 0));
    assert_eq!(word(12), 126);
    assert!(word(20) >= 512);
    assert_eq!(config[34..36], [2, 0]);
}

#[test]
fn a_switch_that_was_not_accepted_does_nothing() {
    const WRITEBACK: u64 = 0x100 + 32;
    let mut machine = Machine::new(&Options::default());
    let mut byte = [0];
    for at in (0x100..0x180).chain([WRITEBACK]) {
        machine.device.write(at, &[0]);
    }
    machine.device.read(WRITEBACK, &mut byte);
    assert_eq!(byte, [1]);
    assert!(machine.failures.lock().unwrap().is_empty());
}

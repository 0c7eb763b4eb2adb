// SPDX-License-Identifier: GPL-2.0

//! A whole virtio disk without KVM: registers in front, the io-uring back-end behind.

mod common;

use common::*;
use std::sync::{Arc, Mutex};
use vblk::{
    backend::{Backend, Error, Features, Kind, OfferSource, Position, QueueConfig, Stats},
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
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    ring::Format,
    testing::{Buf, Driver, DriverMemory, Layout},
};
use vm_memory::GuestAddress;

const STATUS: u64 = 0x70;
/// The byte of the configuration space that a driver may write.
const WRITEBACK: u64 = 0x100 + 32;

const QUEUES: Virtqueues = Virtqueues {
    count: 2,
    size: 128,
    packed: true,
};

struct Machine {
    device: BlockDevice,
    memory: Memory,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    fn new(options: &Options) -> Self {
        Self::with_queues(options, QUEUES)
    }

    fn with_queues(options: &Options, queues: Virtqueues) -> Self {
        // The disk is open, and needs no name any more.
        let (_file, disk) = file_disk(&pattern(3, 1 << 20), options);
        Self::of(
            Kind::IoUring.open(disk, &Filters::default()).unwrap(),
            queues,
        )
    }

    fn of(backend: Box<dyn Backend>, queues: Virtqueues) -> Self {
        let ranges = [(GuestAddress(0), MEMORY_END as usize)];
        let memory = memory::anonymous(&ranges).unwrap();
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let sink = failures.clone();
        let failed = Arc::new(move |e: &vblk::backend::Error| {
            sink.lock().unwrap().push(e.to_string());
        });
        Self {
            device: BlockDevice::new(backend, memory.clone(), queues, failed).unwrap(),
            memory,
            failures,
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
        self.negotiate(layout.format);
        self.set_up_queue(layout);
        self.put(STATUS, 15);
    }

    fn negotiate(&mut self, format: Format) {
        for status in [0, 1, 3] {
            self.put(STATUS, status);
        }
        let mut offered = self.offered();
        if format == Format::Split {
            offered.0 &= !(1 << bit::RING_PACKED);
        }
        for word in [0, 1] {
            self.put(0x24, word);
            self.put(0x20, (offered.0 >> (32 * word)) as u32);
        }
        self.put(STATUS, 11);
        assert_eq!(self.get(STATUS), 11);
    }

    fn set_up_queue(&mut self, layout: &Layout) {
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
        // As a driver does that acknowledges until there is nothing left.
        assert_eq!(machine.get(0x60), 0, "{round}");
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

/// What is used between a look and its acknowledgement must not be lost: the driver that looked has
/// not seen it.
#[test]
fn an_acknowledgement_is_for_what_was_there_at_the_look() {
    for layout in [Layout::with_size, Layout::packed].map(|new| new(128, GuestAddr(0x10_0000))) {
        let mut machine = Machine::new(&Options::default());
        let guest = Guest(machine.memory.clone());
        let mut driver = Driver::new(guest.clone(), layout, false);
        machine.begin(&layout);
        let mut serve = |machine: &mut Machine| {
            let request = read(2, DATA, 512);
            request.prepare(&guest);
            driver.add(&request.buffers()).unwrap();
            driver.publish();
            machine.put(QUEUE_NOTIFY, 1);
            wait_for("an answer", || driver.poll_used().is_some());
        };
        assert_eq!(machine.get(0x60), 0);
        serve(&mut machine);
        assert_eq!(machine.get(0x60), 1);
        serve(&mut machine);
        machine.put(0x64, 1);
        assert_eq!(machine.get(0x60), 1, "{:?}", layout.format);
        machine.put(0x64, 1);
        assert_eq!(machine.get(0x60), 0, "{:?}", layout.format);
        // One that never looks until a whole ring was used.
        for _ in 0..256 {
            serve(&mut machine);
        }
        assert_eq!(machine.get(0x60), 1, "{:?}", layout.format);
    }
}

/// Virtio 1.2, 2.1.2: a device that can't go on sets DEVICE_NEEDS_RESET and tells the driver.
#[test]
fn a_queue_that_stops_for_good_asks_for_a_reset() {
    let mut machine = Machine::new(&Options::default());
    let guest = Guest(machine.memory.clone());
    let layout = Layout::with_size(128, GuestAddr(0x10_0000));
    for _ in 0..2 {
        machine.begin(&layout);
        assert_eq!(machine.get(STATUS), 15);
        // An available index that is further on than the ring is long.
        guest.store_u16(GuestAddr(layout.avail.0 + 2), 129);
        machine.put(QUEUE_NOTIFY, 1);
        wait_for("an error", || machine.device.err().read().is_ok());
        let _ = machine.device.call().read();
        machine.device.check_queues();
        assert_eq!(machine.get(STATUS), 15 | 64);
        assert_eq!(machine.get(0x60) & 2, 2);
        assert!(machine.device.call().read().is_ok());
        // The driver does better the next time.
        guest.store_u16(GuestAddr(layout.avail.0 + 2), 0);
        machine.begin(&layout);
        machine.device.check_queues();
        assert_eq!(machine.get(STATUS), 15);
    }
    assert_eq!(*machine.failures.lock().unwrap(), [""; 0]);
}

/// Its mistake is one request's, and the queue lives.
#[test]
fn a_malformed_request_asks_for_no_reset() {
    let mut machine = Machine::new(&Options::default());
    let guest = Guest(machine.memory.clone());
    let layout = Layout::with_size(128, GuestAddr(0x10_0000));
    machine.begin(&layout);
    let mut driver = Driver::new(guest.clone(), layout, false);
    driver.add(&[Buf::readable(GuestAddr(DATA), 1)]).unwrap();
    driver.publish();
    machine.put(QUEUE_NOTIFY, 1);
    wait_for("an error", || machine.device.err().read().is_ok());
    machine.device.check_queues();
    assert_eq!(machine.get(STATUS), 15);
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
fn queues_are_not_longer_than_announced() {
    let mut machine = Machine::new(&Options::default());
    let layout = Layout::with_size(128, GuestAddr(0x10_0000));
    // The last would be 128 in 16 bits.
    for size in [256, 0x8000, 0x1_0080] {
        machine.negotiate(layout.format);
        machine.set_up_queue(&layout);
        machine.put(0x44, 0);
        machine.put(0x38, size);
        machine.put(0x44, 1);
        machine.put(STATUS, 15);
        assert_eq!(machine.get(STATUS), 15 | 64, "{size:#x}");
    }
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

#[test]
fn packed_rings_are_offered_when_asked_for() {
    for packed in [true, false] {
        let queues = Virtqueues { packed, ..QUEUES };
        let offered = Machine::with_queues(&Options::default(), queues).offered();
        assert_eq!(offered.has(bit::RING_PACKED), packed);
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

/// A back-end that notes when it is started and switched.
struct Witness {
    inner: Box<dyn Backend>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Backend for Witness {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn offer_source(&self) -> Arc<dyn OfferSource> {
        self.inner.offer_source()
    }

    fn disk(&self) -> &Disk {
        self.inner.disk()
    }

    fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        self.seen.lock().unwrap().push(format!("writeback {on}"));
        self.inner.set_writeback(on)
    }

    fn start(
        &mut self,
        memory: &Memory,
        features: Features,
        queues: Vec<QueueConfig>,
    ) -> Result<(), Error> {
        self.seen.lock().unwrap().push("start".into());
        self.inner.start(memory, features, queues)
    }

    fn stop(&mut self) -> Result<Vec<Position>, Error> {
        self.inner.stop()
    }

    fn stats(&self) -> Result<Stats, Error> {
        self.inner.stats()
    }
}

/// Starting a back-end puts it into the mode that the features ask for.
#[test]
fn a_switch_used_before_the_driver_is_ready_counts() {
    let (_file, disk) = file_disk(&pattern(3, 1 << 20), &Options::default());
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let witness = Witness {
        inner: Kind::IoUring.open(disk, &Filters::default()).unwrap(),
        seen: seen.clone(),
    };
    let mut machine = Machine::of(Box::new(witness), QUEUES);
    machine.negotiate(Format::Split);
    machine.device.write(WRITEBACK, &[0]);
    machine.set_up_queue(&Layout::with_size(128, GuestAddr(0x10_0000)));
    machine.put(STATUS, 15);
    let all = ["writeback false", "start", "writeback false"];
    assert_eq!(*seen.lock().unwrap(), all);
    // The next driver finds it as the first one did.
    machine.begin(&Layout::with_size(128, GuestAddr(0x10_0000)));
    assert_eq!(seen.lock().unwrap()[3..], ["start"]);
}

#[test]
fn a_driver_is_told_of_a_disk_that_changes_its_length() {
    let (file, disk) = file_disk(&pattern(3, 1 << 20), &Options::default());
    let mut machine = Machine::of(
        Kind::IoUring.open(disk, &Filters::default()).unwrap(),
        QUEUES,
    );
    let guest = Guest(machine.memory.clone());
    let layout = Layout::with_size(128, GuestAddr(0x10_0000));
    let mut driver = Driver::new(guest.clone(), layout, true);
    let mut ask = |machine: &mut Machine, sector| {
        let request = read(sector, DATA, 512);
        request.prepare(&guest);
        driver.add(&request.buffers()).unwrap();
        if driver.publish_needs_kick() {
            machine.put(QUEUE_NOTIFY, 1);
        }
        wait_for("an answer", || driver.poll_used().is_some());
        let _ = machine.device.call().read();
        guest.read_u8(request.status)
    };
    let capacity = |machine: &mut Machine| machine.get(0x100);

    // Before the driver is ready it can't be told, and must not miss it.
    machine.negotiate(Format::Split);
    assert_eq!(capacity(&mut machine), 2048);
    file.as_file().set_len(2 << 20).unwrap();
    machine.set_up_queue(&layout);
    machine.put(STATUS, 15);
    assert!(machine.device.call().read().is_ok());
    for (sectors, generation) in [(4096, 1), (6144, 2), (2048, 3)] {
        file.as_file().set_len(sectors * 512).unwrap();
        machine.device.refresh();
        assert_eq!(machine.get(0x60), 2);
        assert_eq!(machine.get(0xfc), generation);
        assert_eq!(u64::from(capacity(&mut machine)), sectors);
        machine.put(0x64, 2);
        assert_eq!(ask(&mut machine, sectors - 1), 0);
        assert_eq!(ask(&mut machine, sectors), 1);
        // Once is enough.
        machine.device.refresh();
        assert_eq!(machine.get(0x60), 1);
        machine.put(0x64, 1);
        assert_eq!(machine.get(0x60), 0);
        assert!(machine.device.call().read().is_err());
    }
    assert!(machine.failures.lock().unwrap().is_empty());
}

#[test]
fn a_switch_that_was_not_accepted_does_nothing() {
    let mut machine = Machine::new(&Options::default());
    let mut byte = [0];
    for at in (0x100..0x180).chain([WRITEBACK]) {
        machine.device.write(at, &[0]);
    }
    machine.device.read(WRITEBACK, &mut byte);
    assert_eq!(byte, [1]);
    assert!(machine.failures.lock().unwrap().is_empty());
}

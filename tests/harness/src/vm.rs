// SPDX-License-Identifier: GPL-2.0

//! Both sides of a device, set up: what a VMM does with ioctls and what a guest does with rings.

use crate::{
    context::Pinning,
    context::PATIENCE,
    device::{use_vdpa, Device},
    disk::{Disk, Mode},
    memory::{GuestMemory, RegionSpec, REGIONS},
    sys::{poll::EventFd, process, Errno},
};
use std::{
    fs::File,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Arc, Mutex,
    },
    thread,
    time::{Duration, Instant},
};
use vblk_core::{
    addr::GuestAddr,
    features::{bit, Features},
    queue::QueueSize,
    ring::{Base, Format},
    testing::{BlockRequest, Buf, Driver, DriverMemory, Layout, UsedEntry},
    uapi::VringAddr,
};

/// Start of the rings in guest memory. Not 0, so that a zeroed address is never right.
const RINGS: u64 = 0x1_0000;
const PAGE: u64 = 4096;

/// Status bytes, by their names in virtio.
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

/// Set when rings are packed unless a test says otherwise. One test runs at a time.
static PACKED: AtomicBool = AtomicBool::new(false);

/// Chooses the rings of [`Setup::default`].
pub fn use_rings(format: Format) {
    PACKED.store(format == Format::Packed, Relaxed);
}

/// How guest memory is held unless a test says otherwise. One test runs at a time.
static PINNING: Mutex<Pinning> = Mutex::new(Pinning::PerRequest);

/// Chooses how the memory of [`Vm::on`] is held.
pub fn use_memory(pinning: Pinning) {
    *PINNING.lock().expect("no panic meanwhile") = pinning;
    use_vdpa(pinning == Pinning::Mapped);
    if pinning == Pinning::Mapped {
        // vhost-vdpa pins for everyone up to this limit only.
        process::limit_locked_memory(u64::MAX).expect("root may raise it");
    }
}

/// Returns what [`use_memory`] chose.
pub fn pinning() -> Pinning {
    *PINNING.lock().expect("no panic meanwhile")
}

/// Set when workers look at empty rings. One test runs at a time.
static POLLED: AtomicBool = AtomicBool::new(false);

/// For how long they do, in microseconds: about as long as the gaps of the tests, so that it ends
/// before some requests and goes on until others.
const POLL_US: u32 = 200;

/// Chooses whether workers look at the empty rings of [`Vm::on`].
pub fn use_polling(is_polled: bool) {
    POLLED.store(is_polled, Relaxed);
}

/// Returns what [`use_polling`] chose.
pub fn is_polled() -> bool {
    POLLED.load(Relaxed)
}

/// Returns whether an error eventfd tells of malformed requests and of queues that stop. vhost-vdpa
/// has none.
pub fn tells_errors() -> bool {
    pinning() != Pinning::Mapped
}

/// Describes a device and its queues.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Number of queues.
    pub queues: u32,
    /// Entries of each.
    pub size: u32,
    /// Features to negotiate.
    pub features: u64,
    /// Start of both indices of each ring, or of both positions of a packed one.
    pub base: u16,
    /// The guest's memory.
    pub regions: Vec<RegionSpec>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            queues: 1,
            size: 256,
            features: match PACKED.load(Relaxed) {
                true => Features::SUPPORTED.0,
                false => Features::SUPPORTED.0 & !(1 << bit::RING_PACKED),
            },
            base: 0,
            regions: REGIONS.to_vec(),
        }
    }
}

impl Setup {
    /// The default with this queue size.
    pub fn size(size: u32) -> Self {
        let default = Self::default();
        Self { size, ..default }
    }

    /// Takes one of the features away.
    pub fn without(mut self, feature: u32) -> Self {
        self.features &= !(1 << feature);
        self
    }

    fn event_idx(&self) -> bool {
        Features(self.features).has(bit::RING_EVENT_IDX)
    }

    fn layout(&self, start: GuestAddr) -> Layout {
        let size = QueueSize::new(self.size).expect("a queue size");
        Layout::new(Format::of(Features(self.features)), size, start)
    }
}

/// A device with its guest memory and its queues.
pub struct Vm {
    /// The device. The first field: it lets go of the memory before that is unmapped.
    pub device: Device,
    /// The queues, with all that the guest knows of them.
    pub queues: Vec<Queue>,
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The first address behind the rings.
    free: u64,
    /// First addresses of the rings of all queues, also of those that were taken out of `queues`.
    rings: Vec<VringAddr>,
}

impl Vm {
    /// Sets up everything but the disk.
    pub fn new(setup: &Setup) -> Result<Self, Errno> {
        Self::on(Device::open()?, setup)
    }

    /// Does the same as [`Self::new`] on a device that was opened before.
    pub fn on(device: Device, setup: &Setup) -> Result<Self, Errno> {
        let memory = Arc::new(GuestMemory::new(&setup.regions)?);
        device.set_owner()?;
        device.set_features(setup.features)?;
        // Not called otherwise: the default is tested as it is.
        if pinning() == Pinning::Ahead {
            device.set_memory_pinned(1)?;
        }
        device.set_mem_table(&memory.table())?;
        let mut vm = Self {
            device,
            queues: Vec::new(),
            memory,
            free: RINGS,
            rings: Vec::new(),
        };
        for index in 0..setup.queues {
            let queue = vm.set_up_queue(index, setup)?;
            vm.rings.push(queue.addr());
            vm.queues.push(queue);
        }
        Ok(vm)
    }

    /// Sets up everything and attaches a disk.
    pub fn with_disk(setup: &Setup, disk: &Disk) -> Result<Self, Errno> {
        let vm = Self::new(setup)?;
        vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
        Ok(vm)
    }

    /// Sets the addresses of all rings again, which a detachment forgets, and attaches the disk.
    /// Rings of queues that a test has taken out of `queues` are where they were first.
    pub fn attach(&self, disk: &File) -> Result<(), Errno> {
        for first in &self.rings {
            let queue = self.queues.iter().find(|queue| queue.index == first.index);
            let addr = queue.map_or(*first, Queue::addr);
            self.device.set_vring_addr(&addr)?;
        }
        self.device.attach(disk)
    }

    /// Waits until the first queue has stopped: its error eventfd tells, and nothing is given back.
    ///
    /// # Panics
    ///
    /// If it is not stopped, or another one is.
    pub fn await_stop(&mut self, what: &str) -> Result<(), Errno> {
        self.await_error(what)?;
        // In this order: the statistics can be read when the worker is done with what it told.
        assert_eq!(
            self.device.stats()?.stopped_queues,
            1,
            "{what}: not stopped"
        );
        let used = self.queues[0].driver.poll_used();
        assert_eq!(used, None, "{what}: given back");
        Ok(())
    }

    /// Waits until the error eventfd of the first queue tells that it has stopped; where there is
    /// none, until the statistics do.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn await_error(&mut self, what: &str) -> Result<(), Errno> {
        if tells_errors() {
            assert_eq!(
                self.queues[0].err.wait(PATIENCE)?,
                1,
                "{what}: error eventfd"
            );
            return Ok(());
        }
        let end = Instant::now() + PATIENCE;
        while self.device.stats()?.stopped_queues == 0 {
            assert!(Instant::now() < end, "{what}: not stopped");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Does what a VMM does when its guest resets the device and starts the driver again: detaches,
    /// empties the ring of the first queue, and attaches.
    pub fn reset_queue(&mut self, disk: &Disk) -> Result<(), Errno> {
        self.device.detach()?;
        self.empty_ring()?;
        self.attach(&disk.open(Mode::ReadWrite)?)
    }

    /// Sets up the ring of the first queue as a driver does that starts. No disk is attached.
    pub fn empty_ring(&mut self) -> Result<(), Errno> {
        let (memory, queue) = (self.memory.clone(), &mut self.queues[0]);
        let layout = *queue.driver.layout();
        queue.driver = Driver::new(memory, layout, queue.event_idx);
        queue.tell_geometry(&self.device, queue.driver.base())?;
        queue.call.take()?;
        Ok(())
    }

    fn set_up_queue(&mut self, index: u32, setup: &Setup) -> Result<Queue, Errno> {
        let layout = setup.layout(GuestAddr(self.free));
        self.free = layout.end().0.next_multiple_of(PAGE);
        let driver =
            Driver::starting_at(self.memory.clone(), layout, setup.event_idx(), setup.base);
        let queue = Queue {
            index,
            driver,
            kick: EventFd::new()?,
            call: EventFd::new()?,
            err: EventFd::new()?,
            event_idx: setup.event_idx(),
        };
        queue.tell_geometry(&self.device, queue.driver.base())?;
        queue.tell_files(&self.device)?;
        if is_polled() {
            self.device.set_vring_busyloop_timeout(index, POLL_US)?;
        }
        Ok(queue)
    }

    /// The first guest address that rings do not use; a page boundary.
    pub fn free(&self) -> GuestAddr {
        GuestAddr(self.free)
    }

    /// The first queue.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queues[0]
    }
}

/// One queue, as its driver has it.
pub struct Queue {
    /// The queue's number.
    pub index: u32,
    /// The ring.
    pub driver: Driver<Arc<GuestMemory>>,
    /// Wakes the device.
    pub kick: EventFd,
    /// The interrupt.
    pub call: EventFd,
    /// Signalled by the device for malformed requests, and when the queue stops.
    pub err: EventFd,
    /// Set when the event index was negotiated.
    event_idx: bool,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status byte.
    pub status: u8,
    /// The length in the used entry.
    pub len: u32,
}

impl Answer {
    /// Status and length.
    pub fn new(status: u8, len: u32) -> Self {
        Self { status, len }
    }
}

impl Queue {
    /// Sets size, base and addresses.
    pub fn tell_geometry(&self, device: &Device, base: u32) -> Result<(), Errno> {
        device.set_vring_num(self.index, self.driver.layout().size.get().into())?;
        device.set_vring_base(self.index, base)?;
        device.set_vring_addr(&self.addr())
    }

    /// Sets the event descriptors.
    pub fn tell_files(&self, device: &Device) -> Result<(), Errno> {
        device.set_vring_kick(self.index, Some(&self.kick))?;
        device.set_vring_call(self.index, Some(&self.call))?;
        device.set_vring_err(self.index, Some(&self.err))
    }

    /// Returns the addresses of the ring's parts in the harness.
    pub fn addr(&self) -> VringAddr {
        let (layout, memory) = (self.driver.layout(), self.driver.memory());
        VringAddr {
            index: self.index,
            flags: 0,
            desc_user_addr: memory.host(layout.desc),
            used_user_addr: memory.host(layout.used),
            avail_user_addr: memory.host(layout.avail),
            log_guest_addr: 0,
        }
    }

    /// Makes visible what was added, and kicks if the device wants that.
    pub fn notify(&mut self) {
        if self.driver.publish_needs_kick() {
            self.kick();
        }
    }

    /// Kicks.
    pub fn kick(&self) {
        self.kick.signal().expect("kick");
    }

    /// Waits until the device asks for kicks, as it does before it rests. In a ring that is new it may not
    /// have looked yet.
    ///
    /// # Panics
    ///
    /// If it does not ask in time.
    pub fn await_wanted_kicks(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.driver.device_waits() {
            assert!(
                Instant::now() < end,
                "queue {}: asleep without wanting kicks",
                self.index
            );
            thread::yield_now();
        }
    }

    /// Returns the available half of the base when the device took all that was published.
    pub fn taken_base(&self) -> u16 {
        let layout = self.driver.layout();
        let avail = self.driver.next_avail();
        Base { avail, used: avail }.encode(layout.format, layout.size) as u16
    }

    /// Adds a chain and notifies.
    ///
    /// # Panics
    ///
    /// If the ring has no room for it.
    pub fn submit(&mut self, bufs: &[Buf]) -> u16 {
        let head = self.driver.add(bufs).expect("room in the ring");
        self.notify();
        head
    }

    /// Waits for the next used entry as a driver does: it asks for an interrupt, looks once more
    /// and then relies on the call eventfd alone.
    ///
    /// # Panics
    ///
    /// If no interrupt comes in time.
    pub fn next_used(&mut self) -> UsedEntry {
        loop {
            if let Some(entry) = self.driver.poll_used() {
                return entry;
            }
            if !self.driver.enable_interrupt() && self.call.wait(PATIENCE).expect("call") == 0 {
                let (stands, seen) = (self.driver.used_index(), self.driver.next_used());
                assert_eq!(stands, seen, "queue {}: interrupt lost", self.index);
                panic!(
                    "queue {}: request not answered (used index {seen})",
                    self.index
                );
            }
            self.driver.disable_interrupt();
        }
    }

    /// Performs one request in the usual layout and waits for the answer.
    pub fn request(&mut self, request: &BlockRequest) -> Answer {
        self.request_as(request, &request.buffers())
    }

    /// Does the same as [`Self::request`], with these buffers for it.
    pub fn request_as(&mut self, request: &BlockRequest, bufs: &[Buf]) -> Answer {
        request.prepare(self.driver.memory());
        let head = self.submit(bufs);
        let used = self.next_used();
        assert_eq!(used.id, u32::from(head), "an entry for another request");
        let status = self.driver.memory().read_u8(request.status);
        Answer::new(status, used.len)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A front-end of vhost-user with a guest: its memory in a file, drivers on its rings.
//!
//! It is made of the crate `vhost`, which is not ours; what that refuses to send goes out as
//! plain bytes. A test's mistake panics.

use super::Guest;
use crate::{
    backend::{Features, Format},
    memory::Memory,
    sys::poll,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    queue::QueueSize,
    testing::{BlockRequest, Driver, DriverMemory, Layout, UsedEntry},
};
use vhost::{
    vhost_user::{
        message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight},
        Frontend, VhostUserFrontend, VhostUserProtocolFeatures,
    },
    VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData,
};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};
use vmm_sys_util::{
    eventfd::{EventFd, EFD_NONBLOCK},
    sock_ctrl_msg::ScmSocket,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The memory of the guest: two regions, with a hole between them.
pub const REGIONS: [(u64, usize); 2] = [(0, 8 << 20), (1 << 32, 8 << 20)];
/// Where the front-end says that it has guest address 0; the rings are named by such addresses.
const USER: u64 = 0x7000_0000_0000;
/// Room for each ring with all that its driver needs.
const RING_BYTES: u64 = 1 << 20;
/// Where headers and status bytes go, and the data, from the first address of a ring.
const HEADERS: u64 = 0x4_0000;
const DATA: u64 = 0x8_0000;
/// Most bytes of a request's data.
pub const DATA_BYTES: u64 = RING_BYTES - DATA;
/// Bit of the features for those of the protocol.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Creates a file in memory that has no name any more.
pub fn shared_file(bytes: u64) -> File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = format!("/dev/shm/vblk-guest-{}-{number}", std::process::id());
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.expect("a file in /dev/shm");
    fs::remove_file(&path).expect("to remove it");
    file.set_len(bytes).expect("room in /dev/shm");
    file
}

/// The memory of a guest, in a file that a back-end can map.
pub struct SharedGuest {
    /// As drivers reach it.
    pub memory: Guest,
    /// All of it, one region behind the other.
    pub file: File,
}

impl SharedGuest {
    /// Creates memory full of zeroes.
    pub fn new() -> Self {
        let bytes: usize = REGIONS.iter().map(|(_, bytes)| bytes).sum();
        let file = shared_file(bytes as u64);
        let mut offset = 0;
        let mut ranges = Vec::new();
        for (start, bytes) in REGIONS {
            let part = FileOffset::new(file.try_clone().expect("a duplicate"), offset);
            ranges.push((GuestAddress(start), bytes, Some(part)));
            offset += bytes as u64;
        }
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).expect("to map memory");
        Self {
            memory: Guest(Arc::new(memory)),
            file,
        }
    }

    /// Returns the regions as a front-end describes them.
    pub fn regions(&self) -> Vec<VhostUserMemoryRegionInfo> {
        let memory: &Memory = &self.memory.0;
        let describe = |region: &vm_memory::GuestRegionMmap| {
            let file = region.file_offset().expect("a file");
            VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: USER + region.start_addr().raw_value(),
                mmap_offset: file.start(),
                mmap_handle: file.file().as_raw_fd(),
            }
        };
        memory.iter().map(describe).collect()
    }
}

impl Default for SharedGuest {
    fn default() -> Self {
        Self::new()
    }
}

/// A ring with its driver. It outlives the connections that it is served by.
pub struct GuestRing {
    /// The driver.
    pub driver: Driver<Guest>,
    /// Signalled by the driver.
    pub kick: EventFd,
    /// Signalled by the device.
    pub call: EventFd,
    /// Signalled by the device for mistakes.
    pub err: EventFd,
    index: usize,
}

impl GuestRing {
    /// Creates a ring of `size` entries, with as many features as the driver needs to know.
    pub fn new(guest: &SharedGuest, index: usize, size: u32, features: Features) -> Self {
        let area = GuestAddr(RING_BYTES * (1 + index as u64));
        let size = QueueSize::new(size).expect("a size of a ring");
        let layout = Layout::new(Format::of(features), size, area);
        let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let event_idx = features.has(bit::RING_EVENT_IDX);
        Self {
            driver: Driver::new(guest.memory.clone(), layout, event_idx),
            kick: event(),
            call: event(),
            err: event(),
            index,
        }
    }

    fn at(&self, offset: u64) -> GuestAddr {
        GuestAddr(RING_BYTES * (1 + self.index as u64) + offset)
    }

    /// Returns a request to read, whose parts have place number `slot`.
    pub fn read(&self, slot: u64, sector: u64, bytes: u32) -> BlockRequest {
        let (header, status) = self.header(slot);
        BlockRequest::read(sector, header, status).data(self.data(slot, bytes), bytes)
    }

    /// Returns a request to write `contents`, whose parts have place number `slot`.
    pub fn write(&self, slot: u64, sector: u64, contents: &[u8]) -> BlockRequest {
        let (header, status) = self.header(slot);
        let bytes = contents.len() as u32;
        let at = self.data(slot, bytes);
        self.driver.memory().write(at, contents);
        BlockRequest::write(sector, header, status).data(at, bytes)
    }

    fn header(&self, slot: u64) -> (GuestAddr, GuestAddr) {
        let at = self.at(HEADERS + slot * 32);
        (at, GuestAddr(at.0 + 16))
    }

    fn data(&self, slot: u64, bytes: u32) -> GuestAddr {
        assert!((slot + 1) * u64::from(bytes) <= DATA_BYTES);
        self.at(DATA + slot * u64::from(bytes))
    }

    /// Puts a request into the ring; it is seen after the next kick. Returns its head.
    pub fn add(&mut self, request: &BlockRequest) -> u16 {
        request.prepare(self.driver.memory());
        self.driver
            .add(&request.buffers())
            .expect("room in the ring")
    }

    /// Shows the device what was added, and kicks if it wants that.
    pub fn publish(&mut self) {
        if self.driver.publish_needs_kick() {
            self.kick.write(1).expect("to kick");
        }
    }

    /// Returns the next answer, if it comes within `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Option<UsedEntry> {
        let end = Instant::now() + limit;
        loop {
            let entry = self.driver.poll_used();
            if entry.is_some() || Instant::now() > end {
                return entry;
            }
            thread::yield_now();
        }
    }

    /// Performs one request. Returns its status.
    pub fn perform(&mut self, request: &BlockRequest) -> u8 {
        let head = self.add(request);
        self.publish();
        let used = self.wait_for(PATIENCE).expect("an answer");
        assert_eq!(used.id, u32::from(head));
        self.driver.memory().read_u8(request.status)
    }

    /// Returns the data of a request.
    pub fn contents(&self, request: &BlockRequest) -> Vec<u8> {
        let parts = request.data.iter();
        parts
            .flat_map(|part| self.driver.memory().read_vec(part.addr, part.len as usize))
            .collect()
    }
}

/// A connection to a back-end.
pub struct FrontEnd {
    /// The messages of the crate.
    pub vhost: Frontend,
    /// The bytes below.
    pub socket: UnixStream,
    /// What was agreed on.
    pub features: Features,
}

impl FrontEnd {
    /// Uses a connected socket; each message asks for an answer from when that is agreed on.
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let vhost = Frontend::from_stream(socket.try_clone().expect("a duplicate"), 256);
        Self {
            vhost,
            socket,
            features: Features::default(),
        }
    }

    /// Agrees on all that is offered, but for `without`.
    pub fn negotiate(&mut self, without: u64) {
        self.vhost.set_owner().expect("SET_OWNER");
        let offered = self.vhost.get_features().expect("GET_FEATURES");
        assert_ne!(offered & PROTOCOL_FEATURES, 0);
        let protocol = self.vhost.get_protocol_features();
        let protocol = protocol.expect("GET_PROTOCOL_FEATURES");
        self.vhost
            .set_protocol_features(protocol)
            .expect("SET_PROTOCOL_FEATURES");
        // A log takes more than the word for it.
        self.features = Features(offered & !without & !(1 << bit::LOG_ALL));
        self.vhost
            .set_features(self.features.0)
            .expect("SET_FEATURES");
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
    }

    /// Hands over the memory.
    pub fn share(&mut self, guest: &SharedGuest) {
        self.vhost
            .set_mem_table(&guest.regions())
            .expect("SET_MEM_TABLE");
    }

    /// Sets a ring up at position `base`, and lets it be served.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn start(&mut self, ring: &GuestRing, base: u32) -> vhost::Result<()> {
        self.set_up(ring, base)?;
        self.vhost.set_vring_kick(ring.index, &ring.kick)?;
        self.vhost.set_vring_enable(ring.index, true)
    }

    /// Sets a ring up, all but its kick.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn set_up(&mut self, ring: &GuestRing, base: u32) -> vhost::Result<()> {
        let layout = *ring.driver.layout();
        let index = ring.index;
        self.vhost.set_vring_num(index, layout.size.get())?;
        // The crate's own message has 16 bits for it.
        let words = [index as u32, base].map(u32::to_ne_bytes).concat();
        assert_eq!(self.ask(10, &words, &[]).expect("an answer"), 0);
        self.vhost.set_vring_addr(index, &addresses(&layout))?;
        self.vhost.set_vring_call(index, &ring.call)?;
        self.vhost.set_vring_err(index, &ring.err)
    }

    /// Takes a ring out of service. Returns where it stands.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn stop(&mut self, ring: &GuestRing) -> vhost::Result<u32> {
        self.vhost.get_vring_base(ring.index)
    }

    /// Sets the features once more, as a front-end does that begins or ends to log.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn set_features(&mut self, features: Features) -> vhost::Result<()> {
        self.vhost.set_features(features.0)
    }

    /// Hands over the memory for notes of what is in flight, for rings of `entries` entries. The back-end
    /// makes it the first time, if it can; it outlives the connection in `kept`.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn track(
        &mut self,
        kept: &mut Option<(VhostUserInflight, File)>,
        entries: u16,
    ) -> vhost::Result<()> {
        let protocol = self.vhost.get_protocol_features()?;
        if !protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(());
        }
        if kept.is_none() {
            let wanted = VhostUserInflight::new(0, 0, 2, entries);
            *kept = Some(self.vhost.get_inflight_fd(&wanted)?);
        }
        match kept {
            Some((spec, file)) => self.vhost.set_inflight_fd(spec, file.as_raw_fd()),
            None => Ok(()),
        }
    }

    /// Hands over a log, of `bytes` bytes from `offset` on in its file.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn set_log(&mut self, file: &File, bytes: u64, offset: u64) -> vhost::Result<()> {
        let log = VhostUserDirtyLogRegion {
            mmap_size: bytes,
            mmap_offset: offset,
            mmap_handle: file.as_raw_fd(),
        };
        self.vhost.set_log_base(0, Some(log))
    }

    /// Hands over the socket for what the back-end has to say of itself.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn set_notices(&mut self, socket: &UnixStream) -> vhost::Result<()> {
        self.vhost.set_backend_request_fd(socket)
    }

    /// Returns a part of the configuration space.
    ///
    /// # Errors
    ///
    /// What the back-end does not want.
    pub fn config(&mut self, offset: u32, bytes: u32) -> vhost::Result<Vec<u8>> {
        let room = vec![0; bytes as usize];
        let flags = VhostUserConfigFlags::empty();
        self.vhost
            .get_config(offset, bytes, flags, &room)
            .map(|(_, bytes)| bytes)
    }

    /// Sends any message.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn send(&self, code: u32, flags: u32, payload: &[u8], files: &[RawFd]) -> io::Result<()> {
        let head = [code, flags, payload.len() as u32].map(u32::to_ne_bytes);
        let bytes = [&head.concat()[..], payload].concat();
        let sent = self.socket.send_with_fds(&[&bytes[..]], files);
        sent.map(drop)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    /// Sends a message that asks for an answer. Returns the number that the answer is.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, and `UnexpectedEof` when the back-end has hung up instead.
    pub fn ask(&self, code: u32, payload: &[u8], files: &[RawFd]) -> io::Result<u64> {
        self.send(code, 1 | 1 << 3, payload, files)?;
        let mut answer = [0; 20];
        (&self.socket).read_exact(&mut answer)?;
        assert_eq!(
            answer[..4],
            code.to_ne_bytes(),
            "an answer to something else"
        );
        let [.., b0, b1, b2, b3, b4, b5, b6, b7] = answer;
        Ok(u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]))
    }

    /// Waits until the back-end has hung up.
    ///
    /// # Panics
    ///
    /// If it sends something, or nothing happens.
    pub fn must_be_closed(&self) {
        let ready = poll::readable(&[self.socket.as_raw_fd()], Some(PATIENCE));
        assert_eq!(ready.expect("to wait"), [true], "still connected");
        match (&self.socket).read(&mut [0; 64]) {
            Ok(0) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} instead of the end"),
        }
    }
}

/// Returns the addresses of a ring, as the front-end names them.
pub fn addresses(layout: &Layout) -> VringConfigData {
    VringConfigData {
        queue_max_size: layout.size.get(),
        queue_size: layout.size.get(),
        flags: 0,
        desc_table_addr: USER + layout.desc.0,
        used_ring_addr: USER + layout.used.0,
        avail_ring_addr: USER + layout.avail.0,
        log_addr: None,
    }
}

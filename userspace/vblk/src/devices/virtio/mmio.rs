// SPDX-License-Identifier: GPL-2.0

//! The registers of a virtio device on the MMIO transport, version 2 (virtio 1.2, 4.2.2).
//!
//! A state machine without side effects: what a write means for the device comes back as an
//! [`Action`]. What the driver set up is frozen once it said DRIVER_OK.

use vblk_core::features::{bit, Features};

/// Bytes of address space that a device takes.
pub const MMIO_BYTES: u64 = 0x1000;
/// Offset of the register that a driver kicks a queue through.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// Offset of the register that says why there was an interrupt.
pub const INTERRUPT_STATUS: u64 = 0x60;
/// Offset of the register that a driver acknowledges an interrupt through.
pub const INTERRUPT_ACK: u64 = 0x64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"VBLK");
/// No shared memory region has this length (virtio 1.2, 4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;
const CONFIG_SPACE: u64 = 0x100;

/// Bits of the interrupt status register (virtio 1.2, 4.2.2).
pub mod interrupt {
    /// A queue has used buffers.
    pub const USED: u32 = 1;
    /// The configuration or the status changed.
    pub const CONFIG: u32 = 2;
}

/// Bits of the status register (virtio 1.2, 2.1).
pub mod status {
    /// The driver knows the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// There is a driver.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device can't go on without a reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// A queue as the driver set it up; nothing is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Number of entries.
    pub size: u32,
    /// The queue is in use.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
}

/// The device's duty after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Begin to serve the queues that are ready.
    Start,
    /// Stop, and let go of the queues.
    Reset,
    /// Look at this queue.
    Notify(u16),
    /// Take a byte that the driver wrote to the configuration space, or ignore it.
    Configure {
        /// Offset in the configuration space.
        at: usize,
        /// The byte.
        value: u8,
    },
}

/// The registers of one device.
pub struct Transport {
    device_id: u32,
    offered: Features,
    config: Vec<u8>,
    queue_size_max: u16,
    queues: Vec<QueueRegisters>,

    status: u8,
    accepted: Features,
    offered_select: u32,
    accepted_select: u32,
    queue_select: u32,
    /// Buffers were used since the driver last acknowledged that.
    used: bool,
    config_changed: bool,
    config_generation: u32,
}

impl Transport {
    /// A device of this type, as after a reset.
    pub fn new(
        device_id: u32,
        offered: Features,
        config: Vec<u8>,
        queues: u16,
        queue_size_max: u16,
    ) -> Self {
        Self {
            device_id,
            offered,
            config,
            queue_size_max,
            queues: vec![QueueRegisters::default(); queues.into()],
            status: 0,
            accepted: Features::default(),
            offered_select: 0,
            accepted_select: 0,
            queue_select: 0,
            used: false,
            config_changed: false,
            config_generation: 0,
        }
    }

    /// Returns the features that the driver accepted.
    pub fn accepted(&self) -> Features {
        self.accepted
    }

    /// Returns the queues that the driver set up, with their numbers.
    pub fn ready_queues(&self) -> impl Iterator<Item = (u16, &QueueRegisters)> {
        (0..).zip(&self.queues).filter(|(_, queue)| queue.ready)
    }

    /// Tells the driver that it has to reset the device. To be followed by an interrupt.
    pub fn fail(&mut self) {
        self.status |= status::NEEDS_RESET;
        self.config_changed = true;
    }

    /// Returns a byte of the configuration space.
    pub fn config(&self, at: usize) -> Option<u8> {
        self.config.get(at).copied()
    }

    /// Changes a byte of the configuration space, without telling the driver.
    pub fn set_config(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.config.get_mut(at) {
            *byte = value;
        }
    }

    /// Replaces the configuration space, and tells the driver if there is one. To be followed by
    /// an interrupt when [`Self::has_news`].
    pub fn renew_config(&mut self, config: &[u8]) {
        if self.config != config {
            self.config = config.to_vec();
            self.config_generation = self.config_generation.wrapping_add(1);
            // The next driver reads it anyway.
            self.config_changed |= self.has(status::DRIVER);
        }
    }

    /// Says whether buffers were used since the driver last acknowledged that. A driver that is not
    /// ready has none.
    pub fn set_used(&mut self, used: bool) {
        self.used = used && self.has(status::DRIVER_OK);
    }

    /// Returns whether a driver that is ready must be told of a change.
    pub fn has_news(&self) -> bool {
        self.config_changed && self.has(status::DRIVER_OK)
    }

    fn has(&self, bits: u8) -> bool {
        self.status & bits == bits
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }

    /// Reads what the driver reads at `offset`. Registers can be read as 32 bits only, the
    /// configuration space in any way.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIG_SPACE) {
            for (to, at) in data.iter_mut().zip(at..) {
                let byte = usize::try_from(at).ok().and_then(|at| self.config.get(at));
                *to = byte.copied().unwrap_or(0);
            }
        } else if data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.device_id,
            0x00c => VENDOR,
            0x010 => self.offered_word(),
            0x034 => self.selected().map_or(0, |_| self.queue_size_max.into()),
            0x044 => self.selected().map_or(0, |queue| queue.ready.into()),
            INTERRUPT_STATUS => self.interrupt_status(),
            0x070 => self.status.into(),
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => NO_SHARED_MEMORY,
            0x0fc => self.config_generation,
            _ => 0,
        }
    }

    fn offered_word(&self) -> u32 {
        match self.offered_select {
            0 => self.offered.0 as u32,
            1 => (self.offered.0 >> 32) as u32,
            _ => 0,
        }
    }

    fn interrupt_status(&self) -> u32 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        bit(self.used, interrupt::USED) | bit(self.config_changed, interrupt::CONFIG)
    }

    /// Takes what the driver writes at `offset`. Anything that makes no sense is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        // No field of more than a byte is for the driver to write.
        if let (Some(at), &[value]) = (offset.checked_sub(CONFIG_SPACE), data) {
            return match usize::try_from(at) {
                Ok(at) if at < self.config.len() => Action::Configure { at, value },
                _ => Action::None,
            };
        }
        let &[b0, b1, b2, b3] = data else {
            return Action::None;
        };
        let value = u32::from_le_bytes([b0, b1, b2, b3]);
        match offset {
            0x014 => self.offered_select = value,
            0x020 => self.accept(value),
            0x024 => self.accepted_select = value,
            0x030 => self.queue_select = value,
            QUEUE_NOTIFY => return self.notify(value),
            INTERRUPT_ACK => {
                self.used &= value & interrupt::USED == 0;
                self.config_changed &= value & interrupt::CONFIG == 0;
            }
            0x070 => return self.write_status(value),
            _ => self.write_queue(offset, value),
        }
        Action::None
    }

    fn accept(&mut self, value: u32) {
        // Before FEATURES_OK only (virtio 1.2, 3.1.1).
        if !self.has(status::DRIVER) || self.has(status::FEATURES_OK) {
            return;
        }
        let (keep, shift) = match self.accepted_select {
            0 => (!0 << 32, 0),
            1 => (!0 >> 32, 32),
            _ => return,
        };
        self.accepted = Features(self.accepted.0 & keep | u64::from(value) << shift);
    }

    fn notify(&self, value: u32) -> Action {
        match u16::try_from(value) {
            Ok(queue) if usize::from(queue) < self.queues.len() => Action::Notify(queue),
            _ => Action::None,
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let may_set_up = self.has(status::FEATURES_OK)
            && self.status & (status::DRIVER_OK | status::FAILED) == 0;
        let queue = self.queues.get_mut(self.queue_select as usize);
        let Some(queue) = queue.filter(|_| may_set_up) else {
            return;
        };
        if offset == 0x044 {
            queue.ready = value & 1 != 0;
            return;
        }
        // Not while it is in use (virtio 1.2, 4.2.2.2).
        if queue.ready {
            return;
        }
        match offset {
            0x038 => queue.size = value,
            0x080 => set_low(&mut queue.desc, value),
            0x084 => set_high(&mut queue.desc, value),
            0x090 => set_low(&mut queue.avail, value),
            0x094 => set_high(&mut queue.avail, value),
            0x0a0 => set_low(&mut queue.used, value),
            0x0a4 => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) -> Action {
        let value = value as u8;
        if value == 0 {
            self.reset();
            return Action::Reset;
        }
        // Bits are only ever added (virtio 1.2, 2.1.1); NEEDS_RESET is the device's.
        let mut added = value & !self.status & !status::NEEDS_RESET;
        if added & status::FEATURES_OK != 0 && !self.acceptable() {
            added &= !(status::FEATURES_OK | status::DRIVER_OK);
        }
        if !(self.has(status::FEATURES_OK) || added & status::FEATURES_OK != 0) {
            added &= !status::DRIVER_OK;
        }
        self.status |= added;
        if added & status::DRIVER_OK != 0 {
            Action::Start
        } else {
            Action::None
        }
    }

    fn acceptable(&self) -> bool {
        self.has(status::DRIVER)
            && self.accepted.within(self.offered)
            && self.accepted.has(bit::VERSION_1)
    }

    fn reset(&mut self) {
        self.status = 0;
        self.accepted = Features::default();
        self.offered_select = 0;
        self.accepted_select = 0;
        self.queue_select = 0;
        self.used = false;
        self.config_changed = false;
        self.queues.fill(QueueRegisters::default());
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0 << 32 | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & !0 >> 32 | u64::from(value) << 32;
}

// SPDX-License-Identifier: GPL-2.0

//! Invariants of the registers, which hold whatever a guest does.

use vblk::devices::{
    bus::Device,
    virtio::{block::BlockDevice, mmio::status},
};

const QUEUE_SELECT: u64 = 0x30;
const QUEUE_READY: u64 = 0x44;
const INTERRUPT_STATUS: u64 = 0x60;
const STATUS: u64 = 0x70;
const CONFIG: u64 = 0x100;
/// The writeback switch, the one byte that a driver may write (virtio 1.2, 5.2.4).
const SWITCH: usize = 32;
const CONFIG_BYTES: usize = 64;

/// Reads a register.
pub fn get(device: &mut BlockDevice, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// Writes a register.
pub fn put(device: &mut BlockDevice, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

/// The registers as they were, to see that they stay.
pub struct Watch {
    /// How many queues there are.
    queues: u32,
    /// As the device was made.
    config: Vec<u8>,
    /// The last queue that was selected.
    selected: u32,
    status: u8,
    /// Bits of the status that the driver has written since a reset.
    written: u8,
    /// Which queues were in use when the driver became ready.
    ready: Option<Vec<u32>>,
}

impl Watch {
    pub fn new(device: &mut BlockDevice, queues: u32) -> Self {
        Self {
            queues,
            config: config(device),
            selected: 0,
            status: 0,
            written: 0,
            ready: None,
        }
    }

    /// Returns whether the back-end serves this queue.
    pub fn serves(&self, queue: u16) -> bool {
        let ready = self
            .ready
            .as_ref()
            .and_then(|ready| ready.get(usize::from(queue)));
        self.status & status::NEEDS_RESET == 0 && ready == Some(&1)
    }

    /// Takes note of a write that the guest made, and looks at all registers.
    pub fn wrote(&mut self, device: &mut BlockDevice, offset: u64, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data).map(u32::from_le_bytes)) {
            (QUEUE_SELECT, Ok(queue)) => self.selected = queue,
            // In the lowest byte: the others mean nothing.
            (STATUS, Ok(value)) if value as u8 == 0 => self.reset(device),
            (STATUS, Ok(value)) => self.written |= value as u8,
            _ => {}
        }
        self.look(device);
    }

    fn reset(&mut self, device: &mut BlockDevice) {
        assert_eq!(get(device, STATUS), 0, "after a reset");
        self.selected = 0;
        self.status = 0;
        self.written = 0;
        self.ready = None;
    }

    /// Looks at all registers.
    pub fn look(&mut self, device: &mut BlockDevice) {
        let now = get(device, STATUS);
        let before = self.status;
        self.status = u8::try_from(now).expect("a status");
        assert_eq!(self.status & before, before, "bits of the status were lost");
        let own = self.status & !self.written;
        assert_eq!(own & !status::NEEDS_RESET, 0, "bits that nobody wrote");
        let running = self.status & status::DRIVER_OK != 0;
        assert!(
            !running || self.status & status::FEATURES_OK != 0,
            "ready without features: {now:#x}"
        );
        let interrupt = get(device, INTERRUPT_STATUS);
        assert_eq!(interrupt & !3, 0, "interrupt status");
        assert!(
            interrupt & 1 == 0 || running,
            "used buffers without a driver"
        );

        let mut config = config(device);
        assert!(config[SWITCH] <= 1, "the writeback switch");
        config[SWITCH] = self.config[SWITCH];
        assert_eq!(config, self.config, "the configuration space");

        if running {
            let ready = self.ready_queues(device);
            let then = self.ready.get_or_insert_with(|| ready.clone());
            assert_eq!(ready, *then, "queues of a running driver");
        }
    }

    fn ready_queues(&self, device: &mut BlockDevice) -> Vec<u32> {
        // One more than there are.
        let mut ready: Vec<_> = (0..=self.queues)
            .map(|queue| {
                put(device, QUEUE_SELECT, queue);
                get(device, QUEUE_READY)
            })
            .collect();
        put(device, QUEUE_SELECT, self.selected);
        assert_eq!(ready.pop(), Some(0), "a queue that is not there");
        ready
    }
}

fn config(device: &mut BlockDevice) -> Vec<u8> {
    let mut config = vec![0; CONFIG_BYTES];
    device.read(CONFIG, &mut config);
    config
}

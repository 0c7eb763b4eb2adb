// SPDX-License-Identifier: GPL-2.0

//! A ring in loom's atomics, as a device and a driver see it.

use loom::sync::atomic::{
    fence,
    AtomicU16,
    AtomicU32,
    Ordering, //
};
use std::sync::Arc;
use vblk_core::{
    addr::GuestAddr,
    memory::SharedMemory,
    queue::Parts,
    ring::{
        Format,
        Ring, //
    },
    testing::{
        DriverMemory,
        Layout, //
    },
};

/// One part of a ring. What the device tells of a chain is in words, but for ids of packed rings;
/// all else are half-words.
pub struct Part {
    halves: Vec<AtomicU16>,
    words: Vec<AtomicU32>,
}

impl Part {
    fn new(bytes: usize) -> Self {
        Self {
            halves: (0..bytes / 2).map(|_| AtomicU16::new(0)).collect(),
            words: (0..bytes / 4).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

/// The parts of a ring. There are no buffers.
pub struct Memory {
    layout: Layout,
    desc: Part,
    avail: Part,
    used: Part,
}

impl Memory {
    pub fn new(layout: Layout) -> Arc<Self> {
        let parts = layout.format.parts(layout.size);
        // Only a packed ring has more than buffers there.
        let desc = match layout.format {
            Format::Split => 0,
            Format::Packed => parts.desc.bytes,
        };
        Arc::new(Self {
            layout,
            desc: Part::new(desc),
            avail: Part::new(parts.driver.bytes),
            used: Part::new(parts.device.bytes),
        })
    }

    pub fn ring(self: &Arc<Self>) -> Ring<View> {
        let view = |part: fn(&Memory) -> &Part| View(self.clone(), part);
        let parts = Parts {
            desc: view(|memory| &memory.desc),
            driver: view(|memory| &memory.avail),
            device: view(|memory| &memory.used),
        };
        Ring::new(self.layout.format, self.layout.size, parts)
    }

    /// The part that an address is in, and how far.
    fn find(&self, at: GuestAddr) -> (&Part, usize) {
        let (part, start) = if at >= self.layout.used {
            (&self.used, self.layout.used)
        } else if at >= self.layout.avail {
            (&self.avail, self.layout.avail)
        } else {
            (&self.desc, self.layout.desc)
        };
        (part, (at.0 - start.0) as usize)
    }

    fn half(&self, at: GuestAddr) -> &AtomicU16 {
        let (part, offset) = self.find(at);
        &part.halves[offset / 2]
    }
}

impl DriverMemory for Memory {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        let (part, offset) = self.find(from);
        for (index, bytes) in to.chunks_mut(4).enumerate() {
            let word = part.words[offset / 4 + index].load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// Writes half-words, but no descriptors.
    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        if to < self.layout.avail {
            return;
        }
        let (part, offset) = self.find(to);
        for (index, bytes) in bytes.chunks(2).enumerate() {
            let half = u16::from_ne_bytes(bytes.try_into().expect("whole half-words"));
            part.halves[offset / 2 + index].store(half, Ordering::Relaxed);
        }
    }

    fn load_u16(&self, at: GuestAddr) -> u16 {
        self.half(at).load(Ordering::Relaxed)
    }

    fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
        self.half(at).load(Ordering::Acquire)
    }

    fn store_u16(&self, at: GuestAddr, value: u16) {
        self.half(at).store(value, Ordering::Relaxed);
    }

    fn store_release_u16(&self, at: GuestAddr, value: u16) {
        self.half(at).store(value, Ordering::Release);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// The device's view of a part.
pub struct View(Arc<Memory>, fn(&Memory) -> &Part);

impl View {
    fn half(&self, offset: usize) -> &AtomicU16 {
        &self.1(&self.0).halves[offset / 2]
    }
}

impl SharedMemory for View {
    fn load_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Relaxed)
    }

    fn load_u64(&self, _: usize) -> u64 {
        unreachable!("no buffer is looked at")
    }

    fn load_acquire_u16(&self, offset: usize) -> u16 {
        self.half(offset).load(Ordering::Acquire)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        self.half(offset).store(value, Ordering::Relaxed);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let words = &self.1(&self.0).words;
        words[offset / 4].store(value, Ordering::Relaxed);
    }

    fn store_release_u16(&self, offset: usize, value: u16) {
        self.half(offset).store(value, Ordering::Release);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

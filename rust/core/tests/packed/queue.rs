// SPDX-License-Identifier: GPL-2.0

//! A packed ring with both of its sides.

use crate::common::RING;
use vblk_core::{
    addr::GuestAddr,
    packed::{
        Avail,
        Descriptor,
        PackedRing,
        Used, //
    },
    queue::{
        Head,
        Popped,
        QueueSize,
        RingError, //
    },
    testing::{
        Buf,
        Layout,
        PackedDriver,
        Ram,
        RamPart, //
    },
};

/// A driver and a device on one ring, both beginning at the same position.
pub struct Queue<'a> {
    pub driver: PackedDriver<&'a Ram>,
    pub ring: PackedRing<RamPart<'a>>,
    pub avail: Avail,
    pub used: Used,
}

impl<'a> Queue<'a> {
    pub fn new(ram: &'a Ram, size: u32, event_idx: bool, start: u16) -> Self {
        let layout = Layout::packed(size, RING);
        let driver = PackedDriver::starting_at(ram, layout, event_idx, start);
        let ring = PackedRing::new(layout.size, ram.parts(&layout));
        Self {
            driver,
            avail: Avail::new(start, event_idx),
            used: Used::new(start, event_idx),
            ring,
        }
    }

    pub fn size(&self) -> QueueSize {
        self.ring.size()
    }

    /// Makes one chain of so many buffers available.
    pub fn submit_long(&mut self, count: usize) -> u16 {
        let id = self
            .driver
            .add(&vec![Buf::readable(GuestAddr(0), 1); count]);
        self.driver.publish();
        id.expect("free descriptors")
    }

    pub fn submit(&mut self) -> u16 {
        self.submit_long(1)
    }

    /// Makes a chain of nothing but flags available.
    pub fn post(&mut self, id: u16, flags: &[u16]) {
        let desc = |flags: &u16| Descriptor {
            id,
            flags: *flags,
            ..Descriptor::default()
        };
        self.driver
            .post(&flags.iter().map(desc).collect::<Vec<_>>());
        self.driver.publish();
    }

    pub fn pop(&mut self) -> Result<Popped, RingError> {
        self.avail.pop(&self.ring, || self.used.position())
    }

    pub fn take(&mut self) -> Head {
        match self.pop() {
            Ok(Popped::Chain(head)) => head,
            other => panic!("a chain should be there, not {other:?}"),
        }
    }

    pub fn give(&mut self, head: Head, len: u32) {
        self.used.add_used(&self.ring, head, len);
    }

    /// Sends one chain all the way there and back, without a notification.
    pub fn turn_long(&mut self, count: usize) {
        let id = self.submit_long(count);
        let head = self.take();
        assert_eq!((head.id(), usize::from(head.count())), (id, count));
        self.give(head, 0);
        self.driver.poll_used().expect("a used descriptor");
    }

    pub fn turn(&mut self) {
        self.turn_long(1);
    }

    pub fn enable_notify(&mut self) -> bool {
        self.avail.enable_notify(&self.ring)
    }

    pub fn disable_notify(&mut self) {
        self.avail.disable_notify(&self.ring);
    }

    pub fn should_interrupt(&mut self) -> bool {
        self.used.should_interrupt(&self.ring)
    }
}

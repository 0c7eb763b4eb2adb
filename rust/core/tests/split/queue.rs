// SPDX-License-Identifier: GPL-2.0

//! A split ring with both of its sides.

use crate::common::RING;
use vblk_core::{
    addr::GuestAddr,
    queue::{
        Head,
        Popped,
        RingError, //
    },
    split::{
        Avail,
        SplitRing,
        Used, //
    },
    testing::{
        Buf,
        Layout,
        Ram,
        RamPart,
        SplitDriver, //
    },
};

pub const MEMORY: usize = 0x10_0000;

/// A driver and a device on one ring, both beginning at the same index.
pub struct Queue<'a> {
    pub driver: SplitDriver<&'a Ram>,
    pub ring: SplitRing<RamPart<'a>>,
    pub avail: Avail,
    pub used: Used,
}

impl<'a> Queue<'a> {
    pub fn new(ram: &'a Ram, size: u32, event_idx: bool, start: u16) -> Self {
        let layout = Layout::with_size(size, RING);
        let driver = SplitDriver::starting_at(ram, layout, event_idx, start);
        let ring = SplitRing::new(layout.size, ram.parts(&layout));
        Self {
            driver,
            avail: Avail::new(start, event_idx),
            used: Used::new(&ring, event_idx),
            ring,
        }
    }

    /// Makes one chain of one buffer available.
    pub fn submit(&mut self) -> u16 {
        let head = self.driver.add(&[Buf::readable(GuestAddr(0), 1)]);
        self.driver.publish();
        head.expect("a free descriptor")
    }

    pub fn pop(&mut self) -> Result<Popped, RingError> {
        self.avail.pop(&self.ring)
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
    pub fn turn(&mut self) {
        self.submit();
        let head = self.take();
        self.give(head, 0);
        self.driver.poll_used().expect("a used entry");
    }

    pub fn enable_notify(&mut self) -> Result<bool, RingError> {
        self.avail.enable_notify(&self.ring)
    }

    pub fn disable_notify(&mut self) {
        self.avail.disable_notify(&self.ring);
    }

    pub fn should_interrupt(&mut self) -> bool {
        self.used.should_interrupt(&self.ring)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a ring of either format, with what both can do.

use super::{
    Buf,
    DriverMemory,
    Layout,
    PackedDriver,
    SplitDriver,
    UsedEntry, //
};
use crate::{
    addr::GuestAddr,
    ring::{
        Base,
        Format, //
    },
};

/// The driver's side of one queue.
pub enum Driver<M> {
    /// In the split format.
    Split(SplitDriver<M>),
    /// In the packed format.
    Packed(PackedDriver<M>),
}

/// The same call for either.
macro_rules! either {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Self::Split($driver) => $call,
            Self::Packed($driver) => $call,
        }
    };
}

impl<M: DriverMemory> Driver<M> {
    /// Creates an empty queue, as a driver has it that just started.
    pub fn new(memory: M, layout: Layout, event_idx: bool) -> Self {
        Self::starting_at(memory, layout, event_idx, 0)
    }

    /// Creates an empty queue through which so many entries, or descriptors of a packed ring, went
    /// already: the device has to be told the base, [`Self::base`].
    pub fn starting_at(memory: M, layout: Layout, event_idx: bool, position: u16) -> Self {
        match layout.format {
            Format::Split => Self::Split(SplitDriver::starting_at(
                memory, layout, event_idx, position,
            )),
            Format::Packed => Self::Packed(PackedDriver::starting_at(
                memory, layout, event_idx, position,
            )),
        }
    }

    /// Returns where the device stands if it gave back all that it took, as VHOST_GET_VRING_BASE
    /// tells it.
    pub fn base(&self) -> u32 {
        let layout = self.layout();
        let (avail, used) = (self.used_index(), self.used_index());
        Base { avail, used }.encode(layout.format, layout.size)
    }

    /// Returns the raw operations, of a split ring.
    ///
    /// # Panics
    ///
    /// When the ring is packed.
    pub fn split(&mut self) -> &mut SplitDriver<M> {
        match self {
            Self::Split(driver) => driver,
            Self::Packed(_) => panic!("a packed ring"),
        }
    }

    /// Returns the raw operations, of a packed ring.
    ///
    /// # Panics
    ///
    /// When the ring is split.
    pub fn packed(&mut self) -> &mut PackedDriver<M> {
        match self {
            Self::Split(_) => panic!("a split ring"),
            Self::Packed(driver) => driver,
        }
    }

    /// Returns the memory.
    pub fn memory(&self) -> &M {
        either!(self, driver => driver.memory())
    }

    /// Returns where the ring lies.
    pub fn layout(&self) -> &Layout {
        either!(self, driver => driver.layout())
    }

    /// Returns how many descriptors are free.
    pub fn free(&self) -> usize {
        either!(self, driver => driver.free())
    }

    /// Returns the free-running position of the next chain.
    pub fn next_avail(&self) -> u16 {
        either!(self, driver => driver.next_avail())
    }

    /// Returns the free-running position behind all used entries that were taken.
    pub fn next_used(&self) -> u16 {
        either!(self, driver => driver.next_used())
    }

    /// Returns the free-running position behind all used entries that the device wrote.
    pub fn used_index(&self) -> u16 {
        either!(self, driver => driver.used_index())
    }

    /// Puts a chain of these buffers in, to be seen after [`Self::publish`]. Returns the id with
    /// which it will come back, or `None` when too few descriptors are free.
    pub fn add(&mut self, bufs: &[Buf]) -> Option<u16> {
        either!(self, driver => driver.add(bufs))
    }

    /// As [`Self::add`], with an indirect table that is written to `table`.
    pub fn add_indirect(&mut self, bufs: &[Buf], table: GuestAddr) -> Option<u16> {
        either!(self, driver => driver.add_indirect(bufs, table))
    }

    /// As [`Self::add`]: some buffers in the ring itself, then more in an indirect table that is
    /// written to the address given with them. Packed rings know no such chain: there, all go into
    /// the table, which must have room for them.
    pub fn add_mixed(&mut self, direct: &[Buf], table: GuestAddr, rest: &[Buf]) -> Option<u16> {
        match self {
            Self::Split(driver) => driver.add_chain(direct, Some((table, rest))),
            Self::Packed(driver) => driver.add_indirect(&[direct, rest].concat(), table),
        }
    }

    /// Makes visible what was added.
    pub fn publish(&mut self) {
        either!(self, driver => driver.publish())
    }

    /// Returns whether the device wants a kick for what was published since the last call. Each
    /// call that returns `true` must be followed by one.
    pub fn needs_kick(&mut self) -> bool {
        either!(self, driver => driver.needs_kick())
    }

    /// Calls [`Self::publish`], then [`Self::needs_kick`].
    pub fn publish_needs_kick(&mut self) -> bool {
        self.publish();
        self.needs_kick()
    }

    /// Takes the next chain that the device gave back, if any; its descriptors are free again.
    ///
    /// # Panics
    ///
    /// When the device does not have that chain.
    pub fn poll_used(&mut self) -> Option<UsedEntry> {
        either!(self, driver => driver.poll_used())
    }

    /// Asks for an interrupt at the next used entry, then looks once more. Returns whether there
    /// is one already, in which case no interrupt may come.
    pub fn enable_interrupt(&mut self) -> bool {
        self.enable_interrupt_after(0)
    }

    /// As [`Self::enable_interrupt`], but only when `skip` used entries, or in a packed ring
    /// descriptors, came before (with the event index; there is no way to say so without).
    pub fn enable_interrupt_after(&mut self, skip: u16) -> bool {
        either!(self, driver => driver.enable_interrupt_after(skip))
    }

    /// Asks for no interrupts. They may come all the same.
    pub fn disable_interrupt(&mut self) {
        either!(self, driver => driver.disable_interrupt())
    }

    /// Returns whether the device asks for a kick at the next chain that is added.
    pub fn device_waits(&self) -> bool {
        either!(self, driver => driver.device_waits())
    }
}

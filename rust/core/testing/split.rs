// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a split ring (virtio 1.2, 2.7), obedient or hostile.

use super::{
    Buf,
    DriverMemory,
    Layout,
    UsedEntry, //
};
use crate::{
    addr::GuestAddr,
    split::Descriptor, //
};
use std::{
    vec,
    vec::Vec, //
};

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY.
const NO_NOTIFY: u16 = 1;

/// The driver's side of one split queue.
pub struct SplitDriver<M> {
    memory: M,
    layout: Layout,
    event_idx: bool,
    /// Descriptors that no chain uses.
    free: Vec<u16>,
    /// For each head, its chain while the device has it. What the ring says is not believed.
    chains: Vec<Vec<u16>>,
    /// Chains that were posted by [`Self::post`] and not given back.
    raw: usize,
    /// Free-running index of the next available entry to write.
    next_avail: u16,
    /// The index when [`Self::needs_kick`] decided last.
    kicked: u16,
    /// Free-running index of the next used entry to read.
    next_used: u16,
}

impl<M: DriverMemory> SplitDriver<M> {
    /// Creates an empty queue, both of whose indices stand at 0.
    pub fn new(memory: M, layout: Layout, event_idx: bool) -> Self {
        Self::starting_at(memory, layout, event_idx, 0)
    }

    /// Creates an empty queue, both of whose indices stand at `index`: the device has to be told
    /// this base. Clears the whole ring.
    pub fn starting_at(memory: M, layout: Layout, event_idx: bool, index: u16) -> Self {
        let size = layout.size;
        layout.clear(&memory);
        let driver = Self {
            memory,
            layout,
            event_idx,
            free: (0..size.get()).rev().collect(),
            chains: vec![Vec::new(); usize::from(size.get())],
            raw: 0,
            next_avail: index,
            kicked: index,
            next_used: index,
        };
        driver.store(layout.avail_index(), index);
        driver.store(layout.used_index(), index);
        // As a device and a driver that have just started: both want to hear of the first entry.
        driver.store(layout.avail_event(), index);
        driver.store(layout.used_event(), index);
        driver
    }

    /// Returns the memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns where the ring lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns how many descriptors are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Returns the free-running index of the next available entry: how many were written, from the
    /// start.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Returns the free-running index of the next used entry: how many were read, from the start.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Puts a chain of these buffers in, to be seen after [`Self::publish`]. Returns its head, or
    /// `None` when too few descriptors are free.
    pub fn add(&mut self, bufs: &[Buf]) -> Option<u16> {
        self.add_chain(bufs, None)
    }

    /// As [`Self::add`], with an indirect table that is written to `table`.
    pub fn add_indirect(&mut self, bufs: &[Buf], table: GuestAddr) -> Option<u16> {
        self.add_chain(&[], Some((table, bufs)))
    }

    /// As [`Self::add`]: some buffers in the ring itself, then perhaps more in an indirect table
    /// that is written to the address given with them.
    ///
    /// # Panics
    ///
    /// When there are no buffers at all.
    pub fn add_chain(
        &mut self,
        direct: &[Buf],
        indirect: Option<(GuestAddr, &[Buf])>,
    ) -> Option<u16> {
        let count = direct.len() + usize::from(indirect.is_some());
        assert!(count > 0, "a chain of nothing");
        let chain = self.free.split_off(self.free.len().checked_sub(count)?);
        let next = |index: usize| chain.get(index + 1).copied();
        for (index, buf) in direct.iter().enumerate() {
            self.write_descriptor(chain[index], &buf.descriptor(next(index)));
        }
        if let Some((table, bufs)) = indirect {
            self.write_indirect_table(table, bufs);
            let outer = indirect_descriptor(table, bufs.len());
            self.write_descriptor(chain[count - 1], &outer);
        }
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.write_next_entry(head);
        Some(head)
    }

    /// Makes visible what was added.
    pub fn publish(&mut self) {
        // Pairs with the acquire in `Avail::refresh`.
        let index = self.next_avail.to_le();
        self.memory
            .store_release_u16(self.layout.avail_index(), index);
    }

    /// Returns whether the device wants a kick for what was published since the last call. Each
    /// call that returns `true` must be followed by one.
    pub fn needs_kick(&mut self) -> bool {
        // Pairs with the barrier in `Avail::enable_notify`.
        self.memory.full_barrier();
        let (old, new) = (self.kicked, self.next_avail);
        self.kicked = new;
        if self.event_idx {
            // True if the entry that the device waits for is among those from `old` up to `new`.
            let event = self.load(self.layout.avail_event());
            event.wrapping_sub(old) < new.wrapping_sub(old)
        } else {
            self.load(self.layout.used_flags()) & NO_NOTIFY == 0
        }
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
        if self.used_index() == self.next_used {
            return None;
        }
        let entry = self.used_entry(self.next_used);
        self.next_used = self.next_used.wrapping_add(1);
        let chain = usize::try_from(entry.id)
            .ok()
            .and_then(|id| self.chains.get_mut(id))
            .unwrap_or_else(|| panic!("the device gave back {entry:?}, which is no descriptor"));
        if chain.is_empty() {
            let raw = self.raw.checked_sub(1);
            self.raw = raw.unwrap_or_else(|| panic!("the device never had {entry:?}"));
        } else {
            self.free.append(chain);
        }
        Some(entry)
    }

    /// Asks for an interrupt at the next used entry, then looks once more. Returns whether there
    /// is one already, in which case no interrupt may come.
    pub fn enable_interrupt(&mut self) -> bool {
        self.enable_interrupt_after(0)
    }

    /// As [`Self::enable_interrupt`], but only when `skip` used entries came before (with the
    /// event index; there is no way to say so without).
    pub fn enable_interrupt_after(&mut self, skip: u16) -> bool {
        if self.event_idx {
            let event = self.next_used.wrapping_add(skip);
            self.store(self.layout.used_event(), event);
        } else {
            self.store(self.layout.avail_flags(), 0);
        }
        // Pairs with the barrier in `Used::should_interrupt`.
        self.memory.full_barrier();
        let ready = self.used_index().wrapping_sub(self.next_used);
        ready > if self.event_idx { skip } else { 0 }
    }

    /// Returns whether the device asks for a kick at the next entry.
    pub fn device_waits(&self) -> bool {
        if self.event_idx {
            self.avail_event() == self.next_avail
        } else {
            self.used_flags() & NO_NOTIFY == 0
        }
    }

    /// Asks for no interrupts. They may come all the same.
    pub fn disable_interrupt(&mut self) {
        if self.event_idx {
            // An index that was passed is not passed again for 2^16 entries.
            let event = self.next_used.wrapping_sub(1);
            self.store(self.layout.used_event(), event);
        } else {
            self.store(self.layout.avail_flags(), NO_INTERRUPT);
        }
    }
}

/// Raw operations that no driver should do, and reads of what the device wrote.
impl<M: DriverMemory> SplitDriver<M> {
    /// Writes any descriptor. It is not taken from the free ones.
    pub fn write_descriptor(&self, index: u16, desc: &Descriptor) {
        self.write_raw_descriptor(self.layout.descriptor(index), desc);
    }

    /// Writes a descriptor anywhere, such as into an indirect table.
    pub fn write_raw_descriptor(&self, at: GuestAddr, desc: &Descriptor) {
        let mut bytes = [0; Descriptor::BYTES];
        bytes[..8].copy_from_slice(&desc.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        self.memory.write(at, &bytes);
    }

    /// Writes these buffers as an indirect table, chained in order.
    pub fn write_indirect_table(&self, table: GuestAddr, bufs: &[Buf]) {
        for (index, buf) in bufs.iter().enumerate() {
            let next = (index + 1 < bufs.len()).then_some(index as u16 + 1);
            let at = table.0 + (index * Descriptor::BYTES) as u64;
            self.write_raw_descriptor(GuestAddr(at), &buf.descriptor(next));
        }
    }

    /// Puts any head in as the next available entry, to be seen after [`Self::publish`]. The
    /// device may give it back once, unless it is the head of a chain that it has.
    pub fn post(&mut self, head: u16) {
        self.raw += 1;
        self.write_next_entry(head);
    }

    /// Forgets the chains that were posted raw and that the device did not give back, such as
    /// heads out of range.
    pub fn forget_posted(&mut self) {
        self.raw = 0;
    }

    /// Writes the entry of the available ring that a free-running index refers to.
    pub fn write_avail_entry(&self, index: u16, head: u16) {
        self.store(self.layout.avail_entry(index), head);
    }

    /// Writes the available index, whatever was added. [`Self::publish`] puts it right again.
    pub fn write_avail_index(&self, index: u16) {
        let value = index.to_le();
        self.memory
            .store_release_u16(self.layout.avail_index(), value);
    }

    /// Writes the flags of the available ring.
    pub fn write_avail_flags(&self, flags: u16) {
        self.store(self.layout.avail_flags(), flags);
    }

    /// Writes the used event index.
    pub fn write_used_event(&self, event: u16) {
        self.store(self.layout.used_event(), event);
    }

    /// Returns the flags of the used ring.
    pub fn used_flags(&self) -> u16 {
        self.load(self.layout.used_flags())
    }

    /// Returns the device's used index.
    pub fn used_index(&self) -> u16 {
        // Pairs with the release in `Used::add_used`.
        u16::from_le(self.memory.load_acquire_u16(self.layout.used_index()))
    }

    /// Returns the entry of the used ring that a free-running index refers to.
    pub fn used_entry(&self, index: u16) -> UsedEntry {
        let mut bytes = [0; 8];
        self.memory.read(self.layout.used_entry(index), &mut bytes);
        let [i0, i1, i2, i3, l0, l1, l2, l3] = bytes;
        UsedEntry {
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }

    /// Returns the index at which the device wants a kick, with the event index.
    pub fn avail_event(&self) -> u16 {
        self.load(self.layout.avail_event())
    }

    fn write_next_entry(&mut self, head: u16) {
        self.write_avail_entry(self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    fn load(&self, at: GuestAddr) -> u16 {
        u16::from_le(self.memory.load_u16(at))
    }

    fn store(&self, at: GuestAddr, value: u16) {
        self.memory.store_u16(at, value.to_le());
    }
}

fn indirect_descriptor(table: GuestAddr, entries: usize) -> Descriptor {
    Descriptor {
        addr: table.0,
        len: (entries * Descriptor::BYTES) as u32,
        flags: Descriptor::F_INDIRECT,
        next: 0,
    }
}

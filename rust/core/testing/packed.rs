// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a packed ring (virtio 1.2, 2.8), obedient or hostile.

use super::{
    Buf,
    DriverMemory,
    Layout,
    UsedEntry, //
};
use crate::{
    addr::GuestAddr,
    notify::need_event,
    packed::Descriptor, //
    wrap::off_wrap,
};
use std::{
    collections::HashMap,
    vec::Vec, //
};

/// VRING_PACKED_EVENT_FLAG_*.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// The wrap counter in an event suppression structure.
const WRAP: u16 = 1 << 15;

/// The driver's side of one packed queue.
pub struct PackedDriver<M> {
    memory: M,
    layout: Layout,
    event_idx: bool,
    /// Ids that [`Self::add`] may use.
    ids: Vec<u16>,
    /// For each id, how many descriptors its chain has while the device has it. What the ring says
    /// is not believed.
    chains: HashMap<u16, u16>,
    /// Descriptors that the device does not have.
    free: u16,
    /// Free-running position of the next descriptor to write.
    next_avail: u16,
    /// The first head that the device can't see yet, with the flags that will show it.
    hidden: Option<(u16, u16)>,
    /// Descriptors since [`Self::needs_kick`] decided last.
    added: u16,
    /// Free-running position of the next used descriptor to read.
    next_used: u16,
}

impl<M: DriverMemory> PackedDriver<M> {
    /// Creates an empty queue, with the wrap counters at 1 on both sides.
    pub fn new(memory: M, layout: Layout, event_idx: bool) -> Self {
        Self::starting_at(memory, layout, event_idx, 0)
    }

    /// Creates an empty queue through which so many descriptors went already, one by one. Clears
    /// the whole ring.
    pub fn starting_at(memory: M, layout: Layout, event_idx: bool, position: u16) -> Self {
        let size = layout.size.get();
        layout.clear(&memory);
        let driver = Self {
            memory,
            layout,
            event_idx,
            ids: (0..size).collect(),
            chains: HashMap::new(),
            free: size,
            next_avail: position,
            hidden: None,
            added: 0,
            next_used: position,
        };
        // Each descriptor as it was given back last.
        for before in 1..=size {
            let at = position.wrapping_sub(before);
            driver.store(driver.flags_at(at), driver.used_flags(at));
        }
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
        self.free.into()
    }

    /// Returns the free-running position of the next descriptor to write.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Returns the free-running position of the next used descriptor to read.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Returns the free-running position behind all used descriptors.
    pub fn used_index(&self) -> u16 {
        let mut at = self.next_used;
        while at != self.next_avail && self.is_used(at) {
            let count = self.chains.get(&self.used_entry(at).0).copied();
            at = at.wrapping_add(count.unwrap_or(1));
        }
        at
    }

    /// Puts a chain of these buffers in, to be seen after [`Self::publish`]. Returns its id, or
    /// `None` when too few descriptors are free.
    ///
    /// # Panics
    ///
    /// When there are no buffers at all.
    pub fn add(&mut self, bufs: &[Buf]) -> Option<u16> {
        let descriptors: Vec<_> = bufs.iter().map(descriptor).collect();
        self.add_descriptors(&descriptors)
    }

    /// As [`Self::add`], with an indirect table that is written to `table`.
    pub fn add_indirect(&mut self, bufs: &[Buf], table: GuestAddr) -> Option<u16> {
        self.write_indirect_table(table, bufs);
        self.add_descriptors(&[Descriptor {
            addr: table.0,
            len: (bufs.len() * Descriptor::BYTES) as u32,
            id: 0,
            flags: Descriptor::F_INDIRECT,
        }])
    }

    fn add_descriptors(&mut self, descriptors: &[Descriptor]) -> Option<u16> {
        assert!(!descriptors.is_empty(), "a chain of nothing");
        if descriptors.len() > self.free() {
            return None;
        }
        let id = self.ids.pop()?;
        let last = descriptors.len() - 1;
        let linked = descriptors.iter().enumerate().map(|(index, desc)| {
            let next = if index < last { Descriptor::F_NEXT } else { 0 };
            let flags = desc.flags | next;
            Descriptor { id, flags, ..*desc }
        });
        self.post(&linked.collect::<Vec<_>>());
        Some(id)
    }

    /// Makes visible what was added.
    pub fn publish(&mut self) {
        if let Some((at, flags)) = self.hidden.take() {
            // Pairs with the acquire in `Avail::refresh`.
            self.memory
                .store_release_u16(self.flags_at(at), flags.to_le());
        }
    }

    /// Returns whether the device wants a kick for what was published since the last call. Each
    /// call that returns `true` must be followed by one.
    pub fn needs_kick(&mut self) -> bool {
        // Pairs with the barrier in `Avail::enable_notify`.
        self.memory.full_barrier();
        let added = std::mem::take(&mut self.added);
        let (event, flags) = self.device_event();
        match flags {
            ENABLE => true,
            DESC => {
                // As Linux has it: places count from where the wrap counter changed last, those
                // before that are negative.
                let size = self.layout.size.get();
                let new = self.next_avail % size;
                let this_wrap = off_wrap(self.layout.size, self.next_avail) & WRAP;
                let before = if event & WRAP == this_wrap { 0 } else { size };
                let event = (event & !WRAP).wrapping_sub(before);
                need_event(event, new, new.wrapping_sub(added))
            }
            _ => false,
        }
    }

    /// Takes the next chain that the device gave back, if any; its descriptors are free again.
    ///
    /// # Panics
    ///
    /// When the device does not have that chain.
    pub fn poll_used(&mut self) -> Option<UsedEntry> {
        if !self.is_used(self.next_used) {
            return None;
        }
        let (id, len) = self.used_entry(self.next_used);
        let count = self.chains.remove(&id);
        let count = count.unwrap_or_else(|| panic!("the device never had {id}"));
        if id < self.layout.size.get() {
            self.ids.push(id);
        }
        self.free += count;
        self.next_used = self.next_used.wrapping_add(count);
        let id = id.into();
        Some(UsedEntry { id, len })
    }

    /// Asks for an interrupt when `skip` descriptors and one more were given back (with the event
    /// index, else at once), then looks once more. Returns whether they were already.
    pub fn enable_interrupt_after(&mut self, skip: u16) -> bool {
        if self.event_idx {
            let event = self.next_used.wrapping_add(skip);
            self.write_driver_event(off_wrap(self.layout.size, event), DESC);
        } else {
            self.write_driver_event(0, ENABLE);
        }
        // Pairs with the barrier in `Used::should_interrupt`.
        self.memory.full_barrier();
        let ready = self.used_index().wrapping_sub(self.next_used);
        ready > if self.event_idx { skip } else { 0 }
    }

    /// Asks for no interrupts. They may come all the same.
    pub fn disable_interrupt(&mut self) {
        self.store(GuestAddr(self.layout.avail.0 + 2), DISABLE);
    }

    /// Returns whether the device asks for a kick at the next chain that is added.
    pub fn device_waits(&self) -> bool {
        match self.device_event() {
            (_, ENABLE) => true,
            (event, DESC) => event == off_wrap(self.layout.size, self.next_avail),
            _ => false,
        }
    }
}

/// Raw operations that no driver should do, and reads of what the device wrote.
impl<M: DriverMemory> PackedDriver<M> {
    /// Puts any chain in, to be seen after [`Self::publish`], and marks all of it available. It
    /// ends where the device is told that it ends, and comes back with the id of its last
    /// descriptor.
    pub fn post(&mut self, chain: &[Descriptor]) {
        for (index, desc) in chain.iter().enumerate() {
            let at = self.next_avail.wrapping_add(index as u16);
            let flags = desc.flags | self.avail_flags(at);
            let place = self.layout.descriptor(at % self.layout.size.get());
            self.memory.write(place, &desc.addr.to_le_bytes());
            self.memory
                .write(GuestAddr(place.0 + 8), &desc.len.to_le_bytes());
            self.store(GuestAddr(place.0 + 12), desc.id);
            if index == 0 && self.hidden.is_none() {
                self.hidden = Some((at, flags));
            } else {
                self.store(self.flags_at(at), flags);
            }
        }
        let count = chain.len() as u16;
        if let Some(last) = chain.last() {
            self.chains.insert(last.id, count);
            self.ids.retain(|id| *id != last.id);
        }
        self.free = self.free.saturating_sub(count);
        self.added = self.added.wrapping_add(count);
        self.next_avail = self.next_avail.wrapping_add(count);
    }

    /// Writes a descriptor anywhere, such as into an indirect table, or into the ring.
    pub fn write_raw_descriptor(&self, at: GuestAddr, desc: &Descriptor) {
        let mut bytes = [0; Descriptor::BYTES];
        bytes[..8].copy_from_slice(&desc.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.id.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.flags.to_le_bytes());
        self.memory.write(at, &bytes);
    }

    /// Writes these buffers as an indirect table.
    pub fn write_indirect_table(&self, table: GuestAddr, bufs: &[Buf]) {
        for (index, buf) in bufs.iter().enumerate() {
            let at = table.0 + (index * Descriptor::BYTES) as u64;
            self.write_raw_descriptor(GuestAddr(at), &descriptor(buf));
        }
    }

    /// Writes the flags of the descriptor at a free-running position.
    pub fn write_flags(&self, position: u16, flags: u16) {
        let at = self.flags_at(position);
        self.memory.store_release_u16(at, flags.to_le());
    }

    /// Returns the flags of the descriptor at a free-running position.
    pub fn flags(&self, position: u16) -> u16 {
        // Pairs with the release in `Used::add_used`.
        u16::from_le(self.memory.load_acquire_u16(self.flags_at(position)))
    }

    /// Returns the bits of the flags that make a descriptor available at a free-running position.
    pub fn avail_flags(&self, position: u16) -> u16 {
        if off_wrap(self.layout.size, position) & WRAP != 0 {
            Descriptor::F_AVAIL
        } else {
            Descriptor::F_USED
        }
    }

    /// Returns the bits of the flags of a used descriptor at a free-running position.
    pub fn used_flags(&self, position: u16) -> u16 {
        if off_wrap(self.layout.size, position) & WRAP != 0 {
            Descriptor::F_AVAIL | Descriptor::F_USED
        } else {
            0
        }
    }

    /// Writes the driver's event suppression structure.
    pub fn write_driver_event(&self, off_wrap: u16, flags: u16) {
        self.store(self.layout.avail, off_wrap);
        // Pairs with the acquire in `Used::should_interrupt`.
        let at = GuestAddr(self.layout.avail.0 + 2);
        self.memory.store_release_u16(at, flags.to_le());
    }

    /// Returns the device's event suppression structure: `off_wrap` and the flags.
    pub fn device_event(&self) -> (u16, u16) {
        // Pairs with the release in `Avail::enable_notify`.
        let at = GuestAddr(self.layout.used.0 + 2);
        let flags = u16::from_le(self.memory.load_acquire_u16(at));
        (u16::from_le(self.memory.load_u16(self.layout.used)), flags)
    }

    /// Returns the id and the length that the device wrote at a free-running position.
    pub fn used_entry(&self, position: u16) -> (u16, u32) {
        let place = self.layout.descriptor(position % self.layout.size.get());
        let id = self.memory.load_u16(GuestAddr(place.0 + 12));
        let mut len = [0; 4];
        self.memory.read(GuestAddr(place.0 + 8), &mut len);
        // Without the flag the length means nothing.
        let written = self.flags(position) & Descriptor::F_WRITE != 0;
        let len = if written { u32::from_le_bytes(len) } else { 0 };
        (u16::from_le(id), len)
    }

    /// Returns whether the descriptor at a free-running position is used.
    fn is_used(&self, position: u16) -> bool {
        let state = Descriptor::F_AVAIL | Descriptor::F_USED;
        self.flags(position) & state == self.used_flags(position)
    }

    fn flags_at(&self, position: u16) -> GuestAddr {
        self.layout.packed_flags(position % self.layout.size.get())
    }

    fn store(&self, at: GuestAddr, value: u16) {
        self.memory.store_u16(at, value.to_le());
    }
}

/// Returns the descriptor of a buffer. Its id is set when it is put in.
fn descriptor(buf: &Buf) -> Descriptor {
    let write = if buf.writable { Descriptor::F_WRITE } else { 0 };
    Descriptor {
        addr: buf.addr.0,
        len: buf.len,
        id: 0,
        flags: write,
    }
}

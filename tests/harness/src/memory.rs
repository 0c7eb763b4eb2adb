// SPDX-License-Identifier: GPL-2.0

//! The memory of the guest that the harness plays: regions at known guest addresses.

use crate::sys::{map::Mapping, system, Errno};
use std::{
    os::fd::AsFd,
    sync::atomic::{
        fence,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
};
use vblk_core::{addr::GuestAddr, testing::DriverMemory, uapi::MemoryRegion};

/// Kinds of regions.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Anonymous and private, as a simple VMM has it.
    Private,
    /// A memory file mapped shared, as vhost-user VMMs have it.
    Shared,
}

/// A region to make.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec {
    /// Its first guest address.
    pub guest: u64,
    /// Length in bytes, a multiple of the page size.
    pub bytes: usize,
    /// Kind of memory.
    pub kind: Kind,
}

/// Memory below the usual hole: rings, headers, status bytes, small data.
pub const LOW: RegionSpec = RegionSpec {
    guest: 0,
    bytes: 4 << 20,
    kind: Kind::Private,
};

/// Neighbour of [`LOW`] for the guest, but not in the harness: buffers can straddle the two.
pub const MIDDLE: RegionSpec = RegionSpec {
    guest: LOW.bytes as u64,
    bytes: 32 << 20,
    kind: Kind::Shared,
};

/// Above 4 GiB.
pub const HIGH: RegionSpec = RegionSpec {
    guest: 1 << 32,
    bytes: 4 << 20,
    kind: Kind::Private,
};

/// The regions of most tests.
pub const REGIONS: [RegionSpec; 3] = [HIGH, LOW, MIDDLE];

struct Region {
    guest: u64,
    /// The mapping, with a guard on either side, which is no guest memory.
    map: Mapping,
}

/// Bytes of a guard.
const GUARD: usize = 4096;

/// Content of guards: nothing that a device writes by itself.
const CANARY: u8 = 0xC5;

impl Region {
    fn new(spec: &RegionSpec) -> Result<Self, Errno> {
        let bytes = spec.bytes + 2 * GUARD;
        let map = match spec.kind {
            Kind::Private => Mapping::anonymous(bytes)?,
            Kind::Shared => {
                let file = system::memory_file(c"guest", bytes as u64)?;
                Mapping::shared(file.as_fd(), bytes)?
            }
        };
        let guest = spec.guest;
        let region = Self { guest, map };
        region
            .guards()
            .into_iter()
            .for_each(|at| region.map.fill(at, GUARD, CANARY));
        Ok(region)
    }

    fn bytes(&self) -> u64 {
        (self.map.len() - 2 * GUARD) as u64
    }

    fn guards(&self) -> [usize; 2] {
        [0, self.map.len() - GUARD]
    }
}

/// The regions of a guest.
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Makes the regions, filled with zeroes.
    pub fn new(specs: &[RegionSpec]) -> Result<Self, Errno> {
        let regions = specs
            .iter()
            .map(Region::new)
            .collect::<Result<_, Errno>>()?;
        Ok(Self { regions })
    }

    /// The regions as VHOST_SET_MEM_TABLE wants them.
    pub fn table(&self) -> Vec<MemoryRegion> {
        let entry = |region: &Region| MemoryRegion {
            guest_phys_addr: region.guest,
            memory_size: region.bytes(),
            userspace_addr: region.map.addr() + GUARD as u64,
            flags_padding: 0,
        };
        self.regions.iter().map(entry).collect()
    }

    /// Beginnings and lengths of the regions, for the guest.
    pub fn blocks(&self) -> Vec<(GuestAddr, u64)> {
        let block = |region: &Region| (GuestAddr(region.guest), region.bytes());
        self.regions.iter().map(block).collect()
    }

    /// The region that holds a guest address, and the offset in it.
    ///
    /// # Panics
    ///
    /// If there is none.
    fn find(&self, addr: GuestAddr) -> (&Mapping, usize) {
        let found = self.regions.iter().find_map(|region| {
            let offset = addr.0.checked_sub(region.guest)?;
            (offset < region.bytes()).then_some((&region.map, offset as usize + GUARD))
        });
        found.unwrap_or_else(|| panic!("no guest memory at {:#x}", addr.0))
    }

    /// Checks that nothing was written just before or behind a region.
    #[track_caller]
    pub fn check_guards(&self) {
        for region in &self.regions {
            for at in region.guards() {
                let mut bytes = [0; GUARD];
                region.map.read(at, &mut bytes);
                let intact = bytes.iter().all(|byte| *byte == CANARY);
                assert!(intact, "a guard of the region at {:#x}", region.guest);
            }
        }
    }

    /// Returns the place of a guest address in the harness.
    pub fn host(&self, addr: GuestAddr) -> u64 {
        let (map, offset) = self.find(addr);
        map.addr() + offset as u64
    }

    /// The mapping behind a guest address, and the offset in it.
    pub fn mapping(&self, addr: GuestAddr) -> (&Mapping, usize) {
        self.find(addr)
    }

    /// Calls `piece` for each part of a range that lies in one region: mapping, offset there,
    /// offset in the range, length.
    fn pieces(
        &self,
        addr: GuestAddr,
        len: usize,
        mut piece: impl FnMut(&Mapping, usize, usize, usize),
    ) {
        let mut done = 0;
        while done < len {
            let (map, offset) = self.find(GuestAddr(addr.0 + done as u64));
            let now = (len - done).min(map.len() - GUARD - offset);
            piece(map, offset, done, now);
            done += now;
        }
    }
}

impl DriverMemory for GuestMemory {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        let len = to.len();
        self.pieces(from, len, |map, at, done, now| {
            map.read(at, &mut to[done..done + now]);
        });
    }

    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        self.pieces(to, bytes.len(), |map, at, done, now| {
            map.write(at, &bytes[done..done + now]);
        });
    }

    fn load_u16(&self, at: GuestAddr) -> u16 {
        let (map, offset) = self.find(at);
        map.u16(offset).load(Relaxed)
    }

    fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
        let (map, offset) = self.find(at);
        map.u16(offset).load(Acquire)
    }

    fn store_u16(&self, at: GuestAddr, value: u16) {
        let (map, offset) = self.find(at);
        map.u16(offset).store(value, Relaxed);
    }

    fn store_release_u16(&self, at: GuestAddr, value: u16) {
        let (map, offset) = self.find(at);
        map.u16(offset).store(value, Release);
    }

    fn full_barrier(&self) {
        fence(SeqCst);
    }

    fn fill(&self, to: GuestAddr, len: usize, value: u8) {
        self.pieces(to, len, |map, at, _, now| map.fill(at, now, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_may_straddle_neighbours_that_are_none_in_the_harness() {
        let memory = GuestMemory::new(&REGIONS).unwrap();
        let at = GuestAddr(MIDDLE.guest - 3);
        memory.write(at, b"abcdefg");
        assert_eq!(memory.read_vec(at, 7), b"abcdefg");
        assert_eq!(memory.read_u8(GuestAddr(MIDDLE.guest)), b'd');
        assert_ne!(memory.host(GuestAddr(MIDDLE.guest)), memory.host(at) + 3);
    }

    #[test]
    fn a_write_beside_a_region_is_found() {
        let memory = GuestMemory::new(&REGIONS).unwrap();
        let last = GuestAddr(HIGH.guest + HIGH.bytes as u64 - 1);
        memory.write(last, &[1]);
        memory.check_guards();
        let (map, offset) = memory.mapping(last);
        map.write(offset + 1, &[1]);
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| memory.check_guards()));
        assert!(checked.is_err());
    }

    #[test]
    #[should_panic(expected = "no guest memory")]
    fn a_hole_is_a_mistake_of_the_test() {
        let memory = GuestMemory::new(&REGIONS).unwrap();
        memory.read_u8(GuestAddr(HIGH.guest - 1));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Guest memory that a front-end hands over as files.

use super::message::RegionSpec;
use crate::{errno, memory::Memory};
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::Arc,
};
use vblk_core::table::MAX_REGIONS;
use vm_memory::{
    mmap::{MmapRegion, MmapRegionError},
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Most regions of guest memory, as the module has it.
pub const SLOTS: usize = MAX_REGIONS;

/// A region of memory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It has no bytes, or reaches beyond the end of an address space.
    #[error("a region that reaches beyond the end of addresses, or nowhere")]
    Range,
    /// Its file is none that memory can be in.
    #[error("a region in something else than a file")]
    NotAFile,
    /// Its file is shorter.
    #[error("a region beyond the end of its file")]
    BeyondEnd,
    /// Two regions have an address in common, in the guest or in the front-end.
    #[error("regions that overlap")]
    Overlap,
    /// There are too many.
    #[error("more than {SLOTS} regions")]
    TooMany,
    /// No region is as described.
    #[error("no such region")]
    Unknown,
    /// The host refuses to map it.
    #[error("mapping a region: {}", errno::text(.0))]
    Host(#[from] io::Error),
}

/// Maps a part of a file that a front-end has sent, which does not wrap.
fn map(file: OwnedFd, offset: u64, bytes: u64) -> Result<MmapRegion, MemoryError> {
    let file = File::from(file);
    let metadata = file.metadata()?;
    // A driver's file could do anything when it is mapped or touched.
    if !metadata.is_file() {
        return Err(MemoryError::NotAFile);
    }
    // Beyond its end, each access would end the process.
    if metadata.len() < offset + bytes {
        return Err(MemoryError::BeyondEnd);
    }
    let bytes = usize::try_from(bytes).map_err(|_| MemoryError::Range)?;
    MmapRegion::build(
        Some(FileOffset::new(file, offset)),
        bytes,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_NORESERVE,
    )
    .map_err(|e| match e {
        MmapRegionError::Mmap(e) => MemoryError::Host(e),
        _ => MemoryError::Range,
    })
}

/// Maps a part of a file that is no guest memory: a log, or notes.
///
/// # Errors
///
/// See [`MemoryError`].
pub fn map_part(file: OwnedFd, offset: u64, bytes: u64) -> Result<MmapRegion, MemoryError> {
    if bytes == 0 || offset.checked_add(bytes).is_none() {
        return Err(MemoryError::Range);
    }
    map(file, offset, bytes)
}

/// A region that is mapped here.
#[derive(Clone, Debug)]
struct Region {
    spec: RegionSpec,
    mapping: Arc<GuestRegionMmap>,
}

impl Region {
    fn map(spec: RegionSpec, file: OwnedFd) -> Result<Self, MemoryError> {
        let fits = |start: u64| start.checked_add(spec.bytes).is_some();
        if spec.bytes == 0 || ![spec.guest, spec.user, spec.offset].into_iter().all(fits) {
            return Err(MemoryError::Range);
        }
        let mapping = map(file, spec.offset, spec.bytes)?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(spec.guest));
        Ok(Self {
            spec,
            mapping: Arc::new(mapping.ok_or(MemoryError::Range)?),
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let common =
            |one: u64, two: u64| one < two + other.spec.bytes && two < one + self.spec.bytes;
        common(self.spec.guest, other.spec.guest) || common(self.spec.user, other.spec.user)
    }
}

/// All regions of guest memory, in the order of their addresses, without overlaps.
#[derive(Clone, Debug, Default)]
pub struct Regions(Vec<Region>);

impl Regions {
    /// Maps a whole table.
    ///
    /// # Errors
    ///
    /// See [`MemoryError`].
    pub fn map(table: Vec<(RegionSpec, OwnedFd)>) -> Result<Self, MemoryError> {
        let mut regions = Self::default();
        for (spec, file) in table {
            regions.add(spec, file)?;
        }
        Ok(regions)
    }

    /// Maps one more region.
    ///
    /// # Errors
    ///
    /// See [`MemoryError`]. The others stay.
    pub fn add(&mut self, spec: RegionSpec, file: OwnedFd) -> Result<(), MemoryError> {
        if self.0.len() == SLOTS {
            return Err(MemoryError::TooMany);
        }
        let region = Region::map(spec, file)?;
        if self.0.iter().any(|other| region.overlaps(other)) {
            return Err(MemoryError::Overlap);
        }
        let at = self
            .0
            .partition_point(|other| other.spec.guest < spec.guest);
        self.0.insert(at, region);
        Ok(())
    }

    /// Forgets a region. The offset in its file does not matter.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Unknown`].
    pub fn remove(&mut self, spec: RegionSpec) -> Result<(), MemoryError> {
        let is_same = |region: &Region| {
            RegionSpec {
                offset: spec.offset,
                ..region.spec
            } == spec
        };
        let at = self.0.iter().position(is_same);
        self.0.remove(at.ok_or(MemoryError::Unknown)?);
        Ok(())
    }

    /// Returns the memory for a back-end.
    pub fn memory(&self) -> Memory {
        let regions = self.0.iter().map(|region| region.mapping.clone()).collect();
        // They are sorted and do not overlap: there is no other reason to refuse them.
        Arc::new(GuestMemoryMmap::from_arc_regions(regions).unwrap_or_default())
    }

    /// Reads a number of two bytes from its file. Unlike an access to the mapping, this does not end
    /// the process when the front-end has cut the file off meanwhile.
    pub fn read_u16(&self, at: GuestAddress) -> Option<u16> {
        let mut bytes = [0; 2];
        let region = self.0.iter().rev().find(|it| it.spec.guest <= at.0)?;
        let offset = at.0 - region.spec.guest;
        region.spec.bytes.checked_sub(offset.checked_add(2)?)?;
        let file = region.mapping.file_offset()?;
        let read = file.file().read_exact_at(&mut bytes, file.start() + offset);
        read.ok().map(|()| u16::from_le_bytes(bytes))
    }

    /// Returns the guest-physical address of what the front-end has at `user`.
    pub fn translate(&self, user: u64) -> Option<GuestAddress> {
        self.0.iter().find_map(|region| {
            let offset = user.checked_sub(region.spec.user)?;
            (offset < region.spec.bytes).then(|| GuestAddress(region.spec.guest + offset))
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The trait of guest memory, and copies of the data of a request.

use super::{
    device_memory::DeviceMemory,
    status_byte::StatusByte, //
};
use crate::sys::io_vectors::IoVectors;
use core::ops::Range;
use kernel::prelude::*;
use vblk_core::{
    addr::GuestAddr,
    memory::{
        Fault,
        ReadGuest, //
    },
    request::Piece, //
};

/// Guest memory as a virtqueue uses it, in its worker or in the owner.
pub(crate) trait GuestMemory: ReadGuest + Send + Sized + 'static {
    /// Creates a user of `memory`; `None` when that is of another kind.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    fn new(memory: &DeviceMemory) -> Result<Option<Self>>;

    /// Exchanges the memory for one of the same kind, between two requests.
    fn replace(&mut self, memory: &DeviceMemory);

    /// Writes `from` to `to`. May sleep.
    ///
    /// # Errors
    ///
    /// [`Fault`]; some bytes may have been written.
    fn write(&self, to: GuestAddr, from: &[u8]) -> Result<(), Fault>;

    /// Prepares a byte to be written in any context. `is_alone` says that no other byte is asked for
    /// soon. May sleep.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn status_byte(&mut self, at: GuestAddr, is_alone: bool) -> Result<StatusByte, Fault>;

    /// Adds as many of `len` bytes at `at` to an I/O as are contiguous and as there is room for.
    /// Returns how many; 0 when there is no room. May sleep.
    ///
    /// # Errors
    ///
    /// [`Fault`]; nothing was added then.
    fn add_to(&mut self, io: &mut IoVectors, at: GuestAddr, len: u64) -> Result<u64, Fault>;

    /// Forgets what it found out for a batch of requests: the memory may change from here on.
    fn end_batch(&mut self);

    /// Looks again at what is mapped, when chains were looked for: the next one may be in memory that
    /// was mapped since.
    fn refresh(&mut self);
}

/// Fills `to` with the first bytes of `pieces`. May sleep.
///
/// # Errors
///
/// [`Fault`], also when there are too few bytes.
pub(crate) fn copy_in(
    memory: &impl GuestMemory,
    pieces: impl Iterator<Item = Piece>,
    to: &mut [u8],
) -> Result<(), Fault> {
    for_each_part(pieces, to.len(), |addr, part| {
        memory.read(addr, to.get_mut(part).ok_or(Fault::OutsideTable)?)
    })
}

/// Calls `copy` with the address of each piece and the part of a buffer of `len` bytes that belongs
/// there, until the buffer ends.
///
/// # Errors
///
/// [`Fault`], also when there are too few pieces; the first parts may have been copied.
pub(crate) fn for_each_part(
    pieces: impl Iterator<Item = Piece>,
    len: usize,
    mut copy: impl FnMut(GuestAddr, Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut rest = 0..len;
    for piece in pieces {
        let end = rest.start + rest.len().min(piece.len as usize);
        copy(piece.addr, rest.start..end)?;
        rest.start = end;
        if rest.is_empty() {
            return Ok(());
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Fault::OutsideTable)
    }
}

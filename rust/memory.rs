// SPDX-License-Identifier: GPL-2.0

//! The owner's memory as the worker thread and the ioctls reach it: by copying.

use crate::sys::{
    copy_from_user,
    errno::eopnotsupp,
    is_user_range, //
};
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        CopyIn,
        Fault, //
    },
    request::{
        Payload,
        Pieces, //
    },
    table::{
        HostSpan,
        MemoryTable,
        Region,
        TableError,
        MAX_REGIONS, //
    },
    uapi::{
        MemoryHeader,
        MemoryRegion, //
    },
};

/// The memory table of a guest.
pub(crate) type Table = MemoryTable<KVec<Region>>;

/// The memory of the process that the current thread belongs to or works for.
pub(crate) struct CurrentProcess;

impl CopyIn for CurrentProcess {
    #[inline]
    fn copy_in(&self, from: HostAddr, to: &mut [u8]) -> Result<(), Fault> {
        copy_from_user(from, to).then_some(()).ok_or(Fault)
    }
}

impl CurrentProcess {
    /// Copies the other way.
    ///
    /// # Errors
    ///
    /// [`Fault`] when a byte can't be written; others may have been.
    pub(crate) fn copy_out(&self, from: &[u8], to: HostAddr) -> Result<(), Fault> {
        let to = UserPtr::from_addr(usize::try_from(to.0).map_err(|_| Fault)?);
        UserSlice::new(to, from.len())
            .writer()
            .write_slice(from)
            .map_err(|_| Fault)
    }
}

/// Reads the argument of an ioctl.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn read_argument<const N: usize>(arg: usize) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    UserSlice::new(UserPtr::from_addr(arg), N)
        .reader()
        .read_slice(&mut bytes)?;
    Ok(bytes)
}

/// Writes the result of an ioctl.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn write_result(arg: usize, bytes: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), bytes.len())
        .writer()
        .write_slice(bytes)
}

/// Reads the argument of VHOST_SET_MEM_TABLE.
///
/// # Errors
///
/// EFAULT when the argument can't be read, or a region is empty, wraps, or is no user memory;
/// EOPNOTSUPP when the padding is used; E2BIG; EINVAL when regions overlap.
pub(crate) fn read_table(arg: usize) -> Result<Table> {
    let header = MemoryHeader::from_bytes(&read_argument(arg)?);
    if header.padding != 0 {
        return Err(eopnotsupp());
    }
    let count = header.nregions as usize;
    if count > MAX_REGIONS {
        return Err(E2BIG);
    }
    let mut regions = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    let mut at = arg.checked_add(MemoryHeader::BYTES).ok_or(EFAULT)?;
    for _ in 0..count {
        let region = MemoryRegion::from_bytes(&read_argument(at)?);
        at = at.checked_add(MemoryRegion::BYTES).ok_or(EFAULT)?;
        let host = HostAddr(region.userspace_addr);
        if !is_user_range(host, region.memory_size) {
            return Err(EFAULT);
        }
        let region = Region::new(GuestAddr(region.guest_phys_addr), region.memory_size, host)
            .map_err(|_| EFAULT)?;
        regions.push(region, GFP_KERNEL_ACCOUNT)?;
    }
    MemoryTable::new(regions).map_err(|error| match error {
        TableError::TooMany => E2BIG,
        TableError::Empty | TableError::Wraps => EFAULT,
        TableError::Overlap => EINVAL,
    })
}

/// Writes one byte of guest memory.
///
/// # Errors
///
/// [`Fault`].
pub(crate) fn write_byte(table: &Table, at: GuestAddr, value: u8) -> Result<(), Fault> {
    CurrentProcess.copy_out(&[value], table.host(at)?)
}

/// Copies the data of a request piece by piece.
pub(crate) struct Copier<'a> {
    table: &'a Table,
    pieces: Pieces<'a>,
    /// What is left of the piece that was begun.
    at: GuestAddr,
    left: u64,
}

impl<'a> Copier<'a> {
    /// Begins after `skip` bytes.
    pub(crate) fn new(table: &'a Table, data: &Payload<'a>, skip: u32) -> Self {
        Self {
            table,
            pieces: data.pieces_after(skip),
            at: GuestAddr(0),
            left: 0,
        }
    }

    /// The next bytes that are contiguous in the owner, up to `most`.
    fn next(&mut self, most: usize) -> Result<HostSpan, Fault> {
        if self.left == 0 {
            let piece = self.pieces.next().ok_or(Fault)?;
            self.at = piece.addr;
            self.left = u64::from(piece.len);
        }
        let span = self.table.span(self.at, self.left.min(most as u64))?;
        self.left -= span.len;
        if self.left > 0 {
            self.at = self.at.checked_add(span.len).ok_or(Fault)?;
        }
        Ok(span)
    }

    /// Fills `to` with the next bytes.
    ///
    /// # Errors
    ///
    /// [`Fault`] when there is no such memory, or no more data.
    pub(crate) fn copy_in(&mut self, to: &mut [u8]) -> Result<(), Fault> {
        let mut rest = to;
        while !rest.is_empty() {
            let span = self.next(rest.len())?;
            let (now, later) = rest.split_at_mut_checked(span.len as usize).ok_or(Fault)?;
            CurrentProcess.copy_in(span.addr, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Puts `from` where the next bytes are.
    ///
    /// # Errors
    ///
    /// As for [`Self::copy_in`].
    pub(crate) fn copy_out(&mut self, from: &[u8]) -> Result<(), Fault> {
        let mut rest = from;
        while !rest.is_empty() {
            let span = self.next(rest.len())?;
            let (now, later) = rest.split_at_checked(span.len as usize).ok_or(Fault)?;
            CurrentProcess.copy_out(now, span.addr)?;
            rest = later;
        }
        Ok(())
    }
}

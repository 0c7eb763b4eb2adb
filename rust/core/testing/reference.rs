// SPDX-License-Identifier: GPL-2.0

//! The rules of chains and requests, written as plainly as possible: no windows, no shared state,
//! addresses in 128 bits so that nothing wraps, memory as a list of blocks.
//!
//! Tests compare it with what the device makes of a ring, however hostile.

use super::DriverMemory;
use crate::{
    addr::GuestAddr,
    chain::{
        ChainError,
        Segment, //
    },
    split::Descriptor, //
};
use std::vec::Vec;

const ADDRESSES: u128 = 1 << 64;
const MOST_BYTES: u128 = u32::MAX as u128;
/// Buffers that a chain may have if some lie in an indirect table, on rings up to this size.
const LONG_TABLE: usize = 1024;

/// Guest memory.
pub struct Memory<'a, M> {
    /// What is there.
    pub memory: &'a M,
    /// Where there is any: beginnings and lengths.
    pub blocks: &'a [(GuestAddr, u64)],
}

impl<M: DriverMemory> Memory<'_, M> {
    /// Returns where the block that holds an address ends, if there is one.
    fn end(&self, addr: u128) -> Option<u128> {
        let mut blocks = self.blocks.iter().map(|(first, len)| {
            let first = u128::from(first.0);
            first..first + u128::from(*len)
        });
        Some(blocks.find(|block| block.contains(&addr))?.end)
    }

    /// Returns whether `len` bytes are there.
    pub fn has(&self, addr: u128, len: u128) -> bool {
        let (mut addr, end) = (addr, addr + len);
        while addr < end {
            match self.end(addr) {
                Some(next) => addr = next,
                None => return false,
            }
        }
        true
    }

    /// Returns `len` bytes, if all are there.
    pub fn bytes(&self, addr: u128, len: u128) -> Option<Vec<u8>> {
        let (mut addr, end) = (addr, addr + len);
        let mut bytes = Vec::new();
        while addr < end {
            let stop = self.end(addr)?.min(end);
            let part = self
                .memory
                .read_vec(GuestAddr(addr as u64), (stop - addr) as usize);
            bytes.extend(part);
            addr = stop;
        }
        Some(bytes)
    }

    /// Returns a descriptor of a split ring. In a packed one flags and id are the other way round.
    fn descriptor(&self, addr: u128) -> Option<Descriptor> {
        let bytes = self.bytes(addr, 16)?;
        let number = |from: usize, to: usize| {
            let digits = bytes[from..to].iter().rev();
            digits.fold(0, |sum, digit| sum << 8 | u64::from(*digit))
        };
        Some(Descriptor {
            addr: number(0, 8),
            len: number(8, 12) as u32,
            flags: number(12, 14) as u16,
            next: number(14, 16) as u16,
        })
    }
}

/// The outcomes of a walk.
#[derive(Debug)]
pub struct Expected {
    /// The buffers, or why there are none.
    pub result: Result<Vec<Segment>, ChainError>,
    /// The indirect table is not all there: reading it ahead may fail although the chain does
    /// not lead to the missing part.
    pub or_fault: bool,
}

/// A chain that has been followed to some descriptor.
#[derive(Default)]
struct Walk {
    bufs: Vec<Segment>,
    /// Buffers so far, the empty ones too.
    steps: usize,
    bytes: u128,
}

impl Walk {
    fn step(&mut self, size: usize) -> Result<(), ChainError> {
        self.steps += 1;
        match self.steps > size {
            true => Err(ChainError::TooLong),
            false => Ok(()),
        }
    }

    fn take(&mut self, desc: &Descriptor) -> Result<(), ChainError> {
        let writable = desc.flags & 2 != 0;
        self.bytes += u128::from(desc.len);
        if self.bytes > MOST_BYTES {
            return Err(ChainError::TooManyBytes);
        }
        if desc.len > 0 {
            self.bufs.push(Segment {
                addr: GuestAddr(desc.addr),
                len: desc.len,
                writable,
            });
        }
        Ok(())
    }
}

impl Walk {
    fn end(self, followed: Result<(), ChainError>, or_fault: bool) -> Expected {
        let result = followed.map(|()| self.bufs);
        Expected { result, or_fault }
    }
}

/// Judges a descriptor that refers to an indirect table; `last` says that no other follows.
fn open(outer: &Descriptor, allowed: bool, last: bool) -> Result<(), ChainError> {
    if !allowed {
        Err(ChainError::IndirectNotNegotiated)
    } else if !last {
        Err(ChainError::IndirectWithNext)
    } else if outer.len == 0 || outer.len % 16 != 0 {
        Err(ChainError::IndirectSize)
    } else {
        Ok(())
    }
}

/// Follows the chain at `head` in a split ring with `size` descriptors at `ring`.
pub fn walk<M: DriverMemory>(
    memory: &Memory<'_, M>,
    ring: u64,
    size: usize,
    head: u16,
    indirect: bool,
) -> Expected {
    let mut walk = Walk::default();
    let mut or_fault = false;
    let mut follow = || -> Result<(), ChainError> {
        let mut index = usize::from(head);
        let outer = loop {
            walk.step(size)?;
            if index >= size {
                return Err(ChainError::NextOutOfRange);
            }
            let desc = memory.descriptor(u128::from(ring) + 16 * index as u128);
            let desc = desc.expect("the ring is in memory");
            if desc.flags & 4 != 0 {
                break desc;
            }
            walk.take(&desc)?;
            if desc.flags & 1 == 0 {
                return Ok(());
            }
            index = desc.next.into();
        };

        open(&outer, indirect, outer.flags & 1 == 0)?;
        let longest = size.max(LONG_TABLE);
        let table = u128::from(outer.addr);
        let reachable = u128::from(outer.len).min(16 << 16);
        or_fault = !memory.has(table, reachable);
        // The one that leads to the table holds no buffer.
        walk.steps -= 1;
        let mut index = 0;
        loop {
            walk.step(longest)?;
            if index >= outer.len / 16 {
                return Err(ChainError::NextOutOfRange);
            }
            let desc = memory.descriptor(table + 16 * u128::from(index));
            let desc = desc.ok_or(ChainError::IndirectOutsideTable)?;
            if desc.flags & 4 != 0 {
                return Err(ChainError::NestedIndirect);
            }
            walk.take(&desc)?;
            if desc.flags & 1 == 0 {
                return Ok(());
            }
            index = desc.next.into();
        }
    };
    let followed = follow();
    walk.end(followed, or_fault)
}

/// Takes the chain of `count` descriptors from `first` on in a packed ring with `size` of them at
/// `ring`.
pub fn walk_packed<M: DriverMemory>(
    memory: &Memory<'_, M>,
    ring: u64,
    size: usize,
    first: u16,
    count: u16,
    indirect: bool,
) -> Expected {
    let mut walk = Walk::default();
    let mut or_fault = false;
    let get = |at: u128| {
        let swapped = memory.descriptor(at)?;
        let (flags, next) = (swapped.next, swapped.flags);
        Some(Descriptor {
            flags,
            next,
            ..swapped
        })
    };
    let mut follow = || -> Result<(), ChainError> {
        for ahead in 0..usize::from(count) {
            walk.step(size)?;
            let index = (usize::from(first) + ahead) % size;
            let desc = get(u128::from(ring) + 16 * index as u128);
            let desc = desc.expect("the ring is in memory");
            if desc.flags & 4 == 0 {
                walk.take(&desc)?;
                continue;
            }
            open(&desc, indirect, count == 1)?;
            or_fault = !memory.has(desc.addr.into(), desc.len.into());
            walk.steps -= 1;
            for index in 0..u128::from(desc.len / 16) {
                walk.step(size.max(LONG_TABLE))?;
                let entry = get(u128::from(desc.addr) + 16 * index);
                walk.take(&entry.ok_or(ChainError::IndirectOutsideTable)?)?;
            }
        }
        Ok(())
    };
    let followed = follow();
    walk.end(followed, or_fault)
}

/// A request, as lists of address and length.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Its 16 bytes.
    pub header: Vec<u8>,
    /// Data that the driver gives.
    pub data_out: Vec<(u64, u32)>,
    /// Room for data that the driver wants to get.
    pub data_in: Vec<(u64, u32)>,
    /// Address of the status byte.
    pub status: u64,
}

/// Returns the address of the last byte, if it is writable and there is such an address.
fn status(bufs: &[Segment]) -> Option<u64> {
    let last = bufs.last().filter(|last| last.writable)?;
    let addr = u128::from(last.addr.0) + u128::from(last.len) - 1;
    (addr < ADDRESSES).then_some(addr as u64)
}

/// Finds a request in buffers, none of which is empty; otherwise where a status could go.
///
/// # Errors
///
/// That place, if there is one.
pub fn parse<M: DriverMemory>(
    memory: &Memory<'_, M>,
    bufs: &[Segment],
) -> Result<Parsed, Option<u64>> {
    let refused = status(bufs);
    let (readable, writable): (Vec<Segment>, Vec<Segment>) =
        bufs.iter().partition(|buf| !buf.writable);
    let in_order: Vec<_> = readable.iter().chain(&writable).copied().collect();
    let status = refused.ok_or(refused)?;
    if in_order != bufs {
        return Err(refused);
    }

    let mut header = Vec::new();
    let mut data_out = Vec::new();
    for buf in &readable {
        let (addr, len) = (u128::from(buf.addr.0), u128::from(buf.len));
        let missing = 16 - header.len() as u128;
        if missing == 0 {
            data_out.push((buf.addr.0, buf.len));
            continue;
        }
        if addr + len > ADDRESSES {
            return Err(refused);
        }
        let part = len.min(missing);
        header.extend(memory.bytes(addr, part).ok_or(refused)?);
        if len > part {
            data_out.push(((addr + part) as u64, (len - part) as u32));
        }
    }
    if header.len() < 16 {
        return Err(refused);
    }

    let mut data_in: Vec<_> = writable.iter().map(|buf| (buf.addr.0, buf.len)).collect();
    // The status byte is the last of them.
    let (addr, len) = data_in.pop().ok_or(refused)?;
    if len > 1 {
        data_in.push((addr, len - 1));
    }
    Ok(Parsed {
        header,
        data_out,
        data_in,
        status,
    })
}

// SPDX-License-Identifier: GPL-2.0

//! The same rules as in `vblk_core`, written as plainly as possible: no windows, no shared state,
//! addresses in 128 bits so that nothing wraps, memory as a list of blocks.

use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::{
        ChainError,
        Segment, //
    },
    split::Descriptor,
    testing::{
        DriverMemory,
        Ram, //
    },
};

const ADDRESSES: u128 = 1 << 64;
const MOST_BYTES: u128 = u32::MAX as u128;

/// Guest memory: the same blocks as in a [`Ram`], looked up one by one.
pub struct Memory<'a> {
    pub ram: &'a Ram,
    pub blocks: &'a [(GuestAddr, usize, HostAddr)],
}

impl Memory<'_> {
    /// The byte at an address, if there is one.
    pub fn byte(&self, addr: u128) -> Option<u8> {
        let inside = |&&(guest, len, _): &&(GuestAddr, usize, HostAddr)| {
            let first = u128::from(guest.0);
            first <= addr && addr < first + len as u128
        };
        self.blocks.iter().find(inside)?;
        Some(self.ram.read_u8(GuestAddr(addr as u64)))
    }

    /// `len` bytes, if all are there.
    pub fn bytes(&self, addr: u128, len: u128) -> Option<Vec<u8>> {
        (addr..addr + len).map(|addr| self.byte(addr)).collect()
    }

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

/// What a walk may come to.
#[derive(Debug)]
pub struct Expected {
    pub result: Result<Vec<Segment>, ChainError>,
    /// The indirect table is not all there: reading it ahead may fail although the chain does
    /// not lead to the missing part.
    pub or_fault: bool,
}

/// A chain that has been followed to some descriptor.
struct Walk {
    bufs: Vec<Segment>,
    /// Buffers so far, the empty ones too.
    steps: usize,
    bytes: u128,
}

impl Walk {
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

/// Follows the chain at `head` in a table at `ring` with `size` entries.
pub fn walk(memory: &Memory<'_>, ring: u64, size: usize, head: u16, indirect: bool) -> Expected {
    let mut walk = Walk {
        bufs: Vec::new(),
        steps: 0,
        bytes: 0,
    };
    let mut or_fault = false;
    let mut follow = || -> Result<(), ChainError> {
        let mut index = usize::from(head);
        let outer = loop {
            walk.steps += 1;
            if walk.steps > size {
                return Err(ChainError::TooLong);
            }
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

        if !indirect {
            return Err(ChainError::IndirectNotNegotiated);
        }
        if outer.flags & 1 != 0 {
            return Err(ChainError::IndirectWithNext);
        }
        if outer.len == 0 || outer.len % 16 != 0 {
            return Err(ChainError::IndirectSize);
        }
        let table = u128::from(outer.addr);
        let reachable = u128::from(outer.len).min(16 << 16);
        or_fault = memory.bytes(table, reachable).is_none();
        // The one that leads to the table holds no buffer.
        walk.steps -= 1;
        let mut index = 0;
        loop {
            walk.steps += 1;
            if walk.steps > size {
                return Err(ChainError::TooLong);
            }
            if index >= outer.len / 16 {
                return Err(ChainError::NextOutOfRange);
            }
            let desc = memory.descriptor(table + 16 * u128::from(index));
            let desc = desc.ok_or(ChainError::IndirectFault)?;
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
    let result = follow().map(|()| walk.bufs);
    Expected { result, or_fault }
}

/// A request, as lists of address and length.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    pub header: Vec<u8>,
    pub data_out: Vec<(u64, u32)>,
    pub data_in: Vec<(u64, u32)>,
    pub status: u64,
}

/// The address of the last byte, if it is writable and there is such an address.
fn status(bufs: &[Segment]) -> Option<u64> {
    let last = bufs.last().filter(|last| last.writable)?;
    let addr = u128::from(last.addr.0) + u128::from(last.len) - 1;
    (addr < ADDRESSES).then_some(addr as u64)
}

/// Finds a request in buffers, none of which is empty; otherwise where a status could go.
pub fn parse(memory: &Memory<'_>, bufs: &[Segment]) -> Result<Parsed, Option<u64>> {
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

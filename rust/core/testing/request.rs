// SPDX-License-Identifier: GPL-2.0

//! Block requests in any layout.

use super::{
    Buf,
    DriverMemory, //
};
use crate::addr::GuestAddr;
use std::{
    vec,
    vec::Vec, //
};

/// What [`BlockRequest::prepare`] writes where the status byte goes, unless a test chooses another
/// value: no status of virtio.
pub const STATUS_UNWRITTEN: u8 = 0xEE;

/// VIRTIO_BLK_T_IN.
const IN: u32 = 0;
/// VIRTIO_BLK_T_OUT.
const OUT: u32 = 1;
/// VIRTIO_BLK_T_FLUSH.
const FLUSH: u32 = 4;
/// VIRTIO_BLK_T_GET_ID.
const GET_ID: u32 = 8;

/// A request before it is cut into buffers: header, data, status byte.
///
/// ```
/// use vblk_core::{addr::GuestAddr, testing::BlockRequest};
///
/// let request = BlockRequest::read(8, GuestAddr(0x1000), GuestAddr(0x1010))
///     .data(GuestAddr(0x2000), 4096);
/// assert_eq!(request.buffers().len(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct BlockRequest {
    /// The `type` field.
    pub kind: u32,
    /// The `ioprio` field.
    pub priority: u32,
    /// The `sector` field.
    pub sector: u64,
    /// Where the 16 bytes of the header go.
    pub header: GuestAddr,
    /// Where the status byte goes.
    pub status: GuestAddr,
    /// Data, in order, the readable before the writable.
    pub data: Vec<Buf>,
    /// What the status byte holds before the device writes it.
    pub preset: u8,
}

impl BlockRequest {
    /// A request of any type, without data.
    pub fn new(kind: u32, sector: u64, header: GuestAddr, status: GuestAddr) -> Self {
        Self {
            kind,
            priority: 0,
            sector,
            header,
            status,
            data: Vec::new(),
            preset: STATUS_UNWRITTEN,
        }
    }

    /// Presets the status byte with 0, which is `VIRTIO_BLK_S_OK`, as the Linux driver leaves it
    /// behind: a request that the device gives back without a status looks like a success.
    pub fn preset_ok(mut self) -> Self {
        self.preset = 0;
        self
    }

    /// A read, without data yet.
    pub fn read(sector: u64, header: GuestAddr, status: GuestAddr) -> Self {
        Self::new(IN, sector, header, status)
    }

    /// A write, without data yet.
    pub fn write(sector: u64, header: GuestAddr, status: GuestAddr) -> Self {
        Self::new(OUT, sector, header, status)
    }

    /// A flush.
    pub fn flush(header: GuestAddr, status: GuestAddr) -> Self {
        Self::new(FLUSH, 0, header, status)
    }

    /// Asks for the serial number; the data is where it goes.
    pub fn get_id(header: GuestAddr, status: GuestAddr) -> Self {
        Self::new(GET_ID, 0, header, status)
    }

    /// Adds a data buffer, in the direction that the type of the request implies.
    pub fn data(mut self, addr: GuestAddr, len: u32) -> Self {
        let writable = matches!(self.kind, IN | GET_ID);
        self.data.push(Buf {
            addr,
            len,
            writable,
        });
        self
    }

    /// The bytes of the header.
    pub fn header_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.priority.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sector.to_le_bytes());
        bytes
    }

    /// Writes the header, and the preset value of the status byte.
    pub fn prepare<M: DriverMemory>(&self, memory: &M) {
        memory.write(self.header, &self.header_bytes());
        memory.write(self.status, &[self.preset]);
    }

    /// The buffers in the usual layout: header, each data buffer, status byte. [`cut`] and
    /// [`join`] make others of it.
    pub fn buffers(&self) -> Vec<Buf> {
        let mut bufs = vec![Buf::readable(self.header, 16)];
        bufs.extend(&self.data);
        bufs.push(Buf::writable(self.status, 1));
        bufs
    }
}

/// The same bytes in the same order, cut at these byte positions as well, counted from the first
/// byte of the first buffer. Positions must be sorted; those where a buffer begins already, or
/// behind the end, do nothing.
pub fn cut(bufs: &[Buf], positions: &[u64]) -> Vec<Buf> {
    let mut pieces = Vec::with_capacity(bufs.len() + positions.len());
    let mut before = 0;
    for buf in bufs {
        let mut rest = *buf;
        let end = before + u64::from(buf.len);
        for &position in positions.iter().filter(|&&p| before < p && p < end) {
            let len = (position - (end - u64::from(rest.len))) as u32;
            if len == 0 {
                continue;
            }
            pieces.push(Buf { len, ..rest });
            rest.addr = GuestAddr(rest.addr.0.wrapping_add(u64::from(len)));
            rest.len -= len;
        }
        pieces.push(rest);
        before = end;
    }
    pieces
}

/// The same bytes in the same order, with neighbours made one where the second begins at the
/// address where the first ends and both go the same way. Empty buffers vanish.
pub fn join(bufs: &[Buf]) -> Vec<Buf> {
    let mut joined: Vec<Buf> = Vec::with_capacity(bufs.len());
    for buf in bufs.iter().filter(|buf| buf.len > 0) {
        match joined.last_mut() {
            Some(last)
                if last.writable == buf.writable
                    && last.addr.checked_add(u64::from(last.len)) == Some(buf.addr) =>
            {
                last.len += buf.len;
            }
            _ => joined.push(*buf),
        }
    }
    joined
}

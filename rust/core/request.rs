// SPDX-License-Identifier: GPL-2.0

//! What a chain asks of the disk, and what to answer (virtio 1.2, 5.2.6).
//!
//! A request is a header that the device reads, data one way or the other, and a status byte that
//! the device writes last. The driver may cut these into buffers as it likes: only the order of
//! the bytes counts.

use crate::{
    addr::{
        GuestAddr,
        Sector,
        SECTOR_SIZE, //
    },
    chain::{
        Chain,
        Segment, //
    },
    memory::CopyIn,
    range::{
        RangeOp,
        RangeOps,
        MAX_RANGES,
        RANGE_BYTES, //
    },
    table::{
        MemoryTable,
        Region, //
    },
};
use core::ops::DerefMut;

/// Bytes of `struct virtio_blk_outhdr`: type, priority and sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the answer to GET_ID (virtio 1.2, 5.2.6: "up to 20 bytes").
pub const ID_BYTES: usize = 20;

/// What the driver asks for, from the `type` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    /// Read sectors (VIRTIO_BLK_T_IN).
    In,
    /// Write sectors (VIRTIO_BLK_T_OUT).
    Out,
    /// Make earlier writes durable (VIRTIO_BLK_T_FLUSH).
    Flush,
    /// Tell the serial number (VIRTIO_BLK_T_GET_ID).
    GetId,
    /// Do something with ranges of sectors (VIRTIO_BLK_T_DISCARD, _WRITE_ZEROES, _SECURE_ERASE).
    Ranges(RangeOp),
    /// Anything else, answered with [`Status::Unsupported`].
    Unsupported(u32),
}

impl From<u32> for RequestType {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::In,
            1 => Self::Out,
            4 => Self::Flush,
            8 => Self::GetId,
            11 => Self::Ranges(RangeOp::Discard),
            13 => Self::Ranges(RangeOp::WriteZeroes),
            14 => Self::Ranges(RangeOp::SecureErase),
            other => Self::Unsupported(other),
        }
    }
}

/// The status byte (VIRTIO_BLK_S_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or makes no sense.
    IoError = 1,
    /// Not a request that this device knows.
    Unsupported = 2,
}

/// Where the data of a request lies: some bytes from the middle of a list of buffers.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    segments: &'a [Segment],
    skip: u32,
    bytes: u32,
}

/// A contiguous part of a [`Payload`], not yet checked against the memory table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest-physical address.
    pub addr: GuestAddr,
    /// Length in bytes, never 0.
    pub len: u32,
}

impl<'a> Payload<'a> {
    /// Length in bytes.
    #[inline]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The parts, in order. They add up to [`Self::bytes`].
    #[inline]
    pub fn pieces(&self) -> Pieces<'a> {
        self.pieces_after(0)
    }

    /// The parts of what is left after the first `bytes` bytes.
    #[inline]
    pub fn pieces_after(&self, bytes: u32) -> Pieces<'a> {
        Pieces {
            segments: self.segments,
            // A chain has less than 2^32 bytes.
            skip: self.skip.saturating_add(bytes),
            left: self.bytes.saturating_sub(bytes),
        }
    }
}

/// Iterator of [`Payload::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    segments: &'a [Segment],
    skip: u32,
    left: u32,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        while self.left > 0 {
            let (segment, rest) = self.segments.split_first()?;
            self.segments = rest;
            let skip = self.skip.min(segment.len);
            self.skip -= skip;
            let len = (segment.len - skip).min(self.left);
            if len > 0 {
                self.left -= len;
                // The sum does not wrap: bytes are only skipped where a header was read before
                // them, and `read_header` refuses a buffer that wraps.
                let addr = segment.addr.checked_add(u64::from(skip));
                return Some(Piece {
                    addr: addr.unwrap_or(GuestAddr(u64::MAX)),
                    len,
                });
            }
        }
        None
    }
}

/// A request whose parts were found.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub kind: RequestType,
    /// The `ioprio` field, for [`crate::priority::Priority::grant`].
    pub ioprio: u32,
    /// The `sector` field; means something for reads and writes only.
    pub sector: Sector,
    /// What the driver gives.
    pub data_out: Payload<'a>,
    /// What the driver wants to get.
    pub data_in: Payload<'a>,
    /// Where the status byte goes.
    pub status: GuestAddr,
}

/// A chain that holds no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest {
    /// Where a status byte can be written all the same; the chain is given back without one
    /// otherwise.
    pub status: Option<GuestAddr>,
}

impl<'a> Request<'a> {
    /// Finds the parts of the request in `chain` and reads its header.
    ///
    /// # Errors
    ///
    /// [`NotARequest`] when readable buffers follow writable ones, when there is no room for a
    /// header or a status byte, or when the header can't be read.
    pub fn parse<R, C>(
        chain: &Chain<'a>,
        table: &MemoryTable<R>,
        memory: &C,
    ) -> Result<Self, NotARequest>
    where
        R: DerefMut<Target = [Region]>,
        C: CopyIn,
    {
        let refused = NotARequest {
            status: chain.last_writable_byte(),
        };
        if !chain.ordered() {
            return Err(refused);
        }
        let status = refused.status.ok_or(refused)?;
        let data_out_bytes = chain
            .readable_bytes()
            .checked_sub(HEADER_BYTES as u32)
            .ok_or(refused)?;
        let data_in_bytes = chain.writable_bytes().checked_sub(1).ok_or(refused)?;

        let mut header = [0; HEADER_BYTES];
        read_header(chain.readable(), table, memory, &mut header).ok_or(refused)?;
        let [t0, t1, t2, t3, p0, p1, p2, p3, s0, s1, s2, s3, s4, s5, s6, s7] = header;

        Ok(Self {
            kind: RequestType::from(u32::from_le_bytes([t0, t1, t2, t3])),
            ioprio: u32::from_le_bytes([p0, p1, p2, p3]),
            sector: Sector(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
            data_out: Payload {
                segments: chain.readable(),
                skip: HEADER_BYTES as u32,
                bytes: data_out_bytes,
            },
            data_in: Payload {
                segments: chain.writable(),
                skip: 0,
                bytes: data_in_bytes,
            },
            status,
        })
    }

    /// What to do for this request on a disk like `disk`.
    #[inline]
    pub fn action(&self, disk: &Disk) -> Action<'a> {
        match self.kind {
            RequestType::In => match disk.check(self.sector, self.data_in.bytes.into()) {
                Ok(()) if self.data_in.bytes == 0 => Action::Answer(Status::Ok),
                Ok(()) => Action::Read {
                    sector: self.sector,
                    data: self.data_in,
                },
                Err(OutsideDisk) => Action::Answer(Status::IoError),
            },
            RequestType::Out if disk.read_only => Action::Answer(Status::IoError),
            RequestType::Out => match disk.check(self.sector, self.data_out.bytes.into()) {
                Ok(()) if self.data_out.bytes == 0 => Action::Answer(Status::Ok),
                Ok(()) => Action::Write {
                    sector: self.sector,
                    data: self.data_out,
                },
                Err(OutsideDisk) => Action::Answer(Status::IoError),
            },
            RequestType::Flush => Action::Flush,
            RequestType::GetId => Action::GetId { data: self.data_in },
            RequestType::Ranges(op) => self.ranges(op, disk),
            RequestType::Unsupported(_) => Action::Answer(Status::Unsupported),
        }
    }

    fn ranges(&self, op: RangeOp, disk: &Disk) -> Action<'a> {
        if !disk.range_ops.has(op) {
            return Action::Answer(Status::Unsupported);
        }
        // Linux's driver, up to 7.2 at least, gives the ranges to erase in a buffer that the device
        // may write: it goes by the type's lowest bit, and this is the one even type that gives
        // something. That a device should not read such a buffer (virtio 1.2, 2.7.5.1) is no
        // reason to fail the only driver that asks for it.
        let data = match op {
            RangeOp::SecureErase if self.data_out.bytes == 0 => self.data_in,
            _ => self.data_out,
        };
        let whole = data.bytes > 0 && data.bytes % RANGE_BYTES as u32 == 0;
        if disk.read_only || !whole || data.bytes > (MAX_RANGES * RANGE_BYTES) as u32 {
            return Action::Answer(Status::IoError);
        }
        Action::Ranges { op, data }
    }

    /// The length for the used entry, when the first `data_bytes` of the data were written and
    /// then the status byte.
    ///
    /// "The device MUST write at least len bytes to descriptor, beginning at the first
    /// device-writable buffer" (virtio 1.2, 2.7.8.2): the status byte counts only if there is no
    /// gap before it.
    #[inline]
    pub fn used_len(&self, data_bytes: u32) -> u32 {
        if data_bytes >= self.data_in.bytes {
            self.data_in.bytes.saturating_add(1)
        } else {
            data_bytes
        }
    }
}

/// Gathers the first bytes of `segments`, which may be cut anywhere. `None` when they can't be
/// read.
fn read_header<R, C>(
    segments: &[Segment],
    table: &MemoryTable<R>,
    memory: &C,
    header: &mut [u8; HEADER_BYTES],
) -> Option<()>
where
    R: DerefMut<Target = [Region]>,
    C: CopyIn,
{
    // All of it in the first buffer is the rule, and nothing behind it.
    if let Some(first) = segments.first() {
        if first.len as usize == HEADER_BYTES {
            return table.read(memory, first.addr, header).ok();
        }
    }
    gather_header(segments, table, memory, header)
}

#[cold]
fn gather_header<R, C>(
    segments: &[Segment],
    table: &MemoryTable<R>,
    memory: &C,
    header: &mut [u8; HEADER_BYTES],
) -> Option<()>
where
    R: DerefMut<Target = [Region]>,
    C: CopyIn,
{
    let mut rest = header.as_mut_slice();
    for segment in segments {
        if rest.is_empty() {
            break;
        }
        // Data may follow in the same buffer, which must not wrap there either.
        let span = u64::from(segment.len.checked_sub(1)?);
        segment.addr.checked_add(span)?;
        let (now, later) = rest.split_at_mut_checked(rest.len().min(segment.len as usize))?;
        table.read(memory, segment.addr, now).ok()?;
        rest = later;
    }
    rest.is_empty().then_some(())
}

/// What of a disk decides over a request.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Capacity in sectors of 512 bytes, now.
    pub sectors: u64,
    /// Logical block size in bytes: the unit of reads and writes.
    pub block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What can be done with ranges.
    pub range_ops: RangeOps,
}

/// A range that is not on the disk, or not made of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideDisk;

impl Disk {
    /// Checks that `bytes` bytes from `sector` on are whole blocks within the disk.
    ///
    /// # Errors
    ///
    /// [`OutsideDisk`].
    #[inline]
    pub fn check(&self, sector: Sector, bytes: u64) -> Result<(), OutsideDisk> {
        let start = sector.0.checked_mul(SECTOR_SIZE).ok_or(OutsideDisk)?;
        let end = start.checked_add(bytes).ok_or(OutsideDisk)?;
        let block = u64::from(self.block_size).max(SECTOR_SIZE);
        // Two divisions otherwise: block sizes are powers of two wherever they come from a disk.
        let misaligned = if block.is_power_of_two() {
            (start | end) & (block - 1) != 0
        } else {
            start % block != 0 || end % block != 0
        };
        if misaligned || end / SECTOR_SIZE > self.sectors {
            return Err(OutsideDisk);
        }
        Ok(())
    }
}

/// What to do for a request. Everything that can be judged without the disk was judged.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Fill `data`, which is not empty, from the disk.
    Read {
        /// First sector.
        sector: Sector,
        /// Where the data goes.
        data: Payload<'a>,
    },
    /// Write `data`, which is not empty, to the disk.
    Write {
        /// First sector.
        sector: Sector,
        /// Where the data comes from.
        data: Payload<'a>,
    },
    /// Make all writes that were answered durable.
    Flush,
    /// Write the serial number to the beginning of `data`, padded with zeroes to [`ID_BYTES`].
    GetId {
        /// Where it goes; may be shorter.
        data: Payload<'a>,
    },
    /// Do something with ranges of sectors, which [`crate::range::Range::parse`] finds in `data`: one to
    /// [`MAX_RANGES`] of [`RANGE_BYTES`] each. All of them must be good before any is acted on.
    Ranges {
        /// What to do.
        op: RangeOp,
        /// Where they are.
        data: Payload<'a>,
    },
    /// Nothing but the status byte.
    Answer(Status),
}

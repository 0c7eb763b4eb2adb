// SPDX-License-Identifier: GPL-2.0

//! Finds the request in a chain, and decides what the disk is to do for it (virtio 1.2, 5.2.6).
//!
//! A request is a header that the device reads, data one way or the other, and a status byte that
//! the device writes last. The driver may cut these into buffers as it likes: only the order of
//! the bytes counts.
//!
//! ```
//! use vblk_core::{
//!     addr::{GuestAddr, Sector},
//!     chain::Segment,
//!     disk::{Disk, RangeOps},
//!     queue::Popped,
//!     request::{Action, Request, RequestType},
//!     ring::{Avail, Base},
//!     table::TableMemory,
//!     testing::{BlockRequest, Driver, Layout, Ram},
//! };
//!
//! let (ram, layout) = (Ram::new(0x10000), Layout::with_size(8, GuestAddr(0x1000)));
//! let mut driver = Driver::new(&ram, layout, false);
//! let (header, status) = (GuestAddr(0x4000), GuestAddr(0x4010));
//! let read = BlockRequest::read(8, header, status).data(GuestAddr(0x5000), 4096);
//! read.prepare(&ram);
//! driver.add(&read.buffers());
//! driver.publish();
//!
//! let ring = ram.ring(&layout);
//! let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
//! let Ok(Popped::Chain(head)) = avail.pop(&ring, || 0) else {
//!     panic!("the chain is there");
//! };
//! let memory = TableMemory { table: &ram.table(), memory: &ram };
//! let mut segments = [Segment::default(); 8];
//! let chain = ring.walk(head, false, &memory, &mut segments).unwrap();
//! let request = Request::parse(&chain, &memory).unwrap();
//! assert_eq!((request.kind, request.status), (RequestType::In, status));
//!
//! let range_ops = RangeOps::default();
//! let disk = Disk { sectors: 1024, block_size: 512, read_only: false, range_ops };
//! match request.action(&disk) {
//!     Action::Read { sector, data } => assert_eq!((sector, data.bytes()), (Sector(8), 4096)),
//!     other => panic!("{other:?}"),
//! }
//! // With the status byte behind the data.
//! assert_eq!(request.used_len(4096), 4097);
//! ```

use crate::{
    addr::{
        GuestAddr,
        Sector, //
    },
    chain::{
        Chain,
        Segment, //
    },
    disk::{
        Disk,
        OutOfRange,
        RangeOp, //
    },
    memory::{
        Fault,
        ReadGuest, //
    },
    range::{
        MAX_RANGES,
        RANGE_BYTES, //
    },
};

pub use crate::{
    payload::{
        Payload,
        PayloadPosition,
        Piece,
        Pieces, //
    },
    status::Status, //
};

/// Bytes of `struct virtio_blk_outhdr`: type, priority and sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the answer to GET_ID (virtio 1.2, 5.2.6: "up to 20 bytes").
pub const ID_BYTES: usize = 20;

/// Operation that the driver asks for, from the `type` field.
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

/// A request whose parts were found.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Operation that is asked for.
    pub kind: RequestType,
    /// The `ioprio` field, for [`crate::priority::Priority::grant`].
    pub ioprio: u32,
    /// The `sector` field; means something for reads and writes only.
    pub sector: Sector,
    /// Data that the driver gives.
    pub data_out: Payload<'a>,
    /// Room for the data that the driver wants to get.
    pub data_in: Payload<'a>,
    /// Address of the status byte.
    pub status: GuestAddr,
}

/// A chain that holds no request, or none that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedRequest {
    /// Address at which a status byte can be written all the same. Without one, the chain is given
    /// back with no status.
    pub status: Option<GuestAddr>,
    /// Reason for the refusal.
    pub cause: MalformedCause,
}

/// Reason for a [`MalformedRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedCause {
    /// The guest made a mistake.
    Malformed,
    /// The host could not read the header: the host's failure.
    HeaderInaccessible,
}

impl<'a> Request<'a> {
    /// Finds the parts of the request in `chain` and reads its header.
    ///
    /// # Errors
    ///
    /// [`MalformedRequest`] when readable buffers follow writable ones, when there is no room for
    /// a header or a status byte, or when the header can't be read.
    pub fn parse(chain: &Chain<'a>, memory: &impl ReadGuest) -> Result<Self, MalformedRequest> {
        let refused = |cause| MalformedRequest {
            status: chain.last_writable_byte(),
            cause,
        };
        let malformed = refused(MalformedCause::Malformed);
        if !chain.ordered() {
            return Err(malformed);
        }
        let status = malformed.status.ok_or(malformed)?;
        let data_out_bytes = chain
            .readable_bytes()
            .checked_sub(HEADER_BYTES as u32)
            .ok_or(malformed)?;
        let data_in_bytes = chain.writable_bytes().checked_sub(1).ok_or(malformed)?;

        let mut header = [0; HEADER_BYTES];
        read_header(chain.readable(), memory, &mut header).map_err(|fault| match fault {
            Fault::OutsideTable => malformed,
            Fault::Inaccessible => refused(MalformedCause::HeaderInaccessible),
        })?;
        let [t0, t1, t2, t3, p0, p1, p2, p3, s0, s1, s2, s3, s4, s5, s6, s7] = header;

        Ok(Self {
            kind: RequestType::from(u32::from_le_bytes([t0, t1, t2, t3])),
            ioprio: u32::from_le_bytes([p0, p1, p2, p3]),
            sector: Sector(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
            // INVARIANT: one side of the chain each.
            data_out: Payload::new(chain.readable(), HEADER_BYTES as u32, data_out_bytes),
            data_in: Payload::new(chain.writable(), 0, data_in_bytes),
            status,
        })
    }

    /// Decides what to do for this request on a disk like `disk`.
    #[inline(always)]
    pub fn action(&self, disk: &Disk) -> Action<'a> {
        match self.kind {
            RequestType::In => match disk.check(self.sector, self.data_in.bytes().into()) {
                Ok(()) if self.data_in.bytes() == 0 => Action::Answer(Status::Ok),
                Ok(()) => Action::Read {
                    sector: self.sector,
                    data: self.data_in,
                },
                Err(OutOfRange) => Action::Answer(Status::IoError),
            },
            RequestType::Out if disk.read_only => Action::Answer(Status::IoError),
            RequestType::Out => match disk.check(self.sector, self.data_out.bytes().into()) {
                Ok(()) if self.data_out.bytes() == 0 => Action::Answer(Status::Ok),
                Ok(()) => Action::Write {
                    sector: self.sector,
                    data: self.data_out,
                },
                Err(OutOfRange) => Action::Answer(Status::IoError),
            },
            RequestType::Flush => Action::Flush,
            RequestType::GetId => Action::GetId { data: self.data_in },
            RequestType::Ranges(op) => ranges(op, self.data_out, self.data_in, *disk),
            RequestType::Unsupported(_) => Action::Answer(Status::Unsupported),
        }
    }

    /// Returns the length for the used entry, when the first `data_bytes` of the data were written
    /// and then the status byte.
    ///
    /// "The device MUST write at least len bytes to descriptor, beginning at the first
    /// device-writable buffer" (virtio 1.2, 2.7.8.2): the status byte counts only if there is no
    /// gap before it.
    #[inline]
    pub fn used_len(&self, data_bytes: u32) -> u32 {
        if data_bytes >= self.data_in.bytes() {
            self.data_in.bytes().saturating_add(1)
        } else {
            data_bytes
        }
    }
}

/// Decides what to do for a request on ranges.
// By value, as all that seldom happens: a reference would keep the others out of registers.
#[cold]
fn ranges<'a>(op: RangeOp, data_out: Payload<'a>, data_in: Payload<'a>, disk: Disk) -> Action<'a> {
    if !disk.range_ops.has(op) {
        return Action::Answer(Status::Unsupported);
    }
    // Linux's driver, up to 7.2 at least, gives the ranges to erase in a buffer that the device
    // may write: it goes by the type's lowest bit, and this is the one even type that gives
    // something. That a device should not read such a buffer (virtio 1.2, 2.7.5.1) is no
    // reason to fail the only driver that asks for it.
    let data = match op {
        RangeOp::SecureErase if data_out.bytes() == 0 => data_in,
        _ => data_out,
    };
    let whole = data.bytes() > 0 && data.bytes() % RANGE_BYTES as u32 == 0;
    if disk.read_only || !whole || data.bytes() > (MAX_RANGES * RANGE_BYTES) as u32 {
        return Action::Answer(Status::IoError);
    }
    Action::Ranges { op, data }
}

/// Reads the first bytes of `segments`, which may be cut anywhere.
///
/// # Errors
///
/// [`Fault`]; [`Fault::OutsideTable`] also when there are too few bytes.
fn read_header(
    segments: &[Segment],
    memory: &impl ReadGuest,
    header: &mut [u8; HEADER_BYTES],
) -> Result<(), Fault> {
    // All of it in the first buffer is the rule, and nothing behind it.
    if let Some(first) = segments.first() {
        if first.len as usize == HEADER_BYTES {
            return memory.read(first.addr, header);
        }
    }
    gather_header(segments, memory, header)
}

#[cold]
fn gather_header(
    segments: &[Segment],
    memory: &impl ReadGuest,
    header: &mut [u8; HEADER_BYTES],
) -> Result<(), Fault> {
    let mut rest = header.as_mut_slice();
    for segment in segments {
        if rest.is_empty() {
            break;
        }
        // Data may follow in the same buffer, which must not wrap there either.
        let span = u64::from(segment.len.saturating_sub(1));
        segment.addr.checked_add(span).ok_or(Fault::OutsideTable)?;
        let (now, later) = rest
            .split_at_mut_checked(rest.len().min(segment.len as usize))
            .ok_or(Fault::OutsideTable)?;
        memory.read(segment.addr, now)?;
        rest = later;
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(Fault::OutsideTable),
    }
}

/// The work that a request asks for, with everything checked that can be checked without the disk.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Fill `data`, which is not empty, from the disk.
    Read {
        /// First sector.
        sector: Sector,
        /// Room for the data.
        data: Payload<'a>,
    },
    /// Write `data`, which is not empty, to the disk.
    Write {
        /// First sector.
        sector: Sector,
        /// The data.
        data: Payload<'a>,
    },
    /// Make all writes that were answered durable.
    Flush,
    /// Write the serial number to the beginning of `data`, padded with zeroes to [`ID_BYTES`].
    GetId {
        /// Room for it; may be shorter.
        data: Payload<'a>,
    },
    /// Do `op` with ranges of sectors, which [`crate::range::Range::parse`] decodes from `data`: one
    /// to [`MAX_RANGES`] of [`RANGE_BYTES`] each. All of them must be good before any is acted on.
    Ranges {
        /// Operation.
        op: RangeOp,
        /// The ranges.
        data: Payload<'a>,
    },
    /// Nothing but the status byte.
    Answer(Status),
}

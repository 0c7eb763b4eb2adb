// SPDX-License-Identifier: GPL-2.0

//! The data of a request, as it lies in the buffers of a chain.
//!
//! Users get a [`Payload`] with a request ([`crate::request::Action`]) and take its pieces to the
//! memory table. Nothing here reads guest memory.
//!
//! ```
//! use vblk_core::{
//!     addr::GuestAddr,
//!     chain::Segment,
//!     queue::Popped,
//!     request::{Piece, Request},
//!     ring::{Avail, Base},
//!     table::TableMemory,
//!     testing::{cut, BlockRequest, Driver, Layout, Ram},
//! };
//!
//! let (ram, layout) = (Ram::new(0x10000), Layout::with_size(8, GuestAddr(0x1000)));
//! let mut driver = Driver::new(&ram, layout, false);
//! let (header, status) = (GuestAddr(0x4000), GuestAddr(0x4010));
//! let write = BlockRequest::write(0, header, status).data(GuestAddr(0x5000), 512);
//! write.prepare(&ram);
//! // The header's last bytes and 500 of the data in buffers of their own.
//! driver.add(&cut(&write.buffers(), &[8, 516]));
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
//! let data = Request::parse(&chain, &memory).unwrap().data_out;
//! let pieces: Vec<_> = data.pieces().collect();
//! assert_eq!(pieces[0], Piece { addr: GuestAddr(0x5000), len: 500 });
//! assert_eq!(pieces[1], Piece { addr: GuestAddr(0x51f4), len: 12 });
//! // What is left when the first 500 bytes are done.
//! assert!(data.pieces_after(500).eq([pieces[1]]));
//! ```

use crate::{
    addr::GuestAddr,
    chain::{
        Segment,
        StoredChain, //
    },
};

/// The data of a request: some bytes from the middle of a list of buffers.
///
/// # Invariants
///
/// The buffers are the readable ones of a chain, or the writable ones.
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
    /// Creates the payload of `bytes` bytes that begins `skip` bytes into `segments`, which are one
    /// side of a chain.
    #[inline]
    pub(crate) fn new(segments: &'a [Segment], skip: u32, bytes: u32) -> Self {
        // INVARIANT: the caller gives one side of a chain.
        Self {
            segments,
            skip,
            bytes,
        }
    }

    /// Returns the length in bytes.
    #[inline]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Returns the parts, in order. They add up to [`Self::bytes`].
    #[inline]
    pub fn pieces(&self) -> Pieces<'a> {
        self.pieces_after(0)
    }

    /// Returns the parts of what is left after the first `bytes` bytes.
    #[inline]
    pub fn pieces_after(&self, bytes: u32) -> Pieces<'a> {
        Pieces {
            segments: self.segments,
            // A chain has less than 2^32 bytes.
            skip: self.skip.saturating_add(bytes),
            left: self.bytes.saturating_sub(bytes),
        }
    }

    /// Returns the payload without the buffers, for [`StoredChain::payload`].
    #[inline]
    pub fn position(&self) -> PayloadPosition {
        PayloadPosition {
            writable: self.segments.first().is_some_and(|first| first.writable),
            skip: self.skip,
            bytes: self.bytes,
        }
    }
}

/// The place of a [`Payload`] in its chain, without borrowing the buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadPosition {
    /// True if the data lies in the writable buffers; otherwise it lies in the readable ones.
    pub writable: bool,
    /// Bytes in these buffers before the data.
    pub skip: u32,
    /// Length in bytes.
    pub bytes: u32,
}

impl StoredChain {
    /// Returns the payload at a position again.
    ///
    /// `segments` must hold what the chain was read into, and `at` must be the position of a
    /// payload of the same chain. Otherwise the pieces of the payload mean nothing and may be fewer
    /// than its bytes; when `segments` is too short for the chain, the payload is empty.
    #[inline]
    pub fn payload<'a>(&self, segments: &'a [Segment], at: PayloadPosition) -> Payload<'a> {
        match self.split(segments) {
            Some((readable, writable)) => {
                let side = if at.writable { writable } else { readable };
                Payload::new(side, at.skip, at.bytes)
            }
            None => Payload::new(&[], 0, 0),
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

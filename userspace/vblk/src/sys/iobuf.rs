// SPDX-License-Identifier: GPL-2.0

//! Memory for the disk to read from or write to: the guest's own, or a bounce buffer.
//!
//! Both kinds keep what they point to alive. There is no `unsafe` here, but [`super::uring`]
//! relies on the pieces to stay valid for as long as the buffer exists.

use std::{ops::Range, sync::Arc};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// Bytes of the memory pages that bounce buffers are made of; no disk wants a larger alignment.
const PAGE: usize = 4096;
/// Room for pieces that a buffer keeps when it is emptied.
const KEPT_PIECES: usize = 64;

/// A part of a buffer is not guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;

/// A list of pieces of guest memory.
///
/// # Invariants
///
/// Each piece lies within `memory`, which is never unmapped while the buffer exists.
pub struct GuestBuffer {
    memory: Arc<GuestMemoryMmap>,
    pieces: Vec<libc::iovec>,
    /// Pieces before this one are done with.
    first: usize,
}

impl GuestBuffer {
    /// An empty list.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        Self {
            memory,
            pieces: Vec::new(),
            first: 0,
        }
    }

    /// Forgets all pieces, and the memory for long lists of them.
    pub fn clear(&mut self) {
        self.first = 0;
        self.pieces.clear();
        self.pieces.shrink_to(KEPT_PIECES);
    }

    /// Appends `len` bytes from `addr` on, in several pieces where regions of memory meet.
    ///
    /// # Errors
    ///
    /// [`NotMemory`] when any of them is outside guest memory; some may have been appended then.
    pub fn push(&mut self, addr: GuestAddress, len: usize) -> Result<(), NotMemory> {
        for slice in self.memory.get_slices(addr, len) {
            let slice = slice.map_err(|_| NotMemory)?;
            // INVARIANT: The slice is a part of a mapping that `memory` holds.
            self.pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        Ok(())
    }

    /// Returns whether each piece begins at a multiple of `align` and is a multiple of `block`
    /// long, both powers of two.
    pub fn is_aligned(&self, align: u32, block: u32) -> bool {
        let (align, block) = (align.max(1) as usize, block.max(1) as usize);
        self.pieces.iter().all(|piece| {
            (piece.iov_base as usize) & (align - 1) == 0 && piece.iov_len & (block - 1) == 0
        })
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len() - self.first
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.pieces.get_mut(self.first) {
            let step = bytes.min(piece.iov_len);
            // INVARIANT: Both ends stay within the piece.
            piece.iov_base = piece.iov_base.wrapping_byte_add(step);
            piece.iov_len -= step;
            bytes -= step;
            if piece.iov_len > 0 {
                return;
            }
            self.first += 1;
        }
    }
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Memory of this process that is aligned for every disk.
pub struct Bounce {
    pages: Box<[Page]>,
    /// The part in use, as the only piece.
    piece: [libc::iovec; 1],
}

impl Bounce {
    /// A buffer of at least `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let mut pages = vec![Page([0; PAGE]); bytes.div_ceil(PAGE)].into_boxed_slice();
        let piece = [libc::iovec {
            iov_base: pages.as_mut_ptr().cast(),
            iov_len: 0,
        }];
        Self { pages, piece }
    }

    /// Length in bytes.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Chooses the part to read into or to write from; cut to what there is.
    pub fn set_range(&mut self, range: Range<usize>) {
        let end = range.end.min(self.capacity());
        let start = range.start.min(end);
        let base: *mut u8 = self.pages.as_mut_ptr().cast();
        self.piece = [libc::iovec {
            iov_base: base.wrapping_add(start).cast(),
            iov_len: end - start,
        }];
    }

    /// Copies guest memory to position `at`; as much as there is room for.
    pub fn fill(&mut self, at: usize, from: &VolatileSlice<'_>) {
        let mut rest = self.bytes_mut().get_mut(at..).unwrap_or_default();
        let len = rest.len().min(from.len());
        rest = &mut rest[..len];
        from.copy_to(rest);
    }

    /// Copies to guest memory from position `at`; as much as there is.
    pub fn drain(&mut self, at: usize, to: &VolatileSlice<'_>) {
        let rest = self.bytes_mut().get(at..).unwrap_or_default();
        to.copy_from(&rest[..rest.len().min(to.len())]);
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.capacity();
        // SAFETY: The pages are `bytes` initialised bytes in a row without padding, and borrowed
        // for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), bytes) }
    }
}

/// The memory that an operation works on.
pub enum Buffer {
    /// Guest memory, without copying.
    Guest(GuestBuffer),
    /// Memory of this process.
    Bounce(Bounce),
    /// Nothing.
    Empty,
}

impl Buffer {
    /// Returns the pieces that are left, in order.
    pub(super) fn pieces(&self) -> &[libc::iovec] {
        match self {
            Self::Guest(guest) => &guest.pieces[guest.first..],
            Self::Bounce(bounce) => &bounce.piece,
            Self::Empty => &[],
        }
    }

    /// Leaves out the next `bytes` bytes.
    pub fn advance(&mut self, bytes: usize) {
        match self {
            Self::Guest(guest) => guest.advance(bytes),
            Self::Bounce(bounce) => {
                let [piece] = &mut bounce.piece;
                let step = bytes.min(piece.iov_len);
                piece.iov_base = piece.iov_base.wrapping_byte_add(step);
                piece.iov_len -= step;
            }
            Self::Empty => {}
        }
    }
}

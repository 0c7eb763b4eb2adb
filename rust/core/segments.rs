// SPDX-License-Identifier: GPL-2.0

//! Decides where the memory of an I/O can be cut.
//!
//! The block layer cuts an I/O that has more segments than its device takes, or a gap between two of
//! them. Each part must have whole blocks, and an I/O without such a place fails
//! (`bio_split_io_at()`). Guests know nothing of these limits: virtio has no field for them.

/// Bytes of the shortest segment that each device takes in one.
const PAGE: u32 = 4096;

/// Limits the segments of one I/O on a device, as in `struct queue_limits`, <linux/blkdev.h>.
#[derive(Clone, Copy, Debug)]
pub struct SegmentLimits {
    /// Most segments, at least one.
    pub most: u32,
    /// The bits of an address that must be 0 where a segment begins behind another one, and where
    /// one ends before another; 0 if gaps are no matter.
    pub virt_boundary_mask: u64,
}

impl SegmentLimits {
    /// Returns whether memory can be cut for blocks of `block` bytes, a power of two, by all that is
    /// known of it: its addresses and lengths have none of the lowest bits that are 0 in `alignment`.
    #[inline]
    pub fn take_all(&self, block: u32, alignment: u32) -> bool {
        let unit = 1 << alignment.trailing_zeros().min(PAGE.trailing_zeros());
        u64::from(alignment) & self.virt_boundary_mask == 0 && block / unit <= self.most
    }

    /// Returns whether each block of `block` bytes can be an I/O of its own. `vectors` are offsets in
    /// pages and lengths, each of memory that is contiguous.
    pub fn keep_blocks_whole(
        &self,
        block: u32,
        vectors: impl IntoIterator<Item = (u32, u32)>,
    ) -> bool {
        // Bytes and segments of the block that was begun, and where the last segment ended.
        let (mut bytes, mut segments, mut end) = (0, 0, 0);
        for (offset, len) in vectors {
            let is_gap = u64::from(offset | end) & self.virt_boundary_mask != 0;
            if is_gap && bytes > 0 {
                return false;
            }
            end = offset.saturating_add(len);
            let mut at = offset;
            while at < end {
                // One for each page, which is the most that there can be.
                let now = (PAGE - at % PAGE).min(end - at);
                segments = if bytes > 0 { segments + 1 } else { 1 };
                if segments > self.most {
                    return false;
                }
                at += now;
                bytes += now;
                if bytes >= block {
                    // The rest of the segment begins a block.
                    bytes &= block.wrapping_sub(1);
                    segments = 1;
                }
            }
        }
        true
    }
}

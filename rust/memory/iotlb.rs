// SPDX-License-Identifier: GPL-2.0

//! The memory that the user of a vDPA device mapped for it, by IO virtual address (IOVA).
//!
//! Queues do not look here: each has a table of what was mapped, and takes a new one when it looks
//! for chains after something was mapped. What is unmapped must be taken from them.

use super::pinned_table::PinnedTable;
use crate::sys::{
    gfp_user_sized,
    mapped_pages::MappedPages,
    read_once, //
};
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
};
use vblk_core::addr::GuestAddr;

/// The mappings of a device.
#[pin_data]
pub(crate) struct Iotlb {
    /// Grows with each change. Changed under the lock.
    version: Atomic<u64>,
    /// A table of nothing, which is of no version.
    nothing: Arc<PinnedTable>,
    #[pin]
    mappings: Mutex<Mappings>,
}

struct Mappings {
    /// By the first IOVA. They do not overlap, and none reaches beyond the last IOVA.
    by_start: RBTree<u64, Arc<MappedPages>>,
    /// The table of just these mappings, if it was asked for.
    table: Option<Arc<PinnedTable>>,
}

impl Mappings {
    /// Returns the first IOVA of the last mapping that begins at or before `last` and ends at or
    /// after `first`.
    fn overlapping(&self, first: u64, last: u64) -> Option<u64> {
        // The one before the first that begins behind `last`.
        let before = match last.checked_add(1) {
            Some(behind) => match self.by_start.cursor_lower_bound(&behind) {
                Some(cursor) => cursor.peek_prev().map(ends),
                None => self.by_start.cursor_back().map(|it| ends(it.current())),
            },
            None => self.by_start.cursor_back().map(|it| ends(it.current())),
        };
        before
            .filter(|(_, end)| *end >= first)
            .map(|(start, _)| start)
    }
}

/// Returns the first and the last IOVA of a mapping.
fn ends((start, pages): (&u64, &Arc<MappedPages>)) -> (u64, u64) {
    (*start, start.saturating_add(pages.bytes() - 1))
}

/// Mappings that were taken away. The last one to drop them unpins them, which may sleep.
pub(crate) struct Unmapped(RBTree<u64, Arc<MappedPages>>);

impl Unmapped {
    /// Sleeps until no I/O uses it. No queue may have it any more.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn wait_until_unused(&self) -> Result {
        self.0
            .values()
            .try_for_each(|pages| pages.wait_until_unused())
    }
}

impl Iotlb {
    /// Creates one without mappings.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let nothing = PinnedTable::of_mapped(core::iter::empty(), u64::MAX)?;
        let nothing = Arc::new(nothing, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                version: Atomic::new(0),
                nothing,
                mappings <- new_mutex!(
                    Mappings {
                        by_start: RBTree::new(),
                        table: None,
                    },
                    "Iotlb::mappings"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the number of changes so far.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        read_once(&self.version)
    }

    /// Returns a table of nothing: a queue that has it takes one of what is mapped when it looks for
    /// chains. So unmapping much piece by piece makes no table for each of them.
    pub(crate) fn nothing(&self) -> Arc<PinnedTable> {
        self.nothing.clone()
    }

    /// Maps pages at `start`.
    ///
    /// # Errors
    ///
    /// EEXIST when something is mapped there; EINVAL when they reach beyond the last IOVA; ENOMEM.
    pub(crate) fn map(&self, start: GuestAddr, pages: MappedPages) -> Result {
        let last = start.0.checked_add(pages.bytes() - 1).ok_or(EINVAL)?;
        let pages = Arc::new(pages, gfp_user_sized())?;
        let node = RBTreeNode::new(start.0, pages, gfp_user_sized())?;
        let mut mappings = self.mappings.lock();
        if mappings.overlapping(start.0, last).is_some() {
            drop(mappings);
            return Err(EEXIST);
        }
        mappings.by_start.insert(node);
        self.change(&mut mappings);
        Ok(())
    }

    /// Unmaps what touches the range from `first` to `last`. Queues may still have it.
    pub(crate) fn unmap(&self, first: GuestAddr, last: GuestAddr) -> Unmapped {
        let mut unmapped = Unmapped(RBTree::new());
        let mut mappings = self.mappings.lock();
        // Ends: each turn takes a mapping away.
        while let Some(start) = mappings.overlapping(first.0, last.0) {
            if let Some(mapping) = mappings.by_start.remove_node(&start) {
                unmapped.0.insert(mapping);
            }
            self.change(&mut mappings);
        }
        unmapped
    }

    /// Returns whether nothing is mapped.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.lock().by_start.is_empty()
    }

    /// Notes a change. The table of before goes.
    fn change(&self, mappings: &mut Mappings) {
        // Queues may have it: nothing is unpinned here.
        mappings.table = None;
        self.version.add(1, Relaxed);
    }

    /// Returns the table of what is mapped now.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn table(&self) -> Result<Arc<PinnedTable>> {
        let mappings = &mut *self.mappings.lock();
        if let Some(table) = &mappings.table {
            return Ok(table.clone());
        }
        let mapped = mappings
            .by_start
            .iter()
            .map(|(start, pages)| Ok((GuestAddr(*start), pages.clone())));
        let table = PinnedTable::of_mapped(mapped, self.version())?;
        let table = Arc::new(table, gfp_user_sized())?;
        mappings.table = Some(table.clone());
        Ok(table)
    }
}

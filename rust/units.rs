// SPDX-License-Identifier: GPL-2.0

//! The memory for the I/Os of a queue: allocated when the queue starts, then used again and again.

use crate::{
    completion::Completion,
    sys::{
        bio::{
            Idle,
            Spent, //
        },
        block_file::BlockFile, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::queue::QueueSize;

/// Most ordinary I/Os of a queue at a time. A longer ring waits: its requests are no slower for it.
const MOST_SMALL: usize = 1024;

/// Most large I/Os of a queue at a time, each of up to 1 MiB. Bounds how much guest memory is
/// pinned; allocated when first needed.
const MOST_LARGE: usize = 32;

/// How many I/Os a queue of that size can have.
pub(crate) fn most_units(size: QueueSize) -> usize {
    most_small(size) + MOST_LARGE
}

fn most_small(size: QueueSize) -> usize {
    usize::from(size.get()).min(MOST_SMALL)
}

/// The I/Os of a queue that are not under way.
pub(crate) struct Units {
    completion: Arc<Completion>,
    file: Arc<BlockFile>,
    small: KVec<Idle<Completion>>,
    large: KVec<Idle<Completion>>,
    large_allocated: usize,
    /// Empty; room to exchange for the finished ones.
    exchange: KVec<Spent<Completion>>,
}

impl Units {
    /// Allocates what a queue of that size needs.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(
        size: QueueSize,
        completion: Arc<Completion>,
        file: Arc<BlockFile>,
    ) -> Result<Self> {
        let count = most_small(size);
        let mut small = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            let unit = Idle::new(file.clone(), completion.clone(), false)?;
            small.push(unit, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            completion,
            file,
            small,
            large: KVec::with_capacity(MOST_LARGE, GFP_KERNEL_ACCOUNT)?,
            large_allocated: 0,
            exchange: KVec::with_capacity(most_units(size), GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Those of one kind that wait for a request.
    #[inline]
    fn idle(&mut self, large: bool) -> &mut KVec<Idle<Completion>> {
        if large {
            &mut self.large
        } else {
            &mut self.small
        }
    }

    /// Takes one. Sleeps until one is free.
    ///
    /// # Errors
    ///
    /// ENOMEM when there is no large one at all, and no memory for one.
    #[inline]
    pub(crate) fn take(&mut self, large: bool) -> Result<Idle<Completion>> {
        match self.idle(large).pop() {
            Some(unit) => Ok(unit),
            None => self.wait(large),
        }
    }

    #[cold]
    fn wait(&mut self, large: bool) -> Result<Idle<Completion>> {
        loop {
            if let Some(unit) = self.idle(large).pop() {
                return Ok(unit);
            }
            if large && self.large_allocated < MOST_LARGE {
                match Idle::new(self.file.clone(), self.completion.clone(), true) {
                    Ok(unit) => {
                        self.large_allocated += 1;
                        return Ok(unit);
                    }
                    Err(error) if self.large_allocated == 0 => return Err(error),
                    // Those that there are come back.
                    Err(_) => (),
                }
            }
            self.completion.collect(&mut self.exchange);
            if self.exchange.is_empty() {
                // The guest must not wait for answers that wait for it.
                self.completion.announce();
                self.completion.collect_some(&mut self.exchange);
            }
            self.sort();
        }
    }

    /// Gives back one that was not used.
    pub(crate) fn put(&mut self, unit: Idle<Completion>) {
        // There is room for all that were allocated.
        let _ = self.idle(unit.is_large()).push_within_capacity(unit);
    }

    /// Takes finished I/Os back, also for their pins that only a thread can give up.
    pub(crate) fn tidy(&mut self) {
        self.completion.collect(&mut self.exchange);
        self.sort();
    }

    fn sort(&mut self) {
        while let Some(spent) = self.exchange.pop() {
            self.put(spent.into_idle());
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The queues that want to be served.
//!
//! Anyone marks a queue, in any context, and one worker takes the marks. A mark says only "look at
//! this queue": why it was made is found where the marker left it, in the ring or under a lock. So
//! marks may merge, but none may be lost.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
//! use vblk_core::ready::{AtomicBits, ReadySet};
//!
//! struct Bits(AtomicU64);
//!
//! impl AtomicBits for Bits {
//!     fn fetch_or(&self, bits: u64) -> u64 {
//!         self.0.fetch_or(bits, SeqCst)
//!     }
//!     fn take(&self) -> u64 {
//!         self.0.swap(0, SeqCst)
//!     }
//!     fn peek(&self) -> u64 {
//!         self.0.load(SeqCst)
//!     }
//! }
//!
//! let ready = ReadySet::new([Bits(AtomicU64::new(0))]);
//! // The first mark wakes the worker, which has not looked yet when the second comes.
//! assert!(ready.mark(3));
//! assert!(!ready.mark(3));
//! let mut served = Vec::new();
//! ready.take(|queue| served.push(queue));
//! assert_eq!(served, [3]);
//! assert!(!ready.any());
//! ```

/// 64 bits that are shared between threads. Each operation that changes them is a full barrier,
/// whatever it finds: see [`ReadySet::mark`].
pub trait AtomicBits {
    /// Sets `bits`. Returns what was set before.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Clears all bits. Returns what was set.
    fn take(&self) -> u64;
    /// Returns the bits, without ordering.
    fn peek(&self) -> u64;
}

const WORD_BITS: usize = u64::BITS as usize;

/// A set of queue numbers below `N` × 64.
pub struct ReadySet<B, const N: usize> {
    words: [B; N],
}

impl<B: AtomicBits, const N: usize> ReadySet<B, N> {
    /// Queues that there is room for.
    pub const QUEUES: usize = N * WORD_BITS;

    /// Creates a set from `words`, which are 0.
    pub const fn new(words: [B; N]) -> Self {
        Self { words }
    }

    /// Marks a queue. Returns whether the worker must be woken: the queue was not marked yet.
    ///
    /// The full barrier pairs with the one of [`Self::take`], also when the mark was there already:
    /// either the worker that takes that mark sees all that came before this call, or it had taken
    /// the mark, which is then set anew.
    #[inline]
    pub fn mark(&self, queue: usize) -> bool {
        let bit = 1 << (queue % WORD_BITS);
        self.words
            .get(queue / WORD_BITS)
            .is_some_and(|word| word.fetch_or(bit) & bit == 0)
    }

    /// Returns whether some queue is marked. Pairs, in a worker that is about to sleep, with the
    /// wake-up that follows a mark.
    #[inline]
    pub fn any(&self) -> bool {
        self.words.iter().any(|word| word.peek() != 0)
    }

    /// Takes all marks, and calls `serve` with the number of each queue.
    #[inline]
    pub fn take(&self, mut serve: impl FnMut(usize)) {
        for (number, word) in self.words.iter().enumerate() {
            if word.peek() == 0 {
                continue;
            }
            let mut bits = word.take();
            while bits != 0 {
                serve(number * WORD_BITS + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

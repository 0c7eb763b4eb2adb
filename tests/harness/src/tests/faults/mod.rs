// SPDX-License-Identifier: GPL-2.0

//! Each allocation, each pinned page, each copy from and to the owner fails once: what asked for it
//! fails cleanly, and works when it is tried again. What leaks is for the oracle and for kmemleak to
//! find.

mod ioctls;
mod loading;
mod requests;

pub use ioctls::TESTS as IOCTLS;
pub use loading::TESTS as LOADING;
pub use requests::TESTS as REQUESTS;

/// More things that can fail than any tested step has: where a sweep has gone astray.
const MOST: u32 = 5000;

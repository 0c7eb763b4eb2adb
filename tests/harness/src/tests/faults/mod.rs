// SPDX-License-Identifier: GPL-2.0

//! Each allocation, each pinned page, each copy from and to the owner fails once: what asked for it
//! fails cleanly, and works when it is tried again. What leaks is for the oracle and for kmemleak to
//! find.

mod fragmented;
mod ioctls;
mod loading;
mod requests;
mod vdpa;

pub use fragmented::TESTS as FRAGMENTED;
pub use ioctls::TESTS as IOCTLS;
pub use loading::TESTS as LOADING;
pub use requests::TESTS as REQUESTS;
pub use vdpa::TESTS as VDPA;

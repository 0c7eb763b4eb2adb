// SPDX-License-Identifier: GPL-2.0

//! Block devices to serve: made for a test, removed behind it.

mod block_device;
mod counts;
mod dm;
mod faults;
pub mod filesystem;
mod held;
mod image;
mod loopdev;
mod node;
mod null;
mod partition;
mod test_disk;

pub use block_device::Disk;
pub use counts::{complete_held_bios, Count, Counts, Hold};
pub use dm::{Delays, Target};
pub use faults::Injection;
pub use held::{held, still_held};
pub use node::{open, Mode, RAM, SECOND_RAM};
pub use null::NullBlk;
pub use test_disk::{TestDisk, ZeroesError, DISCARDED, ERASED};

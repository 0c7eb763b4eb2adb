// SPDX-License-Identifier: GPL-2.0

//! The fuzzer of the launcher's disks. It turns its input into a guest that accesses registers as
//! it likes, puts anything into its memory, and kicks. Behind the registers is the io_uring
//! back-end with a file, in its own thread, as in `vblk run`; only KVM is not there.
//!
//! An input is [`Control`] and then [`Step`]s as plain bytes, so that [`seeds`] can be made by the
//! model of a driver. What was found becomes a unit test with a name.

mod layout;
mod machine;
pub mod seeds;
mod step;
mod watch;

pub use step::{Control, Step};
use vblk::backend::Stats;

use machine::Machine;
use vblk_core::testing::Input;

/// More steps show nothing new.
const MOST_STEPS: usize = 200;

/// Does all steps of an input, and tells what came of it. `None`: there is nothing in it.
pub fn fuzz(data: &[u8]) -> Option<Stats> {
    let mut input = Input(data);
    let control = Control::take(&mut input)?;
    let mut machine = Machine::new(control);
    for step in std::iter::from_fn(|| Step::take(&mut input)).take(MOST_STEPS) {
        machine.perform(&step);
    }
    Some(machine.finish())
}

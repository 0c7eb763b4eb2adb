// SPDX-License-Identifier: GPL-2.0

//! Models of threads that meet in the code of this crate. Loom goes through every interleaving
//! and every value that an atomic load may give. A lost wake-up is a deadlock, which loom reports,
//! as it does what is never dropped.
//!
//! Run with: `RUSTFLAGS="--cfg loom" cargo test -p vblk_core --features testing --test loom
//! --profile loom`

#![cfg(loom)]

mod completions;
mod memory;
mod ready;
mod ring;
mod task;
mod worker;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Enough for every wake-up that two threads can lose, and done within seconds.
    builder.preemption_bound = Some(3);
    builder.check(check);
}

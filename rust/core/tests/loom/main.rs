// SPDX-License-Identifier: GPL-2.0

//! Models of what several threads do to each other. Loom goes through every interleaving and every
//! value that an atomic load may give. A lost wake-up is a deadlock, which loom reports, as it does
//! unordered accesses to plain memory and what is never dropped.
//!
//! Run with: `RUSTFLAGS="--cfg loom" cargo test -p vblk_core --features testing --test loom
//! --release`

#![cfg(loom)]

mod detach;
mod ring;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Enough for every wake-up that two threads can lose, and done within seconds.
    builder.preemption_bound = Some(3);
    builder.check(check);
}

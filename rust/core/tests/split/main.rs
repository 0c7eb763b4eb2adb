// SPDX-License-Identifier: GPL-2.0

//! Both halves of a split ring, against the model of a driver.

#[path = "../common/mod.rs"]
mod common;

mod moving;
mod notify;
mod queue;

// SPDX-License-Identifier: GPL-2.0

//! Requests in every layout, their limits, and the length that is reported for them.

#[path = "../common/mod.rs"]
mod common;

mod action;
mod guest;
mod layout;
mod limits;
mod refused;
mod stored;

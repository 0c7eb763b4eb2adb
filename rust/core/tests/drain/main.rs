// SPDX-License-Identifier: GPL-2.0

//! Draining a queue of either format, against the model of a driver.

mod bounds;
mod ends;
mod order;
mod polled;
mod recorder;

// SPDX-License-Identifier: GPL-2.0

//! One virtqueue: from a kick to used entries.
//!
//! - [`ready`]: the queues of a worker that want to be served, and how it is woken;
//! - [`virtqueue`]: the available half, which the worker serves;
//! - [`request_handler`]: what is done about a chain;
//! - [`submitter`], with a [`context`], [`transfer`] and [`ranges`]: a chain becomes I/O;
//! - [`io_pool`]: the memory for I/O;
//! - [`in_flight`]: a request that the disk has;
//! - [`used_side`]: the used half, where each request ends, in whatever context.

pub(crate) mod context;
pub(crate) mod in_flight;
mod io_pool;
mod polling;
mod ranges;
pub(crate) mod ready;
mod request_handler;
pub(crate) mod ring_log;
mod submitter;
mod transfer;
pub(crate) mod used_side;
pub(crate) mod virtqueue;

// SPDX-License-Identifier: GPL-2.0

//! Bytes and rules of a virtio-blk device.
//!
//! This crate parses and judges everything that a guest or a VMM can choose: the memory table, the
//! rings, descriptor chains, request headers, notification suppression, and the argument
//! structures of the vhost ioctls. The same files are compiled into the vhost back-end, the
//! launcher's own back-end, the tests and the fuzzers, so that there is one parser.
//! The crate has no `unsafe`, allocates nothing, takes no lock, logs nothing and performs no I/O: it
//! says what a request asks for ([`request::Action`]) and how to answer it.

// Kbuild passes `no_std` itself and refuses a second one; cargo needs it said here.
#![cfg_attr(not(kbuild), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "testing")]
extern crate std;

pub mod addr;
pub mod chain;
pub mod completions;
pub mod config;
pub mod dirty_log;
pub mod disk;
pub mod drain;
pub mod features;
pub mod memory;
pub mod notify;
pub mod packed;
pub mod payload;
pub mod poll_window;
pub mod priority;
pub mod queue;
pub mod range;
pub mod ready;
pub mod request;
pub mod ring;
pub mod segments;
pub mod split;
pub mod status;
pub mod table;
pub mod table_index;
pub mod uapi;
mod walk;
pub mod wrap;

#[cfg(feature = "testing")]
pub mod testing;

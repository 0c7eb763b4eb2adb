// SPDX-License-Identifier: GPL-2.0

//! Bytes and rules of a virtio-blk device.
//!
//! Everything that a guest or a VMM can choose is parsed and judged here: the memory table, the
//! rings, descriptor chains, request headers, notification suppression, and the argument
//! structures of the vhost ioctls. The crate has no `unsafe`, allocates nothing, takes no lock and
//! logs nothing. Kbuild compiles it into the kernel module and cargo compiles the same files for
//! the launcher's own back-end, the tests and the fuzzers, so that there is one parser.
//!
//! It does not perform I/O: it says what a request asks for ([`request::Action`]) and how to
//! answer it, and leaves doing so to its user.

// Kbuild passes `no_std` itself and refuses a second one; cargo needs it said here.
#![cfg_attr(not(kbuild), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "testing")]
extern crate std;

pub mod addr;
pub mod chain;
pub mod config;
pub mod features;
pub mod lap;
pub mod memory;
pub mod notify;
pub mod packed;
pub mod priority;
pub mod queue;
pub mod range;
pub mod request;
pub mod ring;
pub mod split;
pub mod table;
pub mod uapi;

#[cfg(feature = "testing")]
pub mod testing;

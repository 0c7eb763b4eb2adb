// SPDX-License-Identifier: GPL-2.0

//! A disk for VMMs that speak vhost-user: the process is the back-end of the protocol, and programs
//! one of the back-ends of this crate. With the module, no request passes through the process.
//!
//! The handler of the crate `vhost` is not used: it has no message for a configuration space that
//! has changed, waits without a limit for the rest of a message, and drops surplus descriptors
//! without a word. The rings' threads of `vhost-user-backend` are of no use to a kernel that serves
//! them.

mod channel;
mod device;
mod error;
mod memory;
mod message;
mod ring;
mod server;
mod tracking;

pub use error::Refusal;
pub use memory::MemoryError;
pub use message::Malformed;
pub use server::{Door, Ended, Server};

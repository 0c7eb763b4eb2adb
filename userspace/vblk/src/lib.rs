// SPDX-License-Identifier: GPL-2.0

//! The launcher of vhost-blk-rs, and the back-ends that a disk can be served by.
//!
//! [`memory`], [`disk`] and [`backend`] know nothing of KVM: a process that owns guest memory and
//! rings of its own, such as a test or a benchmark, uses them as they are.
//!
//! `unsafe` has one address, the private module `sys`. Everything else is ordinary Rust.

#![deny(unsafe_code)]
// Their macros panic when the output takes nothing.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod backend;
pub mod cli;
pub mod devices;
pub mod disk;
pub mod memory;
pub mod output;
pub mod seccomp;
#[cfg(feature = "testing")]
pub mod testing;
pub mod vdpa;
pub mod vhost_user;
pub mod vm;

mod console;
mod errno;
mod monitor;
#[allow(unsafe_code)]
mod sys;

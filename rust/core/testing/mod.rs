// SPDX-License-Identifier: GPL-2.0

//! A model of a virtio driver, for unit tests, fuzzers and the harness.
//!
//! It is generic over how guest memory is reached ([`DriverMemory`]): [`Ram`] is a guest in a
//! byte vector, on which a whole device can run within one thread; the harness implements it over
//! pages that it shares with the device.
//!
//! [`Driver`] keeps the rules of virtio and checks that the device keeps its own, whatever the
//! format of the ring. [`SplitDriver`] and [`PackedDriver`], of which it is one, have raw
//! operations besides that put anything anywhere.
//!
//! Mistakes of the test itself (an address that is no memory, too many descriptors) and of the
//! device (giving back a chain that it does not have) panic: that is how a test fails.

mod driver;
mod input;
mod layout;
mod memory;
mod packed;
mod ram;
pub mod reference;
mod request;
mod split;
mod used_entry;

pub use driver::Driver;
pub use input::Input;
pub use layout::{
    Buf,
    Layout, //
};
pub use memory::DriverMemory;
pub use packed::PackedDriver;
pub use ram::{
    Ram,
    RamPart, //
};
pub use request::{
    cut,
    join,
    BlockRequest,
    STATUS_UNWRITTEN, //
};
pub use split::SplitDriver;
pub use used_entry::UsedEntry;

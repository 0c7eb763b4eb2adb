// SPDX-License-Identifier: GPL-2.0

//! Guest memory for the model of a driver, in tests and fuzzers, and a front-end of vhost-user with a guest.

pub mod conformance;
pub mod front_end;
pub mod writer;

use crate::memory::Memory;
use std::sync::atomic::{fence, Ordering};
use vblk_core::{addr::GuestAddr, testing::DriverMemory};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory as a driver reaches it. Addresses come from the test: one that is no memory is its
/// mistake, and panics.
#[derive(Clone)]
pub struct Guest(pub Memory);

const MISTAKE: &str = "an address in guest memory";

impl DriverMemory for Guest {
    fn read(&self, from: GuestAddr, to: &mut [u8]) {
        let from = GuestAddress(from.0);
        self.0.read_slice(to, from).expect(MISTAKE);
    }

    fn write(&self, to: GuestAddr, bytes: &[u8]) {
        let to = GuestAddress(to.0);
        self.0.write_slice(bytes, to).expect(MISTAKE);
    }

    fn load_u16(&self, at: GuestAddr) -> u16 {
        let at = GuestAddress(at.0);
        self.0.load(at, Ordering::Relaxed).expect(MISTAKE)
    }

    fn load_acquire_u16(&self, at: GuestAddr) -> u16 {
        let at = GuestAddress(at.0);
        self.0.load(at, Ordering::Acquire).expect(MISTAKE)
    }

    fn store_u16(&self, at: GuestAddr, value: u16) {
        let at = GuestAddress(at.0);
        self.0.store(value, at, Ordering::Relaxed).expect(MISTAKE);
    }

    fn store_release_u16(&self, at: GuestAddr, value: u16) {
        let at = GuestAddress(at.0);
        self.0.store(value, at, Ordering::Release).expect(MISTAKE);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

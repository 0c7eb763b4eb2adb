// SPDX-License-Identifier: GPL-2.0

//! A guest that notices when one of its writes is lost, done twice, or answered twice.

use super::front_end::{GuestRing, SharedGuest, PATIENCE};
use crate::backend::{Features, Format};
use std::time::Duration;
use vblk_core::{addr::GuestAddr, request::Status, testing::DriverMemory};

const BLOCK: usize = 4096;
/// Requests in flight, each on a block of its own.
pub const DEPTH: usize = 32;
/// Entries of the ring.
pub const RING: u16 = 128;

/// A guest that writes to each of its blocks again and again, another number each time.
pub struct Writer {
    /// Its memory.
    pub guest: SharedGuest,
    /// Its ring.
    pub ring: GuestRing,
    blocks: Vec<Block>,
}

/// A block of the disk, which is being written to.
#[derive(Clone, Copy)]
struct Block {
    /// The number that is being written.
    number: u32,
    /// The id of the request, and where its status byte is.
    id: u16,
    status: GuestAddr,
}

impl Writer {
    /// Begins to write: each block is in flight from here on.
    pub fn new(features: Features) -> Self {
        let guest = SharedGuest::new();
        let ring = GuestRing::new(&guest, 0, RING.into(), features);
        let mut writer = Self {
            guest,
            ring,
            blocks: Vec::new(),
        };
        for index in 0..DEPTH {
            let block = writer.write(index, 1);
            writer.blocks.push(block);
        }
        writer.ring.publish();
        writer
    }

    fn contents(index: usize, number: u32) -> Vec<u8> {
        let unit = [index as u32, number].map(u32::to_le_bytes).concat();
        unit.repeat(BLOCK / unit.len())
    }

    /// Begins to write a number to a block.
    fn write(&mut self, index: usize, number: u32) -> Block {
        let contents = Self::contents(index, number);
        let sector = (index * BLOCK / 512) as u64;
        let request = self.ring.write(index as u64, sector, &contents);
        Block {
            number,
            id: self.ring.add(&request),
            status: request.status,
        }
    }

    /// Takes an answer, which must be one that is waited for, and good. Returns its block.
    fn answer(&mut self, limit: Duration) -> Option<usize> {
        let entry = self.ring.wait_for(limit)?;
        let of = |block: &Block| u32::from(block.id) == entry.id;
        let index = self.blocks.iter().position(of);
        let index = index.expect("an answer to a request that is in flight");
        let status = self.ring.driver.memory().read_u8(self.blocks[index].status);
        assert_eq!(status, Status::Ok as u8, "block {index}");
        Some(index)
    }

    /// Goes on for so many answers.
    pub fn go_on(&mut self, count: usize) {
        for _ in 0..count {
            let index = self.answer(PATIENCE).expect("an answer");
            self.blocks[index] = self.write(index, self.blocks[index].number + 1);
            self.ring.publish();
        }
    }

    /// Waits for the last answers, one for each block.
    pub fn finish(&mut self) {
        let mut left: Vec<bool> = vec![true; DEPTH];
        for _ in 0..DEPTH {
            let block = self.answer(PATIENCE).expect("an answer");
            assert!(
                std::mem::take(&mut left[block]),
                "two answers to one request"
            );
        }
        assert!(self.answer(Duration::from_millis(100)).is_none());
    }

    /// Looks at what is on the disk, which `read` reads from an offset on.
    pub fn check(&self, read: impl Fn(u64, usize) -> Vec<u8>) {
        for (index, block) in self.blocks.iter().enumerate() {
            let have = read((index * BLOCK) as u64, BLOCK);
            let wanted = Self::contents(index, block.number);
            assert!(have == wanted, "block {index}");
        }
    }

    /// Returns the position that a front-end tells when it has lost a connection, as QEMU does: the
    /// used index of a split ring; of a packed one, where it began.
    pub fn told_position(&self) -> u32 {
        let layout = self.ring.driver.layout();
        match layout.format {
            Format::Split => self
                .ring
                .driver
                .memory()
                .load_u16(layout.used_index())
                .into(),
            Format::Packed => Format::Packed.initial_base(),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The log of dm-log-writes, and the disk that it describes.
//!
//! A write is logged when it is durable: behind the flush that was submitted after it was done, or
//! at once with FUA. So the log up to a mark is what a power cut at that moment leaves.

use crate::{disk::Disk, sys::Errno};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: usize = 512;

const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// One entry of the log: `struct log_write_entry` and what follows it.
struct Entry {
    sector: usize,
    sectors: usize,
    flags: u64,
    data_len: usize,
}

fn word(bytes: &[u8], number: usize) -> u64 {
    let at = number * 8;
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Applies the log on `disk` to `image`, up to `mark`. `most` bytes of the log are looked at.
pub fn replay(disk: &Disk, image: &mut [u8], mark: &str, most: usize) -> Result<(), Errno> {
    let log = disk.read(0, most)?;
    assert_eq!(word(&log, 0), MAGIC, "no log");
    let mut at = SECTOR;
    loop {
        let header = &log[at..at + SECTOR];
        let entry = Entry {
            sector: word(header, 0) as usize,
            sectors: word(header, 1) as usize,
            flags: word(header, 2),
            data_len: word(header, 3) as usize,
        };
        at += SECTOR;
        if entry.flags & MARK != 0 {
            let text = &header[32..32 + entry.data_len];
            // dm-log-writes sets one of its own at the end.
            assert_eq!(text, mark.as_bytes(), "the log ends without our mark");
            return Ok(());
        }
        assert_eq!(entry.flags & DISCARD, 0, "a discard");
        let bytes = entry.sectors * SECTOR;
        image[entry.sector * SECTOR..][..bytes].copy_from_slice(&log[at..at + bytes]);
        at += bytes;
    }
}

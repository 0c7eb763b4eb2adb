// SPDX-License-Identifier: GPL-2.0

//! Limits of a block device's queue, which are in sysfs only.

use std::{
    fs,
    path::{Path, PathBuf},
};
use vblk_core::addr::SECTOR_SIZE;

/// Limits of a block device, in bytes where they are lengths; 0 where the kernel does not tell, or
/// the device can't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// By how much the first physical block precedes the device.
    pub alignment_offset: u32,
    /// Smallest request without penalty.
    pub io_min: u32,
    /// Best request for sustained throughput.
    pub io_opt: u32,
    /// Unit of discarding.
    pub discard_granularity: u32,
    /// Most that can be discarded at a time.
    pub discard_bytes: u64,
    /// Most that the device can fill with zeroes by itself at a time.
    pub write_zeroes_bytes: u64,
}

impl QueueLimits {
    /// Those of the block device with these numbers.
    pub fn of(major: u32, minor: u32) -> Self {
        Self::read(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
    }

    fn read(device: &Path) -> Self {
        // A partition has the queue of its disk, which is the directory above.
        let queue = match device.join("queue") {
            queue if queue.exists() => queue,
            _ => device.join("../queue"),
        };
        let small = |name| u32::try_from(number(&queue.join(name))).unwrap_or(u32::MAX);
        Self {
            alignment_offset: u32::try_from(number(&device.join("alignment_offset"))).unwrap_or(0),
            io_min: small("minimum_io_size"),
            io_opt: small("optimal_io_size"),
            discard_granularity: small("discard_granularity"),
            discard_bytes: number(&queue.join("discard_max_bytes")),
            write_zeroes_bytes: number(&queue.join("write_zeroes_max_bytes")),
        }
    }

    /// Those of a file, whose space can be given up a page at a time.
    pub fn of_a_file() -> Self {
        Self {
            discard_granularity: 4096,
            discard_bytes: u64::MAX,
            write_zeroes_bytes: u64::MAX,
            ..Self::default()
        }
    }

    /// `bytes` in sectors, as many as fit.
    pub fn in_sectors(bytes: u64) -> u32 {
        u32::try_from(bytes / SECTOR_SIZE).unwrap_or(u32::MAX)
    }
}

/// Returns the number in a file; 0 if it is not there. An offset of -1 says that there is none.
fn number(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_the_limits_of_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let partition = dir.path().join("disk1");
        fs::create_dir(&partition).unwrap();
        fs::write(partition.join("alignment_offset"), "-1\n").unwrap();
        assert_eq!(QueueLimits::read(&partition), QueueLimits::default());
        let queue = dir.path().join("queue");
        fs::create_dir(&queue).unwrap();
        for (name, value) in [
            ("minimum_io_size", "4096\n"),
            ("optimal_io_size", "65536\n"),
            ("discard_granularity", "4096\n"),
            ("discard_max_bytes", "2199023255040\n"),
            ("write_zeroes_max_bytes", "0\n"),
        ] {
            fs::write(queue.join(name), value).unwrap();
        }
        let expected = QueueLimits {
            alignment_offset: 0,
            io_min: 4096,
            io_opt: 65536,
            discard_granularity: 4096,
            discard_bytes: 2_199_023_255_040,
            write_zeroes_bytes: 0,
        };
        assert_eq!(QueueLimits::read(&partition), expected);
        assert_eq!(QueueLimits::in_sectors(expected.discard_bytes), u32::MAX);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The disk, as the configuration space tells it.

use crate::sys::block_file::BlockFile;
use vblk_core::config::Limits;

/// Returns what the configuration space tells of a disk.
pub(crate) fn config_limits(disk: &BlockFile) -> Limits {
    let geometry = disk.geometry();
    let limits = disk.limits();
    Limits {
        sectors: geometry.sectors,
        block_size: geometry.block_size,
        physical_block_size: limits.physical_block_size,
        alignment_offset: limits.alignment_offset,
        io_min: limits.io_min,
        io_opt: limits.io_opt,
        read_only: geometry.read_only,
        discard_sectors: limits.discard_sectors,
        discard_granularity: limits.discard_granularity,
        write_zeroes_sectors: limits.write_zeroes_sectors,
        secure_erase_sectors: limits.secure_erase_sectors,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What the driver reads of a disk: `struct virtio_blk_config` (virtio 1.2, 5.2.4).

use super::Disk;

/// Bytes of the configuration space, up to and with `num_queues`.
pub const CONFIG_BYTES: usize = 36;

const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const PHYSICAL_BLOCK_EXP: usize = 24;
const OPT_IO_SIZE: usize = 28;
const WRITEBACK: usize = 32;
const NUM_QUEUES: usize = 34;

/// The configuration space of `disk` with this many queues of this many entries.
pub fn config_space(disk: &Disk, queues: u16, queue_size: u16) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        let to = config.iter_mut().skip(at);
        to.zip(bytes).for_each(|(to, from)| *to = *from);
    };
    // A header and a status byte come with the data; a chain is at most as long as the queue.
    let seg_max = u32::from(queue_size.saturating_sub(2).max(1));
    let physical = disk.physical_block_size().max(disk.block_size());
    let exponent = (physical / disk.block_size()).checked_ilog2().unwrap_or(0) as u8;

    put(CAPACITY, &disk.sectors().to_le_bytes());
    put(SEG_MAX, &seg_max.to_le_bytes());
    put(BLK_SIZE, &disk.block_size().to_le_bytes());
    put(PHYSICAL_BLOCK_EXP, &[exponent]);
    put(OPT_IO_SIZE, &0u32.to_le_bytes());
    put(WRITEBACK, &[1]);
    put(NUM_QUEUES, &queues.to_le_bytes());
    config
}

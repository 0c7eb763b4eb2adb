// SPDX-License-Identifier: GPL-2.0

//! The configuration space that fits a disk, byte by byte.

use vblk_core::{
    config::{
        Limits,
        Queues,
        CONFIG_WCE, //
    },
    features::{
        bit,
        Features, //
    },
};

const QUEUES: Queues = Queues {
    count: 4,
    size: 256,
};

/// A disk of 4 KiB blocks in 16 KiB physical ones that can do everything.
const DISK: Limits = Limits {
    sectors: 0x1_2345_6789,
    block_size: 4096,
    physical_block_size: 16384,
    alignment_offset: 8192,
    io_min: 16384,
    io_opt: 1 << 20,
    read_only: false,
    discard_sectors: 1 << 20,
    discard_granularity: 65536,
    write_zeroes_sectors: 1 << 16,
    secure_erase_sectors: 4096,
};

fn u16_at(config: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([config[at], config[at + 1]])
}

fn u32_at(config: &[u8], at: usize) -> u32 {
    u32::from(u16_at(config, at)) | u32::from(u16_at(config, at + 2)) << 16
}

#[test]
fn every_field_is_where_the_standard_has_it() {
    let config = DISK.config(&QUEUES);
    assert_eq!(u32_at(&config, 0), 0x2345_6789, "capacity");
    assert_eq!(u32_at(&config, 4), 1, "capacity");
    assert_eq!(u32_at(&config, 8), 0, "size_max");
    assert_eq!(u32_at(&config, 12), 254, "seg_max");
    assert_eq!(u32_at(&config, 16), 0, "geometry");
    assert_eq!(u32_at(&config, 20), 4096, "blk_size");
    assert_eq!(config[24], 2, "physical_block_exp");
    assert_eq!(config[25], 2, "alignment_offset");
    assert_eq!(u16_at(&config, 26), 4, "min_io_size");
    assert_eq!(u32_at(&config, 28), 256, "opt_io_size");
    assert_eq!(config[CONFIG_WCE], 1, "wce");
    assert_eq!(u16_at(&config, 34), 4, "num_queues");
    assert_eq!(u32_at(&config, 36), 1 << 20, "max_discard_sectors");
    assert_eq!(u32_at(&config, 40), 16, "max_discard_seg");
    assert_eq!(u32_at(&config, 44), 128, "discard_sector_alignment");
    assert_eq!(u32_at(&config, 48), 1 << 16, "max_write_zeroes_sectors");
    assert_eq!(u32_at(&config, 52), 16, "max_write_zeroes_seg");
    assert_eq!(config[56], 1, "write_zeroes_may_unmap");
    assert_eq!(u32_at(&config, 60), 4096, "max_secure_erase_sectors");
    assert_eq!(u32_at(&config, 64), 16, "max_secure_erase_seg");
    assert_eq!(u32_at(&config, 68), 128, "secure_erase_sector_alignment");
}

#[test]
fn features_follow_the_disk() {
    let features = DISK.features(&QUEUES);
    for number in [
        bit::BLK_SEG_MAX,
        bit::BLK_SIZE,
        bit::BLK_FLUSH,
        bit::BLK_TOPOLOGY,
        bit::BLK_CONFIG_WCE,
        bit::BLK_MQ,
        bit::BLK_DISCARD,
        bit::BLK_WRITE_ZEROES,
        bit::BLK_SECURE_ERASE,
    ] {
        assert!(features.has(number), "{number}");
    }
    assert!(!features.has(bit::BLK_RO));

    let read_only = Limits {
        read_only: true,
        ..DISK
    };
    let features = read_only.features(&QUEUES);
    assert!(features.has(bit::BLK_RO));
    for number in [
        bit::BLK_DISCARD,
        bit::BLK_WRITE_ZEROES,
        bit::BLK_SECURE_ERASE,
    ] {
        assert!(!features.has(number), "{number} on a read-only disk");
    }

    let plain = Limits {
        discard_sectors: 0,
        secure_erase_sectors: 0,
        write_zeroes_sectors: 0,
        ..DISK
    };
    let one = Queues { count: 1, size: 2 };
    let features = plain.features(&one);
    assert!(!features.has(bit::BLK_MQ));
    assert!(!features.has(bit::BLK_DISCARD));
    assert!(!features.has(bit::BLK_SECURE_ERASE));
    assert!(features.has(bit::BLK_WRITE_ZEROES), "zeroes can be written");
    let config = plain.config(&one);
    assert_eq!(u32_at(&config, 12), 1, "seg_max is never 0");
    assert_eq!(u32_at(&config, 40), 0, "max_discard_seg");
    assert_eq!(u32_at(&config, 48), 8192, "zeroes that are written");
    assert_eq!(config[56], 0, "write_zeroes_may_unmap");
}

#[test]
fn the_ring_alone_limits_the_buffers_of_a_request() {
    for (size, seg_max) in [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 2),
        (256, 254),
        (32768, 32766),
    ] {
        let queues = Queues { count: 1, size };
        let config = DISK.config(&queues);
        assert_eq!(u32_at(&config, 12), seg_max, "{size}");
        assert_eq!(u32_at(&config, 8), 0, "size_max");
        let features = DISK.features(&queues);
        assert!(features.has(bit::BLK_SEG_MAX));
        assert!(!features.has(bit::BLK_SIZE_MAX));
    }
    assert!(!Features::SUPPORTED.has(bit::BLK_SIZE_MAX));
}

#[test]
fn no_disk_is_too_odd() {
    for value in [0, 1, 511, 512, 4096, u32::MAX] {
        let odd = Limits {
            sectors: u64::MAX,
            block_size: value,
            physical_block_size: value,
            alignment_offset: u32::MAX,
            io_min: u32::MAX,
            io_opt: u32::MAX,
            read_only: false,
            discard_sectors: value,
            discard_granularity: value,
            write_zeroes_sectors: value,
            secure_erase_sectors: value,
        };
        let size = value.min(u16::MAX.into()) as u16;
        odd.config(&Queues { count: 1, size });
    }
}

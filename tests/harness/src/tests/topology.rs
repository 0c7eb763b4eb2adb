// SPDX-License-Identifier: GPL-2.0

//! Blocks of other sizes, and what the guest is told of them.

use crate::{
    disk::{NullBlk, TestDisk},
    fixtures::place::{Place, DATA},
    prelude::*,
};
use vblk_core::features::{bit, Features};

pub const TESTS: &[Test] = tests!["harness":
    topology_is_that_of_the_disk(20),
    segments_are_limited_by_the_ring_alone(20),
    mapped_disk_of_4k_blocks(20),
    requests_are_cut_to_what_the_disk_takes(20),
    a_partition_has_its_own_size_and_alignment(20),
];

const MIB: u64 = 1 << 20;

fn of_4k_blocks() -> Result<Disk, Errno> {
    Disk::null(&NullBlk {
        block_size: 4096,
        ..NullBlk::default()
    })
}

/// Returns the values of sysfs, as the configuration space has them: block size, physical blocks as
/// a power of two, the first aligned block, and the smallest and best requests in blocks.
fn expected(disk: &Disk) -> Result<(u64, u32, u64, u64, u64), Errno> {
    let limit = |name| disk.queue_limit(name);
    let block = limit("logical_block_size")?;
    let offset: u64 = disk
        .sysfs("alignment_offset")?
        .trim()
        .parse()
        .expect("a number");
    Ok((
        block,
        (limit("physical_block_size")? / block).ilog2(),
        offset / block,
        limit("minimum_io_size")? / block,
        limit("optimal_io_size")? / block,
    ))
}

/// Returns the values of the configuration space.
fn found(vm: &Vm, disk: &Disk) -> Result<(u64, u32, u64, u64, u64), Errno> {
    let (_, config) = vm.device.config(&disk.open(Mode::ReadOnly)?, 1, 256)?;
    Ok((
        number(&config, 20, 4),
        number(&config, 24, 1) as u32,
        number(&config, 25, 1),
        number(&config, 26, 2),
        number(&config, 28, 4),
    ))
}

/// A field of the configuration space.
fn number(config: &[u8], at: usize, bytes: usize) -> u64 {
    let mut raw = [0; 8];
    raw[..bytes].copy_from_slice(&config[at..at + bytes]);
    u64::from_le_bytes(raw)
}

fn topology_is_that_of_the_disk(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let ram = Disk::ram();
    for disk in [Disk::ram(), of_4k_blocks()?, Disk::looped(16 * MIB)?] {
        let name = disk.path().display();
        assert_eq!(found(&vm, &disk)?, expected(&disk)?, "{name}");
    }
    assert_eq!(
        expected(&ram)?.1,
        3,
        "large blocks inside, small ones outside"
    );
    // Begins in the middle of a physical block.
    let skewed = Disk::part(&ram, 3, 16 * MIB)?;
    assert_ne!(expected(&skewed)?.2, 0);
    assert_eq!(found(&vm, &skewed)?, expected(&skewed)?);
    Ok(())
}

/// A driver is told of no limit of the disk, since the module cuts what the disk can't take.
fn segments_are_limited_by_the_ring_alone(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let disk = Disk::counting(&TestDisk {
        max_segments: 7,
        max_segment_size: 12288,
        ..TestDisk::DEFAULT
    })?;
    assert_eq!(disk.queue_limit("max_segments")?, 7);
    assert_eq!(disk.queue_limit("max_segment_size")?, 12288);
    has_the_limits_of_the_ring(&vm, &disk)?;
    // The disk is the part's while there is one.
    has_the_limits_of_the_ring(&vm, &Disk::part(&disk, 8, 8 * MIB)?)?;
    has_the_limits_of_the_ring(&vm, &Disk::looped(16 * MIB)?)
}

fn has_the_limits_of_the_ring(vm: &Vm, disk: &Disk) -> Outcome {
    let name = disk.path().display();
    for (entries, seg_max) in [(2, 1), (16, 14), (128, 126), (1024, 1022)] {
        let (features, config) = vm.device.config(&disk.open(Mode::ReadOnly)?, 1, entries)?;
        assert_eq!(number(&config, 12, 4), seg_max, "{name} {entries}");
        assert_eq!(number(&config, 8, 4), 0, "{name}");
        let features = Features(features);
        assert!(features.has(bit::BLK_SEG_MAX), "{name}");
        assert!(!features.has(bit::BLK_SIZE_MAX), "{name}");
    }
    Ok(())
}

fn mapped_disk_of_4k_blocks(context: &Context) -> Outcome {
    let below = of_4k_blocks()?;
    let disk = Disk::part(&below, 8, 16 * MIB)?;
    let mut vm = Vm::new(&Setup::default())?;
    assert_eq!(found(&vm, &disk)?, expected(&disk)?);
    assert_eq!(found(&vm, &disk)?.0, 4096);
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let place = Place::of(&vm);
    let bytes = context.rng().bytes(4096);
    vm.memory.write(DATA, &bytes);
    let last = 16 * MIB / 512 - 8;
    for sector in [0, 8, last] {
        let write = vm.queue().request(&place.write(sector, 4096));
        assert_eq!(write, Answer::new(OK, 1));
        assert!(below.read(4096 + sector * 512, 4096)? == bytes, "{sector}");
    }
    for (sector, len) in [
        (0, 512),
        (4, 4096),
        (8, 2048),
        (last + 8, 4096),
        (last, 8192),
    ] {
        let write = vm.queue().request(&place.write(sector, len));
        assert_eq!(write, Answer::new(IOERR, 1), "{sector} {len}");
        let read = vm.queue().request(&place.read(sector, len));
        assert_eq!(read, Answer::new(IOERR, 0), "{sector} {len}");
    }
    let stats = vm.device.stats()?;
    assert_eq!(stats.io_errors, 0, "the disk was asked");
    Ok(())
}

fn requests_are_cut_to_what_the_disk_takes(context: &Context) -> Outcome {
    // Three pages at a time.
    let disk = Disk::counting(&TestDisk {
        max_segments: 3,
        max_segment_size: 4096,
        write_cache: true,
        ..TestDisk::DEFAULT
    })?;
    assert_eq!(disk.queue_limit("max_segments")?, 3);
    assert_eq!(disk.queue_limit("max_segment_size")?, 4096);
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    vm.device.set_writeback(0)?;
    let place = Place::of(&vm);
    let (len, least) = (MIB as u32, MIB.div_ceil(3 * 4096));
    let bytes = context.rng().bytes(len as usize);
    vm.memory.write(DATA, &bytes);
    let write = place.write(8, len);
    let (counts, answer) = disk.counts_of(|| Ok(vm.queue().request(&write)))?;
    assert_eq!(answer, Answer::new(OK, 1));
    assert!(counts.write.requests >= least, "{:?}", counts.write);
    assert_eq!(counts.fua, counts.write, "each part is durable");
    assert!(disk.read(4096, bytes.len())? == bytes, "written");

    vm.memory.fill(DATA, bytes.len(), 0);
    let read = place.read(8, len);
    let (counts, answer) = disk.counts_of(|| Ok(vm.queue().request(&read)))?;
    assert_eq!(answer, Answer::new(OK, len + 1));
    assert!(counts.read.requests >= least, "{:?}", counts.read);
    assert!(vm.memory.read_vec(DATA, bytes.len()) == bytes, "read");
    Ok(())
}

fn a_partition_has_its_own_size_and_alignment(_: &Context) -> Outcome {
    let whole = Disk::counting(&TestDisk {
        physical_block_size: 4096,
        ..TestDisk::DEFAULT
    })?;
    let part = whole.partition(3, MIB)?;
    let vm = Vm::new(&Setup::default())?;
    // Eight blocks in a physical one, the first of which begins five blocks later.
    for (disk, sectors, alignment) in [(&whole, 16 * MIB / 512, 0), (&part, MIB / 512, 5)] {
        let (block, exponent, first, ..) = found(&vm, disk)?;
        assert_eq!((block, exponent, first), (512, 3, alignment));
        let (_, config) = vm.device.config(&disk.open(Mode::ReadOnly)?, 1, 128)?;
        assert_eq!(config[..8], sectors.to_le_bytes());
    }
    Ok(())
}

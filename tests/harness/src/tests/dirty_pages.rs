// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is a file: what the device writes to it must reach the file.

use crate::{
    disk::{self, Delays},
    oracle::facts,
    prelude::*,
    sys::map::Mapping,
};
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};
use vblk_core::uapi::MemoryRegion;

pub const TESTS: &[Test] = tests!["harness":
    pages_written_back_meanwhile_are_dirty_again(60),
];

const PAGE: usize = 4096;
/// Guest address of the file: one page for data, one for the status.
const FILE: u64 = 1 << 40;
const OLD: u8 = 0x11;
/// Time that the disk takes, in which the pages must be written back.
const DELAY: u32 = 200;
/// The machine may be too slow for that; not always.
const TRIES: usize = 20;

/// The kernel writes a file's pages back, and takes them for clean, while a read that will fill
/// them is under way. What the disk then puts there must not get lost with the page cache.
///
/// The file is a ramdisk, so that what reached it can be read past the page cache. The rings are in
/// other memory: the kernel pins no file's pages for long.
fn pages_written_back_meanwhile_are_dirty_again(context: &Context) -> Outcome {
    let mut rng = context.rng();
    for _ in 0..TRIES {
        let content = rng.bytes(PAGE);
        if let Some(file) = written_back_during_read(&content)? {
            assert_eq!(file[..PAGE], content, "the data in the file");
            assert_eq!(file[PAGE], OK, "the status in the file");
            return Ok(());
        }
    }
    Err(format!("the disk answered within its {DELAY} ms, {TRIES} times").into())
}

/// Returns the file's content after a read into it; `None` if that was over before the pages were
/// clean.
fn written_back_during_read(content: &[u8]) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error>> {
    let slow = Disk::delayed(
        1 << 20,
        Delays {
            read: DELAY,
            write: DELAY,
        },
    )?;
    slow.write(0, content)?;
    let below = Disk::second_ram();
    below.write(0, &[OLD; 2 * PAGE])?;
    let file = disk::open(below.path(), Mode::ReadWrite, 0)?;
    let map = Mapping::shared(file.as_fd(), 2 * PAGE)?;

    let mut vm = Vm::with_disk(&Setup::default(), &slow)?;
    let region = MemoryRegion {
        guest_phys_addr: FILE,
        memory_size: map.len() as u64,
        userspace_addr: map.addr(),
        flags_padding: 0,
    };
    vm.device
        .set_mem_table(&[vm.memory.table(), vec![region]].concat())?;
    let status = GuestAddr(FILE + PAGE as u64);
    let read = BlockRequest::read(0, vm.free(), status).data(GuestAddr(FILE), PAGE as u32);
    vm.memory.write(read.header, &read.header_bytes());
    let pins = || facts::pins_held().ok_or("no counters of pins");
    let pinned = pins()?;
    let base = vm.device.vring_base(0)?;
    vm.queue().submit(&read.buffers());

    // When it is told that the request was taken, its pages are pinned, and dirty.
    let deadline = Instant::now() + PATIENCE;
    while vm.device.vring_base(0)? == base {
        assert!(Instant::now() < deadline, "the request was not taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    file.sync_all()?;
    let in_time = vm.queue().driver.used_index() == vm.queue().driver.next_used();
    assert_eq!(vm.queue().next_used().len, PAGE as u32 + 1);
    // Only a thread can mark the pages dirty again and let them go, and nothing else wakes it.
    let deadline = Instant::now() + PATIENCE;
    while pins()? != pinned {
        assert!(Instant::now() < deadline, "pages stay pinned");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(vm);
    drop(map);
    // Past the page cache, after what is dirty in there was written.
    Ok(if in_time {
        Some(below.read(0, 2 * PAGE)?)
    } else {
        None
    })
}

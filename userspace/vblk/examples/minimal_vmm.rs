// SPDX-License-Identifier: GPL-2.0

//! minimal_vmm DISK: what a VMM does to give a guest a disk by `/dev/vhost-blk-rs`, and no more.
//!
//! There is no guest: after the set-up, this process does what the guest's driver would do to read
//! the first sector. So guest memory is a mapping of 64 KiB, the kick eventfd, which KVM signals for
//! a VMM (KVM_IOEVENTFD), is written to, and the call eventfd, which interrupts a guest (KVM_IRQFD),
//! is read. It writes nothing to the disk. docs/uapi.md says what each ioctl takes and returns.

use std::{
    error::Error,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    sync::{atomic::Ordering, Arc},
};
use vblk_core::{config::Queues, features::bit};
use vhost::{
    vhost_kern::VhostKernBackend, VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// The ioctls that `<linux/vhost.h>` does not have, and so the crate `vhost` neither.
#[path = "../src/sys/vhost_blk.rs"]
#[allow(dead_code)]
mod vhost_blk;

/// Returns the error that an ioctl has left behind, if it failed.
fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The crate `vhost` has the standard ioctls for whatever implements [`VhostKernBackend`].
struct Device {
    file: File,
    memory: Arc<GuestMemoryMmap>,
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Device {
    type AS = Arc<GuestMemoryMmap>;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }
}

// Where things are in guest memory: the driver of a real guest decides that.
const DESCRIPTORS: GuestAddress = GuestAddress(0x0000);
const AVAILABLE: GuestAddress = GuestAddress(0x1000);
const USED: GuestAddress = GuestAddress(0x2000);
const HEADER: GuestAddress = GuestAddress(0x3000);
const DATA: GuestAddress = GuestAddress(0x4000);
const STATUS: GuestAddress = GuestAddress(0x5000);
const ENTRIES: u16 = 16;

// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: minimal_vmm DISK")?;
    // Claimed, so that nothing else writes to it; opened for reading only, the disk is read-only.
    let mut how = OpenOptions::new();
    let disk = how.read(true).custom_flags(libc::O_EXCL).open(path)?;
    let mut expected = [0; 512];
    disk.read_exact_at(&mut expected, 0)?;

    // 1. This process becomes the owner: its address space holds the guest's memory. The module starts a
    // worker thread in it, which begins with the CPUs of the calling thread.
    let device = Device {
        file: File::options()
            .read(true)
            .write(true)
            .open("/dev/vhost-blk-rs")?,
        memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)])?),
    };
    device.set_owner()?;

    // 2. Features. A guest is offered those about the disk that VHOST_BLK_GET_CONFIG tells, with the
    // configuration space to go with them, and those about rings that the module has, but not the log of
    // written pages, which is the VMM's. What the guest accepts is set before the rings, whose format
    // depends on it. This one accepts what it must.
    let queues = Queues {
        count: 1,
        size: ENTRIES,
    };
    let (of_disk, config) = vhost_blk::get_config(&device.file, disk.as_fd(), queues)?;
    let of_rings = !0 << 24 & !(1 << bit::LOG_ALL);
    let offered = device.get_features()? & (of_disk.0 | of_rings);
    let sectors = u64::from_le_bytes(config[..8].try_into()?);
    println!("offered: {offered:#x}, sectors: {sectors}");
    device.set_features(1 << bit::VERSION_1)?;

    // 3. The memory table: where each region of the guest is in this process.
    let start = device.memory.get_host_address(GuestAddress(0))?;
    device.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: 0x10000,
        userspace_addr: start as u64,
        ..Default::default()
    }])?;

    // 4. Each queue: size, addresses (which the crate translates to this process's), position, and
    // the eventfds. The error eventfd tells of mistakes of the guest, and of a queue that stops.
    let [kick, call, err] = [EventFd::new(0)?, EventFd::new(0)?, EventFd::new(0)?];
    device.set_vring_num(0, ENTRIES)?;
    let ring = VringConfigData {
        queue_max_size: ENTRIES,
        queue_size: ENTRIES,
        flags: 0,
        desc_table_addr: DESCRIPTORS.0,
        used_ring_addr: USED.0,
        avail_ring_addr: AVAILABLE.0,
        log_addr: None,
    };
    device.set_vring_addr(0, &ring)?;
    device.set_vring_base(0, 0)?;
    device.set_vring_call(0, &call)?;
    device.set_vring_err(0, &err)?;
    device.set_vring_kick(0, &kick)?;

    // 5. The disk is attached: the worker serves all queues that were set up.
    vhost_blk::set_backend(&device.file, Some(disk.as_fd()))?;

    // The guest's part: a header (a read of sector 0 is all zeroes), data, and the status byte.
    let memory = &device.memory;
    memory.write_slice(&[0; 16], HEADER)?;
    memory.write_obj(0xffu8, STATUS)?;
    let chain = [
        (HEADER, 16u32, NEXT),
        (DATA, 512, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    for (index, (addr, len, flags)) in chain.into_iter().enumerate() {
        let at = DESCRIPTORS.0 + 16 * index as u64;
        memory.write_obj(addr.0, GuestAddress(at))?;
        memory.write_obj(len, GuestAddress(at + 8))?;
        memory.write_obj(flags, GuestAddress(at + 12))?;
        memory.write_obj(index as u16 + 1, GuestAddress(at + 14))?;
    }
    // The chain begins at descriptor 0. The index makes it the device's.
    memory.write_obj(0u16, GuestAddress(AVAILABLE.0 + 4))?;
    memory.store(1u16, GuestAddress(AVAILABLE.0 + 2), Ordering::Release)?;
    kick.write(1)?;
    call.read()?;
    let used: u16 = memory.load(GuestAddress(USED.0 + 2), Ordering::Acquire)?;
    let length: u32 = memory.read_obj(GuestAddress(USED.0 + 8))?;
    let status: u8 = memory.read_obj(STATUS)?;
    let mut data = [0; 512];
    memory.read_slice(&mut data, DATA)?;

    // 6. The disk is detached: the call waits for what is in flight. Guest memory may go then.
    vhost_blk::set_backend(&device.file, None)?;
    let position = device.get_vring_base(0)?;
    println!("used: {used}, length: {length}, status: {status}, position: {position}");
    let right = (used, length, status, position) == (1, 513, 0, 1) && data == expected;
    right
        .then_some(())
        .ok_or_else(|| "not the sector that the disk has".into())
}

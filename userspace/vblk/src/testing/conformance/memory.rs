// SPDX-License-Identifier: GPL-2.0

//! Cases about guest memory that comes and goes.

use super::{
    super::front_end::{shared_file, GuestRing, SharedGuest, PATIENCE},
    guest::{connect, pattern, rests, served, works, OK, PACKED, SIZE},
};
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};
use vhost::{vhost_user::VhostUserFrontend, VhostBackend, VhostUserMemoryRegionInfo};

pub fn other_memory(path: &Path) {
    let (mut front_end, guest, mut ring) = served(path, PACKED);
    works(&mut ring, 1);
    // The same memory once more, in other mappings.
    front_end.share(&guest);
    works(&mut ring, 2);
    // Without the region that has the ring.
    let without = &guest.regions()[1..];
    assert!(front_end.vhost.set_mem_table(without).is_err());
    rests(&mut ring);
    front_end.share(&guest);
    front_end
        .vhost
        .set_vring_kick(0, &ring.kick)
        .expect("a kick");
    assert!(ring.wait_for(PATIENCE).is_some());
    works(&mut ring, 3);
}

pub fn more_memory(path: &Path) {
    let mut front_end = connect(path);
    front_end.negotiate(PACKED);
    assert!(front_end.vhost.get_max_mem_slots().expect("a number") >= 8);
    let guest = SharedGuest::new();
    let [low, high] = guest.regions()[..] else {
        panic!("two regions");
    };
    front_end.vhost.add_mem_region(&low).expect("to add it");
    let mut ring = GuestRing::new(&guest, 0, SIZE, front_end.features);
    front_end.start(&ring, 0).expect("to start");
    works(&mut ring, 1);
    // Data in memory that is not there.
    let mut read = ring.read(0, 16, 512);
    read.data[0].addr.0 = high.guest_phys_addr;
    assert_ne!(ring.perform(&read), OK);
    front_end.vhost.add_mem_region(&high).expect("to add it");
    assert_eq!(ring.perform(&read), OK);
    assert_eq!(ring.contents(&read), pattern(1, 512));
    front_end
        .vhost
        .remove_mem_region(&high)
        .expect("to remove it");
    assert_ne!(ring.perform(&read), OK);
    works(&mut ring, 2);
    assert!(front_end.vhost.remove_mem_region(&high).is_err());
}

pub fn bad_memory(path: &Path) {
    let (mut front_end, guest, mut ring) = served(path, PACKED);
    let good = guest.regions()[1];
    let short = shared_file(4096);
    let pipe = UnixStream::pair().expect("sockets").0;
    let read_only = File::open("/proc/self/exe").expect("a file");
    let region = |change: &dyn Fn(&mut VhostUserMemoryRegionInfo)| {
        let mut region = good;
        region.guest_phys_addr = 1 << 40;
        region.userspace_addr = 1 << 41;
        change(&mut region);
        region
    };
    for (number, bad) in [
        region(&|it| it.guest_phys_addr = 4096),
        region(&|it| it.guest_phys_addr = (1 << 32) - 4096),
        region(&|it| it.userspace_addr = guest.regions()[0].userspace_addr + 4096),
        region(&|it| it.guest_phys_addr = u64::MAX - 4096),
        region(&|it| it.userspace_addr = u64::MAX - 4096),
        region(&|it| it.mmap_offset = u64::MAX - 4096),
        region(&|it| it.mmap_offset = 1 << 30),
        region(&|it| it.mmap_offset += 1),
        region(&|it| it.memory_size = 1 << 62),
        region(&|it| it.mmap_handle = short.as_raw_fd()),
        region(&|it| it.mmap_handle = pipe.as_raw_fd()),
        region(&|it| {
            it.mmap_handle = read_only.as_raw_fd();
            it.mmap_offset = 0;
            it.memory_size = 4096;
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = front_end.vhost.add_mem_region(&bad);
        assert!(refused.is_err(), "region {number}");
        let table = [guest.regions()[0], guest.regions()[1], bad];
        assert!(
            front_end.vhost.set_mem_table(&table).is_err(),
            "region {number}"
        );
    }
    // All that was there still is.
    works(&mut ring, 1);
    let page = shared_file(65 * 4096);
    let mut count = 2;
    while front_end
        .vhost
        .add_mem_region(&region(&|it| {
            it.guest_phys_addr += count * 4096;
            it.userspace_addr += count * 4096;
            it.memory_size = 4096;
            it.mmap_offset = 0;
            it.mmap_handle = page.as_raw_fd();
        }))
        .is_ok()
    {
        count += 1;
        assert!(count < 1000, "there is no limit");
    }
    assert_eq!(
        count,
        front_end.vhost.get_max_mem_slots().expect("a number")
    );
    works(&mut ring, 2);
}

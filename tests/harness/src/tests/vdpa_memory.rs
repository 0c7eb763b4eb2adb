// SPDX-License-Identifier: GPL-2.0

//! The memory of a device that is served through vhost-vdpa: mappings that come and go, also while
//! requests use them.

use crate::{
    disk::{NullBlk, TestDisk},
    fixtures::{
        ranges::zeroes,
        vdpa::{delay, read, region_at, slow_disk, Used, CANARY},
    },
    memory::{GuestMemory, RegionSpec, HIGH, MIDDLE},
    prelude::*,
    rng::Rng,
    sys::{map, process},
    vhost_vdpa::Access,
};
use std::{slice::from_ref, thread, time::Duration};
use vblk_core::uapi::{MemoryRegion, VDPA_PACKED};

pub const TESTS: &[Test] = tests!["vdpa":
    unmapping_waits_for_writes(40),
    unmapping_waits_for_what_is_unmapped_only(40),
    unmapping_waits_for_no_rest_of_a_request(40),
    another_memory_at_the_same_place(60),
    pages_in_any_order(40),
    mappings_come_and_go_under_load(60),
    what_can_not_be_mapped_changes_nothing(20),
];

const PAGE: u64 = 4096;

/// Requests in flight at once.
const COUNT: u64 = 256;

/// IO virtual addresses at which nothing is mapped.
const ELSEWHERE: u64 = 1 << 40;

/// Indirect tables, one for each request.
const TABLES: u64 = 0x20_0000;

/// Puts as many requests into the ring as it has entries, all at once, and waits until they are
/// taken and none is answered.
fn in_flight(used: &mut Used, requests: &[BlockRequest]) -> Outcome {
    for (slot, request) in (0..).zip(requests) {
        request.prepare(&*used.memory);
        let table = GuestAddr(TABLES + slot * 64);
        let added = used.driver.add_indirect(&request.buffers(), table);
        added.expect("room");
    }
    used.driver.publish();
    used.kick.signal()?;
    used.await_taken()?;
    assert_eq!(used.driver.poll_used(), None, "answered already");
    Ok(())
}

/// Content of a page that tells which one it is.
fn content(page: u64) -> Vec<u8> {
    let word = (page as u32).wrapping_mul(0x9E37_79B1).to_le_bytes();
    word.repeat(PAGE as usize / word.len())
}

fn contents(pages: u64) -> Vec<u8> {
    (0..pages).flat_map(content).collect()
}

#[track_caller]
fn assert_all(memory: &GuestMemory, from: GuestAddr, len: usize, value: u8, what: &str) {
    let bytes = memory.read_vec(from, len);
    let at = bytes.iter().position(|byte| *byte != value);
    assert_eq!(at, None, "{what}");
}

/// What the guest puts there after the memory was unmapped does not reach the disk.
fn unmapping_waits_for_writes(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        disk.write(0, &vec![0; (COUNT * PAGE) as usize])?;
        used.memory.write(GuestAddr(MIDDLE.guest), &contents(COUNT));
        let requests: Vec<_> = (0..COUNT)
            .map(|slot| {
                let read = read(slot);
                BlockRequest::write(read.sector, read.header, read.status)
                    .data(read.data[0].addr, PAGE as u32)
            })
            .collect();
        in_flight(&mut used, &requests)?;
        let data = region_at(&used.memory, MIDDLE.guest);
        used.node.unmap(&data)?;
        used.memory
            .fill(GuestAddr(MIDDLE.guest), (COUNT * PAGE) as usize, CANARY);
        used.await_used(COUNT as usize)?;
        for request in &requests {
            assert_eq!(used.memory.read_u8(request.status), 0);
        }
        let on_disk = disk.read(0, (COUNT * PAGE) as usize)?;
        assert!(on_disk == contents(COUNT), "what was written later");
    }
    Ok(())
}

/// As a guest with an IOMMU of its own unmaps: for each request, while others are with the disk.
fn unmapping_waits_for_what_is_unmapped_only(_: &Context) -> Outcome {
    const DATA: [u64; 2] = [0, 1];
    const STATUS: u64 = 2;
    const OTHER: u64 = 3;
    for packed in [0, VDPA_PACKED] {
        let disk = Disk::counting(&TestDisk::DEFAULT)?;
        disk.write(0, &contents(2))?;
        let mut used = Used::started(&disk, packed)?;
        used.node.unmap(&region_at(&used.memory, MIDDLE.guest))?;
        for number in 0..=OTHER {
            used.node.map(&part(&used, number), Access::ReadWrite)?;
        }
        let start_of = |number: u64| GuestAddr(MIDDLE.guest + number * PART);
        let status = start_of(STATUS);
        let request = DATA.iter().fold(
            BlockRequest::read(0, read(0).header, status),
            |it, number| it.data(start_of(*number), PAGE as u32),
        );
        for touched in DATA.into_iter().chain([STATUS]) {
            let hold = disk.hold()?;
            used.launch(from_ref(&request));
            hold.await_held(1)?;
            // Nothing completes meanwhile.
            let other = part(&used, OTHER);
            used.node.unmap(&other)?;
            used.node.map(&other, Access::ReadWrite)?;
            let region = part(&used, touched);
            thread::scope(|scope| -> Outcome {
                let node = &used.node;
                let unmapping = scope.spawn(move || node.unmap(&region));
                thread::sleep(Duration::from_millis(100));
                assert!(!unmapping.is_finished(), "part {touched} is in use");
                hold.stop()?;
                unmapping.join().expect("no panic")?;
                Ok(())
            })?;
            used.await_used(1)?;
            assert_eq!(used.memory.read_u8(status), 0);
            for (page, number) in (0..).zip(DATA) {
                let data = used.memory.read_vec(start_of(number), PAGE as usize);
                assert!(data == content(page), "part {number}");
                used.memory.fill(start_of(number), PAGE as usize, CANARY);
            }
            used.node.map(&region, Access::ReadWrite)?;
        }
        used.works()?;
    }
    Ok(())
}

/// Requests that have taken all I/Os of their queue, and have more to do: afterwards they find the
/// memory that is still mapped.
fn unmapping_waits_for_no_rest_of_a_request(_: &Context) -> Outcome {
    const MIB: u64 = 1 << 20;
    let disk = Disk::counting(&TestDisk {
        mib: 64,
        ..TestDisk::DEFAULT
    })?;
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        let sectors = disk.bytes()? / 512;
        let place = read(0).header;
        let ranges = zeroes(&*used.memory, place, (4 * MIB / 512) as u32, sectors);
        let buffer = |number: u64| GuestAddr(MIDDLE.guest + number * MIB % MIDDLE.bytes as u64);
        let nothing = BlockRequest::read(0, place, GuestAddr(place.0 + 16));
        let long = (0..48).fold(nothing, |it, number| it.data(buffer(number), MIB as u32));
        for (request, is_read) in [(long, true), (ranges, false)] {
            disk.write(0, &[0xFF; 512])?;
            disk.write(20 * MIB, &content(20))?;
            let hold = disk.hold()?;
            used.launch(from_ref(&request));
            // Those of 1 MiB.
            hold.await_held(32)?;
            let other = region_at(&used.memory, HIGH.guest);
            used.node.unmap(&other)?;
            used.node.map(&other, Access::ReadWrite)?;
            assert_eq!(used.driver.poll_used(), None, "answered already");
            drop(hold);
            used.await_used(1)?;
            assert_eq!(used.memory.read_u8(request.status), 0);
            if is_read {
                let data = used.memory.read_vec(buffer(20), PAGE as usize);
                assert!(data == content(20), "another content");
            } else {
                assert!(disk.read(0, 512)? == [0; 512], "no zeroes");
            }
        }
        used.works()?;
    }
    Ok(())
}

/// Requests have the memory that was mapped when they were taken.
fn another_memory_at_the_same_place(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        disk.write(0, &contents(COUNT))?;
        let requests: Vec<_> = (0..COUNT).map(read).collect();
        in_flight(&mut used, &requests)?;
        let data = region_at(&used.memory, MIDDLE.guest);
        let all = (COUNT * PAGE) as usize;
        let other = GuestMemory::new(&[RegionSpec {
            bytes: all,
            ..MIDDLE
        }])?;
        other.fill(GuestAddr(MIDDLE.guest), all, CANARY);
        used.node.unmap(&data)?;
        used.node
            .map(&region_at(&other, MIDDLE.guest), Access::ReadWrite)?;
        used.await_used(COUNT as usize)?;
        // Longer than the disk takes for whatever it may still have.
        thread::sleep(2 * delay(context));
        let came = used.memory.read_vec(GuestAddr(MIDDLE.guest), all);
        assert!(came == contents(COUNT), "not where it was taken");
        let start = GuestAddr(MIDDLE.guest);
        assert_all(&other, start, all, CANARY, "memory of another use");
        // From here on it is what the address means.
        used.memory.fill(start, all, CANARY);
        assert_eq!(used.request(&read(1))?, 0);
        let second = GuestAddr(start.0 + PAGE);
        assert!(other.read_vec(second, PAGE as usize) == content(1));
        assert_all(
            &used.memory,
            start,
            all,
            CANARY,
            "memory that is not mapped",
        );
        other.check_guards();
    }
    Ok(())
}

/// One page each, so that neighbours for the guest are none in the harness.
fn pages_in_any_order(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut rng = context.rng();
    let mut used = Used::started(&disk, 0)?;
    let whole = region_at(&used.memory, MIDDLE.guest);
    let order = rng.order(COUNT);
    for (at, page) in (0..).zip(&order) {
        let mapping = MemoryRegion {
            guest_phys_addr: ELSEWHERE + at * PAGE,
            memory_size: PAGE,
            userspace_addr: whole.userspace_addr + page * PAGE,
            flags_padding: 0,
        };
        used.node.map(&mapping, Access::ReadWrite)?;
    }
    let on_disk = contents(COUNT);
    disk.write(0, &on_disk)?;
    disk.write(COUNT * PAGE, &vec![0; (COUNT * PAGE) as usize])?;
    // In one request, and then in some that begin and end anywhere.
    let empty = read(0);
    let len = (COUNT * PAGE) as u32;
    let all = BlockRequest::read(0, empty.header, empty.status).data(GuestAddr(ELSEWHERE), len);
    assert_eq!(used.request(&all)?, 0);
    let in_order = |used: &Used| -> Vec<u8> {
        let page = |page: &u64| GuestAddr(MIDDLE.guest + page * PAGE);
        let pages = order.iter().map(page);
        pages
            .flat_map(|at| used.memory.read_vec(at, PAGE as usize))
            .collect()
    };
    assert!(in_order(&used) == on_disk, "a read of all");
    let sector = COUNT * PAGE / 512;
    let back =
        BlockRequest::write(sector, empty.header, empty.status).data(GuestAddr(ELSEWHERE), len);
    assert_eq!(used.request(&back)?, 0);
    let written = disk.read(COUNT * PAGE, len as usize)?;
    assert!(written == on_disk, "a write of all");
    let mut expected = on_disk.clone();
    for round in 0..context.times(60) {
        let sectors = rng.within(1..100);
        let from = rng.within(0..COUNT * PAGE / 512 - sectors);
        let (at, bytes) = (rng.index(0..len as usize - 51200), sectors as usize * 512);
        let part = BlockRequest::read(from, empty.header, empty.status)
            .data(GuestAddr(ELSEWHERE + at as u64), bytes as u32);
        assert_eq!(used.request(&part)?, 0);
        let from = from as usize * 512;
        expected[at..at + bytes].copy_from_slice(&on_disk[from..from + bytes]);
        assert!(in_order(&used) == expected, "round {round}");
    }
    used.memory.check_guards();
    Ok(())
}

/// Reads at once: as many as the ring takes.
const READS: u64 = 64;
/// Parts of the memory that [`mappings_come_and_go_under_load`] maps and unmaps, and the bytes of each.
const PARTS: u64 = 8;
const PART: u64 = READS * PAGE;

fn part(used: &Used, number: u64) -> MemoryRegion {
    let whole = region_at(&used.memory, MIDDLE.guest);
    MemoryRegion {
        guest_phys_addr: whole.guest_phys_addr + number * PART,
        memory_size: PART,
        userspace_addr: whole.userspace_addr + number * PART,
        flags_padding: 0,
    }
}

/// Reads into all parts while one of them is unmapped: nothing is written there from then on, and
/// the others do not notice.
fn mappings_come_and_go_under_load(context: &Context) -> Outcome {
    let disk = Disk::null(&NullBlk {
        delay: Some(Duration::from_micros(300)),
        ..NullBlk::default()
    })?;
    disk.write(0, &contents(READS))?;
    let mut rng = context.rng();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        used.node.unmap(&region_at(&used.memory, MIDDLE.guest))?;
        for number in 0..PARTS {
            used.node.map(&part(&used, number), Access::ReadWrite)?;
        }
        for round in 0..context.times(100) {
            one_goes(&mut used, &mut rng).map_err(|error| format!("round {round}: {error}"))?;
        }
        used.works()?;
    }
    Ok(())
}

fn one_goes(used: &mut Used, rng: &mut Rng) -> Outcome {
    let goes = rng.within(0..PARTS);
    let mut reads = Vec::new();
    for slot in 0..READS {
        let number = rng.within(0..PARTS);
        let at = MIDDLE.guest + number * PART + slot * PAGE;
        let read = read(slot);
        let read = BlockRequest::read(read.sector, read.header, read.status);
        reads.push((number, read.data(GuestAddr(at), PAGE as u32)));
    }
    let requests: Vec<_> = reads.iter().map(|(_, read)| read.clone()).collect();
    used.launch(&requests);
    for _ in 0..rng.within(0..2000) {
        std::hint::spin_loop();
    }
    let region = part(used, goes);
    used.node.unmap(&region)?;
    let start = GuestAddr(region.guest_phys_addr);
    let touched = PART as usize;
    used.memory.fill(start, touched, CANARY);
    used.await_used(READS as usize)?;
    assert_all(
        &used.memory,
        start,
        touched,
        CANARY,
        "written after it was unmapped",
    );
    for (slot, (number, read)) in (0..).zip(&reads) {
        let status = used.memory.read_u8(read.status);
        if *number == goes {
            assert!(status <= 1, "status {status}");
            continue;
        }
        assert_eq!(status, 0, "a read into a part that stays");
        let data = used.memory.read_vec(read.data[0].addr, PAGE as usize);
        assert!(data == content(slot), "data of a part that stays");
    }
    used.node.map(&region, Access::ReadWrite)?;
    Ok(())
}

/// vhost-vdpa answers EFAULT whatever is wrong with a message that asks for memory. The oracle sees what stays pinned.
fn what_can_not_be_mapped_changes_nothing(_: &Context) -> Outcome {
    let mut used = Used::started(&Disk::ram(), 0)?;
    let whole = region_at(&used.memory, HIGH.guest);
    let good = MemoryRegion {
        guest_phys_addr: ELSEWHERE,
        ..whole
    };
    let memory = used.memory.clone();
    let (map, offset) = memory.mapping(GuestAddr(HIGH.guest));
    let nothing = MemoryRegion {
        memory_size: 0,
        ..good
    };
    let mapped = used.node.map(&nothing, Access::ReadWrite);
    assert_eq!(mapped, Err(Errno::EINVAL), "nothing");
    let cases = [
        ("twice", whole),
        (
            "overlapping",
            MemoryRegion {
                guest_phys_addr: HIGH.guest - PAGE,
                ..good
            },
        ),
        (
            "behind the last address",
            MemoryRegion {
                guest_phys_addr: u64::MAX - PAGE,
                ..good
            },
        ),
        (
            "memory of the kernel",
            MemoryRegion {
                userspace_addr: 0xffff_8880_0000_0000,
                ..good
            },
        ),
        (
            "nowhere",
            MemoryRegion {
                userspace_addr: PAGE,
                ..good
            },
        ),
    ];
    for (what, region) in cases {
        let mapped = used.node.map(&region, Access::ReadWrite);
        assert_eq!(mapped, Err(Errno::EFAULT), "{what}");
        used.works()?;
    }
    // Some pages can be pinned, and then one can't. Behind the first 512, vhost-vdpa of Linux 7.2 would
    // forget a page that it had pinned.
    const LATE: usize = 100 * PAGE as usize;
    let hole = map.without(offset + LATE, PAGE as usize, || {
        used.node.map(&good, Access::ReadWrite)
    })?;
    assert_eq!(hole, Err(Errno::EFAULT), "a hole in it");
    map.protect(offset + LATE, PAGE as usize, map::Access::Read)?;
    let protected = used.node.map(&good, Access::ReadWrite);
    let readable = used.node.map(&good, Access::Read);
    map.protect(offset + LATE, PAGE as usize, map::Access::ReadWrite)?;
    assert_eq!(
        protected,
        Err(Errno::EFAULT),
        "a page that can only be read"
    );
    readable?;
    used.node.unmap(&good)?;
    // What is mapped already counts.
    process::limit_locked_memory(MIDDLE.bytes as u64)?;
    let limited = used.node.map(&good, Access::ReadWrite);
    process::limit_locked_memory(u64::MAX)?;
    assert_eq!(limited, Err(Errno::EFAULT), "over the limit");
    used.works()?;
    used.node.map(&good, Access::ReadWrite)?;
    let there = read(0);
    let there = BlockRequest::read(0, there.header, there.status);
    assert_eq!(used.request(&there.data(GuestAddr(ELSEWHERE), 4096))?, 0);
    Ok(())
}

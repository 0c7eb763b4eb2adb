// SPDX-License-Identifier: GPL-2.0

//! The control interface: what holds for every command alike.

use crate::{
    device::Device,
    fixtures::commands::{assert_errno, assert_not_permitted, OWNERS_COMMANDS},
    prelude::*,
    sys::{
        ioctl::{self, BadPointer},
        map::{Access, Mapping},
    },
};
use std::io::{Read, Write};
use vblk_core::{
    features::Features,
    queue::MAX_QUEUE_SIZE,
    table::MAX_REGIONS,
    uapi::{self, VringFile},
};

pub const TESTS: &[Test] = tests!["harness":
    what_the_device_offers(20),
    without_an_owner_nothing_is_permitted(20),
    bad_pointers_fault(20),
    arguments_cut_off_by_a_hole_fault(20),
    queue_numbers_are_checked_first(20),
    unknown_commands_are_refused(20),
    one_owner_at_a_time(20),
    reset_owner_forgets_everything(20),
    geometry_is_frozen_while_attached(20),
    stopped_queue_keeps_what_may_change(20),
];

/// The owner's commands whose argument begins with the number of a queue.
const QUEUE_COMMANDS: &[(&str, u32)] = &[
    ("SET_VRING_NUM", uapi::VHOST_SET_VRING_NUM),
    ("SET_VRING_ADDR", uapi::VHOST_SET_VRING_ADDR),
    ("SET_VRING_BASE", uapi::VHOST_SET_VRING_BASE),
    ("GET_VRING_BASE", uapi::VHOST_GET_VRING_BASE),
    ("SET_VRING_KICK", uapi::VHOST_SET_VRING_KICK),
    ("SET_VRING_CALL", uapi::VHOST_SET_VRING_CALL),
    ("SET_VRING_ERR", uapi::VHOST_SET_VRING_ERR),
    (
        "SET_VRING_BUSYLOOP_TIMEOUT",
        uapi::VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
    ),
    (
        "GET_VRING_BUSYLOOP_TIMEOUT",
        uapi::VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
    ),
];

/// Commands that anyone may use who has the file.
const ANYONES_COMMANDS: &[(&str, u32)] = &[
    ("GET_FEATURES", uapi::VHOST_GET_FEATURES),
    ("GET_BACKEND_FEATURES", uapi::VHOST_GET_BACKEND_FEATURES),
    ("GET_INFO", uapi::VHOST_BLK_GET_INFO),
    ("GET_CONFIG", uapi::VHOST_BLK_GET_CONFIG),
];

fn what_the_device_offers(_: &Context) -> Outcome {
    let device = Device::open()?;
    assert_eq!(Features(device.features()?), Features::VHOST);
    assert_eq!(device.backend_features()?, 0);
    let info = device.info()?;
    assert!(info.version >= 1);
    assert_eq!(info.max_queues, 256);
    assert_eq!(info.max_queue_size, u32::from(MAX_QUEUE_SIZE));
    assert_eq!(info.max_mem_regions, MAX_REGIONS as u32);
    assert_eq!(info.has_vdpa, 1);
    assert_eq!(info.reserved, [0; 11]);
    Ok(())
}

fn without_an_owner_nothing_is_permitted(_: &Context) -> Outcome {
    let device = Device::open()?;
    assert_not_permitted(&device);
    device.set_owner()?;
    device.reset_owner()?;
    assert_not_permitted(&device);
    Ok(())
}

fn bad_pointers_fault(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let commands = OWNERS_COMMANDS.iter().chain(ANYONES_COMMANDS);
    for (name, command) in commands {
        for bad in BadPointer::ALL {
            let result = ioctl::with_bad_pointer(&vm.device, *command, bad);
            assert_errno(&format!("{name} at {bad:?}"), result, Errno::EFAULT);
        }
    }
    Ok(())
}

fn arguments_cut_off_by_a_hole_fault(_: &Context) -> Outcome {
    const PAGE: usize = 4096;
    let vm = Vm::new(&Setup::default())?;
    let map = Mapping::anonymous(2 * PAGE)?;
    map.protect(PAGE, PAGE, Access::None)?;
    let commands = OWNERS_COMMANDS.iter().chain(ANYONES_COMMANDS);
    // Four bytes are there, in which a queue's number is 0 and a table has one region.
    map.u32(PAGE - 4)
        .store(0, std::sync::atomic::Ordering::Relaxed);
    for (name, command) in commands {
        // Two, where four are all there are.
        let there = if command >> 16 & 0x3fff == 4 { 2 } else { 4 };
        let result = ioctl::with_mapping(&vm.device, *command, &map, PAGE - there);
        assert_errno(name, result, Errno::EFAULT);
    }
    // A table whose header is there, but not all of its regions.
    map.write(
        PAGE - 8,
        &crate::device::mem_table(0, &[Default::default()])[..8],
    );
    let table = ioctl::with_mapping(&vm.device, uapi::VHOST_SET_MEM_TABLE, &map, PAGE - 8);
    assert_errno("SET_MEM_TABLE", table, Errno::EFAULT);
    // Results go to writable memory only.
    map.protect(0, PAGE, Access::Read)?;
    for (name, command) in [
        ("GET_FEATURES", uapi::VHOST_GET_FEATURES),
        ("GET_VRING_BASE", uapi::VHOST_GET_VRING_BASE),
        (
            "GET_VRING_BUSYLOOP_TIMEOUT",
            uapi::VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
        ),
        ("GET_STATS", uapi::VHOST_BLK_GET_STATS),
        ("GET_INFO", uapi::VHOST_BLK_GET_INFO),
    ] {
        let result = ioctl::with_mapping(&vm.device, command, &map, 0);
        assert_errno(name, result, Errno::EFAULT);
    }
    Ok(())
}

fn queue_numbers_are_checked_first(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let vm = Vm::new(&Setup::default())?;
    for attached in [false, true] {
        if attached {
            vm.attach(&disk.open(Mode::ReadWrite)?)?;
        }
        for (name, command) in QUEUE_COMMANDS {
            for index in [256, 257, 0x1_0000, i32::MAX as u32, u32::MAX] {
                // The rest of the argument is wrong too.
                let mut argument = [0xff; 64];
                argument[..4].copy_from_slice(&index.to_ne_bytes());
                let result = vm.device.call(*command, &mut argument);
                assert_errno(&format!("{name} of queue {index}"), result, Errno::ENOBUFS);
            }
        }
    }
    for index in [1, 255, 256, u32::MAX] {
        let mut argument = VringFile { index, fd: -1 }.to_bytes();
        let result = vm.device.call(uapi::VHOST_BLK_SET_BACKEND, &mut argument);
        assert_errno(&format!("SET_BACKEND of {index}"), result, Errno::ENOBUFS);
    }
    // The last queue there is.
    vm.device.detach()?;
    vm.device.set_vring_num(255, 128)?;
    assert_eq!(vm.device.vring_base(255)?, 0);
    Ok(())
}

fn unknown_commands_are_refused(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    const IOW: u32 = 1 << 30;
    const IOR: u32 = 2 << 30;
    let vhost = |number: u32, size: u32| size << 16 | 0xAF << 8 | number;
    for (name, command) in [
        ("SET_LOG_BASE of 4 bytes", IOW | vhost(0x04, 4)),
        ("SET_LOG_FD", IOW | vhost(0x07, 4)),
        ("SET_VRING_ENDIAN", IOW | vhost(0x13, 8)),
        ("GET_VRING_ENDIAN", IOW | vhost(0x14, 8)),
        (
            "GET_VRING_BUSYLOOP_TIMEOUT both ways",
            IOR | IOW | vhost(0x24, 8),
        ),
        ("NET_SET_BACKEND", IOW | vhost(0x30, 8)),
        ("SCSI_SET_ENDPOINT", IOW | vhost(0x40, 240)),
        ("nothing", 0),
        ("everything", u32::MAX),
        ("TCGETS", 0x5401),
        ("SET_OWNER of another type", 0xAE << 8 | 1),
        ("SET_OWNER with a size", uapi::VHOST_SET_OWNER | 4 << 16),
        ("SET_FEATURES of 4 bytes", IOW | vhost(0x00, 4)),
        ("SET_FEATURES without direction", vhost(0x00, 8)),
        ("SET_VRING_NUM both ways", uapi::VHOST_SET_VRING_NUM | IOR),
        ("SET_BACKEND of 4 bytes", IOW | vhost(0xFF, 4)),
        ("SET_MEM_TABLE with a region", IOW | vhost(0x03, 40)),
    ] {
        let result = ioctl::with_bad_pointer(&vm.device, command, BadPointer::Null);
        assert_errno(name, result, Errno::ENOTTY);
    }
    let mut file = vm.device.file();
    assert_errno(
        "read",
        file.read(&mut [0; 8]).map_err(Errno::from),
        Errno::EINVAL,
    );
    assert_errno(
        "write",
        file.write(&[0; 8]).map_err(Errno::from),
        Errno::EINVAL,
    );
    Ok(())
}

fn one_owner_at_a_time(_: &Context) -> Outcome {
    let device = Device::open()?;
    device.set_owner()?;
    assert_errno("again", device.set_owner(), Errno::EBUSY);
    // Another open file is another device.
    let other = Device::open()?;
    other.set_owner()?;
    device.reset_owner()?;
    device.set_owner()?;
    assert_errno("again", device.set_owner(), Errno::EBUSY);
    Ok(())
}

fn reset_owner_forgets_everything(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let vm = Vm::with_disk(
        &Setup {
            base: 7,
            ..Setup::default()
        },
        &disk,
    )?;
    assert_eq!(vm.device.vring_base(0)?, 7);
    vm.device.reset_owner()?;
    // The disk is let go of at once.
    drop(disk.open(Mode::ReadWrite)?);
    vm.device.set_owner()?;
    assert_eq!(vm.device.vring_base(0)?, 0);
    assert_eq!(vm.device.stats()?, Default::default());
    let attach = |expected| {
        let result = disk
            .open(Mode::ReadWrite)
            .and_then(|disk| vm.device.attach(&disk));
        assert_errno("attach", result, expected);
    };
    attach(Errno::EFAULT);
    vm.device.set_mem_table(&vm.memory.table())?;
    attach(Errno::EINVAL);
    vm.queues[0].tell_geometry(&vm.device, 7)?;
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    // Nothing is left of the eventfds.
    vm.queues[0].kick();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(vm.queues[0].kick.take()?, 1, "the kick that was not taken");
    assert_eq!(vm.device.stats()?, Default::default());
    Ok(())
}

fn geometry_is_frozen_while_attached(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let vm = Vm::new(&Setup::default())?;
    vm.attach(&file)?;
    let busy = |what: &str, result: Result<(), Errno>| assert_errno(what, result, Errno::EBUSY);
    let device = &vm.device;
    busy("SET_OWNER", device.set_owner());
    busy("SET_FEATURES", device.set_features(0));
    busy(
        "SET_FEATURES, the same",
        device.set_features(Features::SUPPORTED.0),
    );
    busy("SET_BACKEND_FEATURES", device.set_backend_features(0));
    busy("SET_MEMORY_PINNED", device.set_memory_pinned(0));
    for index in [0, 1, 255] {
        busy("SET_VRING_NUM", device.set_vring_num(index, 256));
        busy("SET_VRING_NUM, impossible", device.set_vring_num(index, 3));
        busy("SET_VRING_BASE", device.set_vring_base(index, 0));
        let addr = uapi::VringAddr {
            index,
            desc_user_addr: vm.queues[0].addr().desc_user_addr + 4096,
            ..vm.queues[0].addr()
        };
        busy("SET_VRING_ADDR", device.set_vring_addr(&addr));
    }
    busy("SET_BACKEND", device.attach(&file));
    // Afterwards everything may be changed again.
    device.detach()?;
    device.detach()?;
    device.set_features(0)?;
    vm.queues[0].tell_geometry(device, 0)?;
    device.attach(&file)?;
    Ok(())
}

fn stopped_queue_keeps_what_may_change(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let vm = Vm::new(&Setup::default())?;
    for attached in [false, true, false] {
        match attached {
            true => vm.attach(&disk.open(Mode::ReadWrite)?)?,
            false => vm.device.detach()?,
        }
        vm.device.set_mem_table(&vm.memory.table())?;
        vm.device.set_serial(&[7; 20])?;
        vm.device.set_writeback(1)?;
        vm.device.set_config_call(Some(&vm.queues[0].call))?;
        vm.device.set_config_call(None)?;
        vm.device.stats()?;
        vm.device.info()?;
        assert_eq!(vm.device.vring_base(0)?, 0);
        assert_eq!(vm.device.vring_base(100)?, 0);
        vm.queues[0].tell_files(&vm.device)?;
        vm.device.set_vring_kick(99, None)?;
        vm.device.set_vring_call(0, None)?;
        vm.device.set_vring_err(0, None)?;
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

//! What a device that is served through vhost-vdpa tells about itself, and what each command does in
//! each state.

use crate::{
    device::Device,
    fixtures::vdpa::{
        addr, assert_refused, plain, read, reads, region_at, Used, CANARY, DRIVER_OK,
    },
    memory::{HIGH, LOW, MIDDLE},
    prelude::*,
    sys::{
        ioctl::{self, BadPointer},
        poll::EventFd,
    },
    vhost_vdpa::{self, status, Access, VdpaDevice, VhostVdpa},
};
use std::os::{
    fd::{AsFd, AsRawFd},
    linux::fs::MetadataExt,
};
use vblk_core::{
    config::{CONFIG_BYTES, CONFIG_WCE},
    features::{bit, Features},
    uapi::{
        self, MemoryRegion, VdpaAdd, VdpaInfo, VdpaName, VdpaStats, VringAddr, VDPA_NAME_BYTES,
        VDPA_PACKED, VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK,
    },
};

pub const TESTS: &[Test] = tests!["vdpa":
    what_a_vmm_asks_before_it_begins(20),
    wrong_arguments_have_the_errors_of_the_header(20),
    as_many_queues_as_a_vmm_can_have(60),
    each_command_in_each_state(60),
    features_that_are_not_enough_are_refused(20),
    a_ring_that_is_not_mapped_asks_for_a_reset(20),
    a_ring_unmapped_while_suspended_is_not_used(20),
    writeback_by_the_configuration_space(20),
    a_read_only_disk_is_not_written(20),
];

// Of <linux/vhost.h>.
const GET_DEVICE_ID: u32 = 0x8004_AF70;
const GET_VRING_NUM: u32 = 0x8002_AF76;
const GET_IOVA_RANGE: u32 = 0x8010_AF78;
const GET_CONFIG_SIZE: u32 = 0x8004_AF79;
const GET_AS_NUM: u32 = 0x8004_AF7A;
const GET_VQS_COUNT: u32 = 0x8004_AF80;
const GET_GROUP_NUM: u32 = 0x8004_AF81;

/// VIRTIO_ID_BLOCK.
const BLOCK: u64 = 2;

/// IO virtual addresses at which nothing is mapped.
const NOWHERE: u64 = 1 << 40;

/// Reads the number that a command of this kind returns.
fn number(node: &VhostVdpa, command: u32) -> Result<u64, Errno> {
    let mut bytes = [0; 16];
    node.call(command, &mut bytes)?;
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    Ok(u64::from_le_bytes(first))
}

/// Returns what VHOST_BLK_VDPA_GET tells of the device with this name.
fn info(name: &str) -> Result<VdpaInfo, Errno> {
    let module = vhost_vdpa::module()?;
    let mut index = 0;
    loop {
        let asked = VdpaInfo {
            index,
            ..VdpaInfo::default()
        };
        let mut bytes = asked.to_bytes();
        ioctl::with_bytes(&module, uapi::VHOST_BLK_VDPA_GET, &mut bytes)?;
        let info = VdpaInfo::from_bytes(&bytes);
        if info.name[..name.len()] == *name.as_bytes() && info.name[name.len()] == 0 {
            return Ok(info);
        }
        index += 1;
    }
}

fn what_a_vmm_asks_before_it_begins(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for (queues, flags, mode) in [
        (1, 0, Mode::ReadWrite),
        (4, VDPA_PACKED, Mode::ReadWrite),
        (128, VDPA_PACKED, Mode::ReadOnly),
    ] {
        let file = disk.open(mode)?;
        let serial = *b"0123456789abcdefghij";
        let add = VdpaAdd {
            serial,
            queue_size: 128,
            ..plain(queues, flags)
        };
        let (fits, config) = Device::open()?.config(&file, queues, 128)?;
        let used = Used::prepared_on(&file, add)?;
        drop(file);
        let node = &used.node;
        assert_eq!(number(node, GET_DEVICE_ID)?, BLOCK);
        assert_eq!(number(node, GET_VQS_COUNT)?, u64::from(queues));
        assert_eq!(number(node, GET_VRING_NUM)?, 128);
        assert_eq!(number(node, GET_CONFIG_SIZE)?, CONFIG_BYTES as u64);
        assert_eq!(number(node, GET_AS_NUM)?, 1);
        assert_eq!(number(node, GET_GROUP_NUM)?, 1);
        let mut range = [0xA5; 16];
        node.call(GET_IOVA_RANGE, &mut range)?;
        assert_eq!(range, *[[0; 8], [0xFF; 8]].as_flattened(), "all addresses");
        // SUSPEND, RESUME, ENABLE_AFTER_DRIVER_OK.
        let backend = number(node, uapi::VHOST_GET_BACKEND_FEATURES)?;
        assert_eq!(backend & 0x70, 0x70, "{backend:#x}");

        let mut expected = fits | Features::TRANSPORT.0;
        if flags & VDPA_PACKED != 0 {
            expected |= 1 << bit::RING_PACKED;
        }
        assert_eq!(used.features, expected);
        assert_eq!(node.config(0, CONFIG_BYTES)?, config[..CONFIG_BYTES]);
        // Beyond its end, and nothing.
        for (offset, len) in [
            (CONFIG_BYTES as u32, 1),
            (0, CONFIG_BYTES + 1),
            (u32::MAX, 1),
            (0, 0),
        ] {
            let result = node.config(offset, len);
            assert_refused("the configuration space", result, Errno::EINVAL);
        }

        let told = info(used.device.name())?;
        let device = std::fs::metadata(disk.path())?.st_rdev();
        let place = (libc::major(device), libc::minor(device));
        assert_eq!((told.major, told.minor), place);
        assert_eq!((told.queues, told.queue_size), (queues, 128));
        assert_eq!((told.flags, told.serial), (flags, serial));
        assert_eq!(told.read_only, u32::from(mode == Mode::ReadOnly));
        assert_eq!(told.status, 0, "no driver uses it");
        used.node.set_status(status::DRIVER)?;
        let after = info(used.device.name())?;
        assert_eq!(after.status, u32::from(status::DRIVER));
        assert_eq!(used.device.stats(queues - 1)?.requests, 0);
    }
    assert_refused("no device", info("none"), Errno::ENOENT);
    Ok(())
}

/// Arguments that each of the commands refuses, besides those of a device to make.
fn wrong_arguments_have_the_errors_of_the_header(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let module = vhost_vdpa::module()?;
    let call = |command, mut bytes: Vec<u8>| ioctl::with_bytes(&module, command, &mut bytes);
    let file = disk.open(Mode::ReadWrite)?;
    let name = |name: &[u8]| {
        let mut padded = [0; VDPA_NAME_BYTES];
        padded[..name.len()].copy_from_slice(name);
        padded
    };
    let add = VdpaAdd {
        fd: file.as_raw_fd(),
        name: name(b"vblk-wrong"),
        ..plain(1, 0)
    };
    let stats = VdpaStats::default();
    let endless = [b'x'; VDPA_NAME_BYTES];
    for bad in [
        name(b""),
        name(b"."),
        name(b".."),
        name(b"a/b"),
        name(b"a b"),
        endless,
    ] {
        let what = String::from_utf8_lossy(&bad).into_owned();
        let add = VdpaAdd { name: bad, ..add };
        assert_refused(
            &what,
            call(uapi::VHOST_BLK_VDPA_ADD, add.to_bytes().into()),
            Errno::EINVAL,
        );
        let del = VdpaName { name: bad };
        assert_refused(
            &what,
            call(uapi::VHOST_BLK_VDPA_DEL, del.to_bytes().into()),
            Errno::EINVAL,
        );
        let stats = VdpaStats { name: bad, ..stats };
        let refused = call(uapi::VHOST_BLK_VDPA_GET_STATS, stats.to_bytes().into());
        assert_refused(&what, refused, Errno::EINVAL);
    }
    let closed = VdpaAdd { fd: -1, ..add };
    let refused = call(uapi::VHOST_BLK_VDPA_ADD, closed.to_bytes().into());
    assert_refused("no file", refused, Errno::EBADF);
    drop(file);
    let unreadable = disk.open(Mode::WriteOnly)?;
    let add = VdpaAdd {
        fd: unreadable.as_raw_fd(),
        ..add
    };
    let refused = call(uapi::VHOST_BLK_VDPA_ADD, add.to_bytes().into());
    assert_refused("a disk that can't be read", refused, Errno::EBADF);
    drop(unreadable);
    let none = VdpaStats {
        name: name(b"none"),
        ..stats
    };
    let refused = call(uapi::VHOST_BLK_VDPA_GET_STATS, none.to_bytes().into());
    assert_refused("no device", refused, Errno::ENODEV);
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, plain(2, 0))?;
    let there = VdpaStats {
        name: name(device.name().as_bytes()),
        ..stats
    };
    for (what, stats, errno) in [
        (
            "no such queue",
            VdpaStats { queue: 2, ..there },
            Errno::ENOBUFS,
        ),
        (
            "a reserved field",
            VdpaStats {
                reserved: 1,
                ..there
            },
            Errno::EINVAL,
        ),
    ] {
        let refused = call(uapi::VHOST_BLK_VDPA_GET_STATS, stats.to_bytes().into());
        assert_refused(what, refused, errno);
    }
    let listed = VdpaInfo {
        reserved: [0, 1],
        ..VdpaInfo::default()
    };
    let refused = call(uapi::VHOST_BLK_VDPA_GET, listed.to_bytes().into());
    assert_refused("a reserved field", refused, Errno::EINVAL);
    for command in [
        uapi::VHOST_BLK_VDPA_ADD,
        uapi::VHOST_BLK_VDPA_DEL,
        uapi::VHOST_BLK_VDPA_GET,
        uapi::VHOST_BLK_VDPA_GET_STATS,
    ] {
        let refused = ioctl::with_bad_pointer(&module, command, BadPointer::Null);
        assert_refused("a bad pointer", refused, Errno::EFAULT);
    }
    Ok(())
}

/// vhost_vdpa keeps some 19 KiB for each queue, all in one piece, which the kernel does not have for
/// 256 of them: a device with more queues than it can have is refused, and one that is made works.
fn as_many_queues_as_a_vmm_can_have(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    for queues in [64, 128, 192, 256] {
        match VdpaDevice::new(&file, plain(queues, 0)) {
            Ok(device) => {
                let mut used = Used::of(device)?;
                assert_eq!(number(&used.node, GET_VQS_COUNT)?, u64::from(queues));
                used.restart()?;
                used.works()
                    .map_err(|error| format!("{queues} queues: {error}"))?;
            }
            Err(error) => {
                assert!(queues > 128, "{queues} queues: {error}");
                assert_eq!(error, Errno::EINVAL, "{queues} queues");
            }
        }
    }
    Ok(())
}

/// A state of a device, and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Driver,
    FeaturesOk,
    Running,
    Suspended,
    Broken,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Fresh,
        Self::Driver,
        Self::FeaturesOk,
        Self::Running,
        Self::Suspended,
        Self::Broken,
    ];

    /// The device status.
    fn status(self) -> u8 {
        match self {
            Self::Fresh => 0,
            Self::Driver => status::DRIVER,
            Self::FeaturesOk => status::DRIVER | status::FEATURES_OK,
            Self::Running | Self::Suspended => DRIVER_OK,
            Self::Broken => DRIVER_OK | status::NEEDS_RESET,
        }
    }

    /// Brings a device there that was just reset.
    fn reach(self, used: &mut Used) -> Result<(), Errno> {
        used.node.set_status(0)?;
        match self {
            Self::Fresh => Ok(()),
            Self::Driver => used.node.set_status(status::DRIVER),
            Self::FeaturesOk => used.negotiate(),
            Self::Running => used.restart(),
            Self::Suspended => {
                used.restart()?;
                used.node.suspend()
            }
            Self::Broken => {
                used.negotiate()?;
                used.set_ring(used.driver.base())?;
                used.node.set_addr(&nowhere(used))?;
                used.node.enable(0, true)?;
                used.node.set_status(DRIVER_OK)
            }
        }
    }

    /// The driver is ready, so that what is set up does not change any more.
    fn is_set_up(self) -> bool {
        matches!(self, Self::Running | Self::Broken)
    }
}

fn nowhere(used: &Used) -> VringAddr {
    VringAddr {
        desc_user_addr: NOWHERE,
        ..addr(used.driver.layout())
    }
}

/// A command, and when it is refused.
struct Command {
    name: &'static str,
    call: fn(&Used) -> Result<(), Errno>,
    error: fn(Stage) -> Option<Errno>,
    /// A queue that is served is served afterwards too.
    goes_on: bool,
}

fn never(_: Stage) -> Option<Errno> {
    None
}

fn when_set_up(stage: Stage) -> Option<Errno> {
    stage.is_set_up().then_some(Errno::EINVAL)
}

fn with_features(stage: Stage) -> Option<Errno> {
    let accepted = stage.status() & status::FEATURES_OK != 0;
    accepted.then_some(Errno::EBUSY)
}

/// Bits of the status can only be added, but for a reset.
fn with_a_driver(stage: Stage) -> Option<Errno> {
    (stage != Stage::Fresh).then_some(Errno::EINVAL)
}

fn fd(event: &EventFd) -> i32 {
    event.as_fd().as_raw_fd()
}

/// Maps memory elsewhere, and unmaps it.
fn map_elsewhere(used: &Used) -> Result<(), Errno> {
    let region = MemoryRegion {
        guest_phys_addr: NOWHERE,
        ..region_at(&used.memory, HIGH.guest)
    };
    used.node.map(&region, Access::ReadWrite)?;
    used.node.unmap(&region)
}

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "SET_FEATURES", error: with_features, goes_on: true, call: |used| used.node.set_features(used.features) },
    Command { name: "the same status", error: never, goes_on: true, call: |used| used.node.set_status(used.node.status()?) },
    Command { name: "less status", error: with_a_driver, goes_on: true, call: |used| match used.node.set_status(1) {
        Ok(()) => used.node.set_status(0),
        refused => refused,
    } },
    Command { name: "SET_VRING_NUM", error: never, goes_on: true, call: |used| used.node.set_num(0, 256) },
    Command { name: "SET_VRING_BASE", error: when_set_up, goes_on: true, call: |used| used.node.set_base(0, used.node.base(0)?) },
    Command { name: "SET_VRING_ADDR", error: when_set_up, goes_on: true, call: |used| used.node.set_addr(&addr(used.driver.layout())) },
    Command { name: "GET_VRING_BASE", error: never, goes_on: true, call: |used| used.node.base(0).map(drop) },
    Command { name: "SET_VRING_ENABLE", error: never, goes_on: true, call: |used| used.node.enable(0, true) },
    Command { name: "SET_VRING_ENABLE with 0", error: never, goes_on: false, call: |used| used.node.enable(0, false) },
    Command { name: "SET_VRING_KICK", error: never, goes_on: true, call: |used| used.node.set_file(VHOST_SET_VRING_KICK, 0, fd(&used.kick)) },
    Command { name: "SET_VRING_CALL", error: never, goes_on: true, call: |used| used.node.set_file(VHOST_SET_VRING_CALL, 0, fd(&used.call)) },
    Command { name: "SET_CONFIG_CALL", error: never, goes_on: true, call: |used| used.node.set_config_call(fd(&used.call)) },
    Command { name: "no SET_CONFIG_CALL", error: never, goes_on: true, call: |used| used.node.set_config_call(-1) },
    Command { name: "GET_CONFIG", error: never, goes_on: true, call: |used| used.node.config(0, CONFIG_BYTES).map(drop) },
    Command { name: "SET_CONFIG", error: never, goes_on: true, call: |used| used.node.set_config(CONFIG_WCE as u32, &[1]) },
    Command { name: "a mapping", error: never, goes_on: true, call: map_elsewhere },
    Command { name: "a kick", error: never, goes_on: true, call: |used| used.kick.signal() },
    Command { name: "SUSPEND", error: never, goes_on: false, call: |used| used.node.suspend() },
    // A device that must be reset can't go on, and says nothing else.
    Command { name: "RESUME", error: never, goes_on: true, call: |used| used.node.resume() },
    Command { name: "SET_VRING_NUM of a queue that there is not", error: |_| Some(Errno::ENOBUFS), goes_on: true, call: |used| used.node.set_num(1, 256) },
    Command { name: "SET_VRING_ENABLE of a queue that there is not", error: |_| Some(Errno::ENOBUFS), goes_on: true, call: |used| used.node.enable(1, true) },
];

fn each_command_in_each_state(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::prepared(&disk, packed)?;
        for stage in Stage::ALL {
            for command in COMMANDS {
                let what = format!("{} when {stage:?}", command.name);
                let reached = stage.reach(&mut used);
                reached.map_err(|error| format!("{what}: {error} on the way"))?;
                assert_eq!(used.node.status()?, stage.status(), "before {what}");
                let result = (command.call)(&used);
                assert_eq!(result.err(), (command.error)(stage), "{what}");
                assert_eq!(used.node.status()?, stage.status(), "after {what}");
                if stage == Stage::Suspended {
                    used.node.resume()?;
                }
                let served = matches!(stage, Stage::Running | Stage::Suspended);
                if served
                    && (command.goes_on || command.name == "SUSPEND" && stage == Stage::Suspended)
                {
                    used.works().map_err(|error| format!("{what}: {error}"))?;
                }
                // A driver that starts anew has a device that works, whatever was before.
                used.restart()?;
                used.works()
                    .map_err(|error| format!("after {what}: {error}"))?;
            }
        }
    }
    Ok(())
}

fn features_that_are_not_enough_are_refused(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let packed = Used::prepared(&disk, VDPA_PACKED)?;
    assert!(Features(packed.features).has(bit::RING_PACKED));
    drop(packed);
    let mut used = Used::prepared(&disk, 0)?;
    let all = used.features;
    assert!(!Features(all).has(bit::RING_PACKED));
    for (what, features) in [
        ("none", 0),
        ("an unknown one", all | 1 << 63),
        ("packed rings", all | 1 << bit::RING_PACKED),
        ("several queues", all | 1 << bit::BLK_MQ),
        ("not VERSION_1", all & !(1 << bit::VERSION_1)),
        ("not ACCESS_PLATFORM", all & !(1 << bit::ACCESS_PLATFORM)),
    ] {
        used.node.set_status(0)?;
        used.node.set_status(status::DRIVER)?;
        let refused = used.node.set_features(features);
        assert_refused(what, refused, Errno::EINVAL);
        // The driver reads it again to learn whether they were accepted (virtio 1.2, 3.1.1).
        used.node.set_status(status::DRIVER | status::FEATURES_OK)?;
        assert_eq!(used.node.status()?, status::DRIVER, "{what}");
        // One that does not is not served.
        used.set_ring(used.driver.base())?;
        used.node.enable(0, true)?;
        used.node.set_status(DRIVER_OK)?;
        let needs_reset = used.node.status()? & status::NEEDS_RESET;
        assert_ne!(needs_reset, 0, "{what}");
        used.restart()?;
        used.works()?;
    }
    // These are all that it needs.
    used.node.set_status(0)?;
    used.features = 1 << bit::VERSION_1 | 1 << bit::ACCESS_PLATFORM;
    used.restart()?;
    used.works()
}

/// A queue can't start, before or after the driver is ready.
fn a_ring_that_is_not_mapped_asks_for_a_reset(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::prepared(&disk, packed)?;
        for enabled_first in [true, false] {
            let config = EventFd::new()?;
            used.node.set_status(0)?;
            used.node.set_config_call(fd(&config))?;
            used.negotiate()?;
            used.set_ring(used.driver.base())?;
            used.node.set_addr(&nowhere(&used))?;
            if enabled_first {
                used.node.enable(0, true)?;
                used.node.set_status(DRIVER_OK)?;
            } else {
                used.node.set_status(DRIVER_OK)?;
                assert_eq!(used.node.status()?, DRIVER_OK, "nothing is wrong yet");
                used.node.enable(0, true)?;
            }
            assert_eq!(used.node.status()?, DRIVER_OK | status::NEEDS_RESET);
            assert_ne!(config.wait(PATIENCE)?, 0, "no interrupt");
            used.restart()?;
            used.works()?;
        }
    }
    Ok(())
}

/// Its pages belong to another use when the device goes on.
fn a_ring_unmapped_while_suspended_is_not_used(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        used.works()?;
        let config = EventFd::new()?;
        used.node.set_config_call(fd(&config))?;
        used.node.suspend()?;
        used.launch(&reads(4));
        let ring = region_at(&used.memory, LOW.guest);
        used.node.unmap(&ring)?;
        used.memory.fill(GuestAddr(LOW.guest), LOW.bytes, CANARY);
        // It may fail, but not go on.
        let _ = used.node.resume();
        assert_eq!(used.node.status()?, DRIVER_OK | status::NEEDS_RESET);
        assert_ne!(config.wait(PATIENCE)?, 0, "no interrupt");
        used.kick.signal()?;
        // A reset waits for whatever it does.
        used.node.set_status(0)?;
        let bytes = used.memory.read_vec(GuestAddr(LOW.guest), LOW.bytes);
        let at = bytes.iter().position(|byte| *byte != CANARY);
        assert_eq!(at, None, "written after it was unmapped");
        used.node.map(&ring, Access::ReadWrite)?;
        used.restart()?;
        used.works()?;
    }
    Ok(())
}

fn writeback_by_the_configuration_space(_: &Context) -> Outcome {
    let mut used = Used::started(&Disk::ram(), 0)?;
    let wce = |used: &Used| used.node.config(CONFIG_WCE as u32, 1);
    assert_eq!(wce(&used)?, [1]);
    used.node.set_config(CONFIG_WCE as u32, &[0])?;
    assert_eq!(wce(&used)?, [0]);
    // A VMM may write the whole space for its guest. Nothing else in it changes.
    let before = used.node.config(0, CONFIG_BYTES)?;
    let mut space = vec![0xA5; CONFIG_BYTES];
    space[CONFIG_WCE] = 1;
    used.node.set_config(0, &space)?;
    assert_eq!(wce(&used)?, [1]);
    used.node.set_config(0, &before)?;
    assert_eq!(used.node.config(0, CONFIG_BYTES)?, before);
    used.works()?;
    // Another driver begins as this one did.
    used.restart()?;
    assert_eq!(wce(&used)?, [1]);
    used.works()
}

fn a_read_only_disk_is_not_written(_: &Context) -> Outcome {
    let disk = Disk::ram();
    disk.write(0, &[7; 4096])?;
    let mut used = Used::prepared_on(&disk.open(Mode::ReadOnly)?, plain(1, 0))?;
    assert!(Features(used.features).has(bit::BLK_RO));
    used.restart()?;
    used.memory.fill(GuestAddr(MIDDLE.guest), 4096, CANARY);
    let place = read(0);
    let write = BlockRequest::write(0, place.header, place.status);
    let write = write.data(GuestAddr(MIDDLE.guest), 4096);
    assert_eq!(used.request(&write)?, 1);
    assert_eq!(disk.read(0, 4096)?, [7; 4096]);
    used.works()?;
    assert_eq!(
        used.memory.read_vec(GuestAddr(MIDDLE.guest), 4096),
        [7; 4096]
    );
    Ok(())
}

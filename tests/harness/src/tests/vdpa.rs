// SPDX-License-Identifier: GPL-2.0

//! What only vhost-vdpa can do to a device: its status, its mappings, single queues, suspending. What
//! requests do there is tested by those tests that run over it too.

use crate::{
    child::{self, Role},
    disk::{self, TestDisk},
    fixtures::vdpa::{
        addr, assert_refused, delay, layout, plain, read, reads, region_at, slow_disk, taken, Used,
        CANARY, DRIVER_OK,
    },
    kmod,
    memory::{GuestMemory, LOW, MIDDLE, REGIONS},
    prelude::*,
    rng::Rng,
    sys::{poll::EventFd, process},
    vhost_vdpa::{self, status, Access, VdpaDevice, VhostVdpa},
};
use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
    slice::from_ref,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use vblk_core::{
    features::{bit, Features},
    testing::Driver,
    uapi::{
        MemoryRegion, VdpaAdd, VringAddr, VDPA_PACKED, VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK,
    },
};

pub const TESTS: &[Test] = tests!["vdpa":
    makers_need_cap_sys_admin_and_good_arguments(20),
    status_machine_in_any_order(60),
    queues_are_enabled_after_driver_ok(20),
    two_devices_at_once(20),
    suspend_and_resume(40),
    positions_survive_another_driver(20),
    unmapping_waits_for_io(40),
    memory_that_is_mapped_later_is_found(20),
    a_ring_that_is_unmapped_stops_its_queue(20),
    read_only_mappings_are_not_written(20),
    a_broken_ring_asks_for_a_reset(20),
    configuration_changes_are_told(20),
    changes_while_nothing_is_served_are_told(20),
    a_vmm_killed_with_requests_in_flight(60),
    who_asks_while_a_vmm_waits_can_be_killed(40),
    deleting_waits_for_the_vmm(40),
    the_module_stays_while_a_device_exists(20),
];

pub const ROLES: &[Role] = &[IN_FLIGHT, ASKING];

const IN_FLIGHT: Role = Role {
    name: "vdpa-in-flight",
    run: be_in_flight,
};

const ASKING: Role = Role {
    name: "vdpa-asking",
    run: ask,
};

fn makers_need_cap_sys_admin_and_good_arguments(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let add = |change: &dyn Fn(&mut VdpaAdd)| {
        let mut add = plain(1, 0);
        change(&mut add);
        VdpaDevice::new(&file, add).map(drop)
    };
    add(&|_| ())?;
    for (what, change) in [
        ("no queue", (|add| add.queues = 0) as fn(&mut VdpaAdd)),
        ("too many queues", |add| add.queues = 257),
        ("no entries", |add| add.queue_size = 0),
        ("no power of two", |add| add.queue_size = 100),
        ("too many entries", |add| add.queue_size = 65536),
        ("an unknown flag", |add| add.flags = 4),
        ("a reserved field", |add| add.reserved[5] = 1),
    ] {
        assert_refused(what, add(&change), Errno::EINVAL);
    }
    let module = vhost_vdpa::module()?;
    assert_refused(
        "no device",
        vhost_vdpa::delete(&module, "none"),
        Errno::ENODEV,
    );
    for name in ["", "..", "a/b", "a b", "\u{7f}"] {
        let result = vhost_vdpa::delete(&module, name);
        assert_refused(name, result, Errno::EINVAL);
    }
    let device = VdpaDevice::new(&file, plain(1, 0))?;
    let taken = device.make_again(&module, &file, plain(1, 0));
    assert_refused("a taken name", taken, Errno::EEXIST);
    let name = device.name().to_owned();
    process::as_user(65534, || {
        let again = device.make_again(&module, &file, plain(1, 0));
        assert_refused("add", again, Errno::EPERM);
        assert_refused("delete", vhost_vdpa::delete(&module, &name), Errno::EPERM);
    })?;
    assert_refused("no such queue", device.stats(1), Errno::ENOBUFS);
    assert_eq!(device.stats(0)?.requests, 0);
    let text = std::fs::File::open("/proc/self/exe")?;
    let result = VdpaDevice::new(&text, plain(1, 0)).map(drop);
    assert_refused("no block device", result, Errno::ENOTBLK);
    Ok(())
}

/// One command of a driver or a VMM, right or wrong.
fn anything(used: &Used, rng: &mut Rng) {
    let node = &used.node;
    let bits = [0, 1, 3, 4, 8, 11, 15, 64, 128, 255];
    let queue = rng.within(0..3) as u32;
    // Whatever it says: nothing crashes, and nothing hangs.
    let _ = match rng.within(0..16) {
        0 => node.set_status(0),
        1 => node.set_status(bits[rng.index(0..bits.len())]),
        2 => node.set_status(DRIVER_OK),
        3 => node.set_features(used.features),
        4 => node.set_features(rng.bits()),
        5 => node.enable(queue, rng.one_in(2)),
        6 => node.set_num(queue, 1 << rng.within(0..10)),
        7 => node.set_base(queue, rng.bits() as u32),
        8 => node.base(queue).map(drop),
        9 => node.set_addr(&VringAddr {
            index: queue,
            ..addr(used.driver.layout())
        }),
        10 => node.set_addr(&VringAddr {
            index: queue,
            desc_user_addr: rng.within(0..1 << 40) << 4,
            ..addr(used.driver.layout())
        }),
        11 => node.suspend(),
        12 => node.resume(),
        13 => node.set_config(rng.within(0..80) as u32, &[1]),
        14 => node.config(0, 72).map(drop),
        _ => used.kick.signal(),
    };
    node.status().expect("the status");
}

fn status_machine_in_any_order(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut rng = context.rng();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::prepared(&disk, packed)?;
        for _ in 0..context.times_or(400, 4000) {
            anything(&used, &mut rng);
        }
        // And then a driver comes that does it right.
        used.node.set_status(0)?;
        assert_eq!(used.node.status()?, 0);
        let event_idx = Features(used.features).has(bit::RING_EVENT_IDX);
        used.driver = Driver::new(used.memory.clone(), layout(used.features), event_idx);
        used.start(used.driver.base())?;
        assert_eq!(used.node.status()?, DRIVER_OK);
        used.works()?;
    }
    Ok(())
}

fn queues_are_enabled_after_driver_ok(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut used = Used::prepared(&disk, 0)?;
    used.negotiate()?;
    used.set_ring(used.driver.base())?;
    used.node.set_status(DRIVER_OK)?;
    let request = read(0);
    used.launch(from_ref(&request));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(
        used.driver.poll_used(),
        None,
        "served before it was enabled"
    );
    used.node.enable(0, true)?;
    used.await_used(1)?;
    // What is served does not change.
    let elsewhere = VringAddr {
        desc_user_addr: 0x20_0000,
        ..addr(used.driver.layout())
    };
    assert!(used.node.set_addr(&elsewhere).is_err());
    // This one has no result by which it could be refused.
    used.node.set_num(0, 8)?;
    used.node.enable(0, false)?;
    used.launch(&[read(1)]);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(
        used.driver.poll_used(),
        None,
        "served after it was disabled"
    );
    used.node.enable(0, true)?;
    used.await_used(1)?;
    // More requests than the ring would have entries.
    (0..20).try_for_each(|_| used.works())
}

fn two_devices_at_once(_: &Context) -> Outcome {
    let (first, second) = (Disk::ram(), Disk::second_ram());
    first.write(0, &[1; 4096])?;
    second.write(0, &[2; 4096])?;
    let mut one = Used::started(&first, 0)?;
    let mut two = Used::started(&second, VDPA_PACKED)?;
    for (used, content) in [(&mut one, 1), (&mut two, 2)] {
        used.works()?;
        let data = used.memory.read_vec(GuestAddr(MIDDLE.guest), 4096);
        assert!(data.iter().all(|byte| *byte == content));
    }
    let stats = (one.device.stats(0)?, two.device.stats(0)?);
    assert_eq!((stats.0.requests, stats.1.bytes_read), (1, 4096));
    Ok(())
}

fn suspend_and_resume(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        used.launch(&reads(16));
        while used.node.base(0)? as u16 != taken(&used) as u16 {
            thread::sleep(Duration::from_millis(1));
        }
        used.node.suspend()?;
        // Nothing is in flight any more, and nothing else is taken.
        assert_eq!(used.node.base(0)?, taken(&used));
        for request in reads(16) {
            assert!(
                used.driver.poll_used().is_some(),
                "in flight while suspended"
            );
            assert_eq!(used.memory.read_u8(request.status), 0);
        }
        let before = taken(&used);
        used.launch(&reads(16));
        thread::sleep(2 * delay(context));
        assert_eq!(used.node.base(0)?, before, "taken while suspended");
        assert_eq!(used.driver.poll_used(), None, "answered while suspended");
        used.node.resume()?;
        used.await_used(16)?;
    }
    Ok(())
}

fn positions_survive_another_driver(_: &Context) -> Outcome {
    let disk = Disk::ram();
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        for _ in 0..300 {
            used.works()?;
        }
        used.node.suspend()?;
        let base = used.node.base(0)?;
        assert_eq!(base, taken(&used));
        // As the target of a migration does: a device that knows nothing.
        used.node.set_status(0)?;
        used.start(base)?;
        used.works()?;
    }
    Ok(())
}

fn unmapping_waits_for_io(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    for packed in [0, VDPA_PACKED] {
        let mut used = Used::started(&disk, packed)?;
        let data = region_at(&used.memory, MIDDLE.guest);
        used.launch(&reads(64));
        while used.node.base(0)? as u16 != taken(&used) as u16 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(used.driver.poll_used(), None, "answered already");
        used.node.unmap(&data)?;
        // From here on the memory is for another use.
        used.memory
            .fill(GuestAddr(MIDDLE.guest), MIDDLE.bytes, CANARY);
        used.await_used(64)?;
        thread::sleep(delay(context));
        let bytes = used.memory.read_vec(GuestAddr(MIDDLE.guest), MIDDLE.bytes);
        let at = bytes.iter().position(|byte| *byte != CANARY);
        assert_eq!(at, None, "written after it was unmapped");
        // It is not there for requests either.
        let request = read(0);
        used.launch(from_ref(&request));
        used.await_used(1)?;
        assert_eq!(used.memory.read_u8(request.status), 1);
        used.node.map(&data, Access::ReadWrite)?;
        used.works()?;
    }
    Ok(())
}

fn memory_that_is_mapped_later_is_found(_: &Context) -> Outcome {
    const ELSEWHERE: u64 = 1 << 40;
    let disk = Disk::ram();
    disk.write(0, &[7; 4096])?;
    let mut used = Used::started(&disk, 0)?;
    let usual = read(0);
    let request = BlockRequest::read(0, usual.header, usual.status);
    let request = request.data(GuestAddr(ELSEWHERE), 4096);
    used.launch(from_ref(&request));
    used.await_used(1)?;
    assert_eq!(used.memory.read_u8(request.status), 1, "nothing is there");
    // The same memory at one more address.
    let again = MemoryRegion {
        guest_phys_addr: ELSEWHERE,
        ..region_at(&used.memory, MIDDLE.guest)
    };
    used.node.map(&again, Access::ReadWrite)?;
    used.launch(from_ref(&request));
    used.await_used(1)?;
    assert_eq!(used.memory.read_u8(request.status), 0);
    assert_eq!(
        used.memory.read_vec(GuestAddr(MIDDLE.guest), 4096),
        [7; 4096]
    );
    assert!(used.node.map(&again, Access::ReadWrite).is_err(), "twice");
    Ok(())
}

fn a_ring_that_is_unmapped_stops_its_queue(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut used = Used::started(&disk, 0)?;
    used.works()?;
    let ring = region_at(&used.memory, LOW.guest);
    used.node.unmap(&ring)?;
    assert_eq!(used.node.status()?, DRIVER_OK | status::NEEDS_RESET);
    let before = used.driver.used_index();
    used.launch(&[read(1)]);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(
        used.driver.used_index(),
        before,
        "a ring that is not mapped"
    );
    // A driver that starts anew has a device that works.
    used.node.set_status(0)?;
    used.node.map(&ring, Access::ReadWrite)?;
    let event_idx = Features(used.features).has(bit::RING_EVENT_IDX);
    used.driver = Driver::new(used.memory.clone(), layout(used.features), event_idx);
    used.start(used.driver.base())?;
    used.works()
}

fn read_only_mappings_are_not_written(_: &Context) -> Outcome {
    let disk = Disk::ram();
    disk.write(0, &[7; 8192])?;
    let mut used = Used::started(&disk, 0)?;
    let data = region_at(&used.memory, MIDDLE.guest);
    used.memory
        .fill(GuestAddr(MIDDLE.guest), MIDDLE.bytes, CANARY);
    used.node.unmap(&data)?;
    used.node.map(&data, Access::Read)?;
    let request = read(0);
    used.launch(from_ref(&request));
    used.await_used(1)?;
    assert_eq!(used.memory.read_u8(request.status), 1, "a read into it");
    let write = BlockRequest::write(8, request.header, request.status);
    let write = write.data(GuestAddr(MIDDLE.guest), 4096);
    used.launch(from_ref(&write));
    used.await_used(1)?;
    assert_eq!(used.memory.read_u8(write.status), 0, "a write from it");
    assert_eq!(disk.read(4096, 4096)?, [CANARY; 4096]);
    // A status byte there can't be written: the chain comes back with nothing.
    let status = GuestAddr(MIDDLE.guest + 8192);
    let flush = BlockRequest::flush(request.header, status);
    flush.prepare(&*used.memory);
    used.memory
        .fill(GuestAddr(MIDDLE.guest), MIDDLE.bytes, CANARY);
    used.driver.add(&flush.buffers()).expect("room");
    used.driver.publish();
    used.kick.signal()?;
    let end = Instant::now() + PATIENCE;
    let entry = loop {
        match used.driver.poll_used() {
            Some(entry) => break entry,
            None => assert!(Instant::now() < end, "not given back"),
        }
    };
    assert_eq!(entry.len, 0);
    let bytes = used.memory.read_vec(GuestAddr(MIDDLE.guest), MIDDLE.bytes);
    assert!(bytes.iter().all(|byte| *byte == CANARY), "written");
    used.node.unmap(&data)?;
    used.node.map(&data, Access::ReadWrite)?;
    used.works()
}

fn a_broken_ring_asks_for_a_reset(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut used = Used::started(&disk, 0)?;
    used.works()?;
    let config = EventFd::new()?;
    used.node.set_config_call(config.as_fd().as_raw_fd())?;
    // An available index that no driver can mean.
    let index = GuestAddr(used.driver.layout().avail.0 + 2);
    let right = used.memory.read_vec(index, 2);
    let broken = || -> Outcome {
        used.memory.write(index, &0x7000u16.to_le_bytes());
        used.kick.signal()?;
        assert!(config.wait(PATIENCE)? > 0, "no interrupt");
        Ok(())
    };
    broken()?;
    // Starting it anew is no reset.
    used.node.enable(0, false)?;
    used.memory.write(index, &right);
    used.node.enable(0, true)?;
    assert_eq!(used.node.status()?, DRIVER_OK | status::NEEDS_RESET);
    broken()?;
    used.node.set_status(0)?;
    assert_eq!(used.node.status()?, 0);
    Ok(())
}

/// A driver reads the configuration before it is ready. What changes between, or while the device is
/// suspended, it has to hear of.
fn changes_while_nothing_is_served_are_told(_: &Context) -> Outcome {
    let disk = Disk::looped(8 << 20)?;
    let used = Used::prepared(&disk, 0)?;
    let config = EventFd::new()?;
    used.node.set_config_call(config.as_fd().as_raw_fd())?;
    let capacity = || used.node.config(0, 8);
    assert_eq!(capacity()?, (16384u64).to_le_bytes());
    disk.resize(16 << 20)?;
    used.start(used.driver.base())?;
    assert!(config.wait(PATIENCE)? > 0, "before the driver is ready");
    assert_eq!(capacity()?, (32768u64).to_le_bytes());
    used.node.suspend()?;
    config.take()?;
    disk.resize(24 << 20)?;
    used.node.resume()?;
    assert!(config.wait(PATIENCE)? > 0, "while suspended");
    assert_eq!(capacity()?, (49152u64).to_le_bytes());
    Ok(())
}

fn configuration_changes_are_told(_: &Context) -> Outcome {
    let disk = Disk::looped(8 << 20)?;
    let used = Used::started(&disk, 0)?;
    let capacity = || used.node.config(0, 8);
    assert_eq!(capacity()?, (16384u64).to_le_bytes());
    let config = EventFd::new()?;
    used.node.set_config_call(config.as_fd().as_raw_fd())?;
    config.take()?;
    disk.resize(16 << 20)?;
    assert!(config.wait(PATIENCE)? > 0, "no interrupt");
    assert_eq!(capacity()?, (32768u64).to_le_bytes());
    Ok(())
}

/// Keeps requests at a slow disk that its parent made a device of.
fn be_in_flight(arguments: &[&str]) -> Outcome {
    let [node] = arguments else {
        return Err("one argument: the node".into());
    };
    let node = VhostVdpa::open(Path::new(node))?;
    node.set_owner()?;
    let memory = Arc::new(GuestMemory::new(&REGIONS)?);
    process::limit_locked_memory(u64::MAX)?;
    for region in memory.table() {
        node.map(&region, Access::ReadWrite)?;
    }
    let features = node.features()?;
    let driver = Driver::new(memory.clone(), layout(features), true);
    let (kick, call) = (EventFd::new()?, EventFd::new()?);
    node.set_status(status::DRIVER)?;
    node.set_features(features)?;
    node.set_status(status::DRIVER | status::FEATURES_OK)?;
    node.set_num(0, 256)?;
    node.set_base(0, driver.base())?;
    node.set_addr(&addr(driver.layout()))?;
    node.set_file(VHOST_SET_VRING_KICK, 0, kick.as_fd().as_raw_fd())?;
    node.set_file(VHOST_SET_VRING_CALL, 0, call.as_fd().as_raw_fd())?;
    node.enable(0, true)?;
    node.set_status(DRIVER_OK)?;
    let mut driver = driver;
    for request in reads(64) {
        request.prepare(&*memory);
        driver.add(&request.buffers()).expect("room");
    }
    driver.publish();
    kick.signal()?;
    child::tell_ready()?;
    child::wait_for_parent()?;
    Ok(())
}

fn a_vmm_killed_with_requests_in_flight(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, plain(1, 0))?;
    let node = device.node()?;
    let path = node.to_str().ok_or("path")?;
    for _ in 0..context.times(10) {
        let mut child = child::until_ready(child::command(&IN_FLIGHT, &[path])?)?;
        process::kill(child.id())?;
        child.wait()?;
        // It is free as soon as its VMM is gone.
        let end = Instant::now() + PATIENCE;
        while let Err(error) = VhostVdpa::open(&node) {
            assert_eq!(error, Errno::EBUSY);
            assert!(Instant::now() < end, "never free");
            thread::sleep(Duration::from_millis(5));
        }
    }
    // The next one finds nothing of those before it.
    let mut used = Used::of(device)?;
    assert_eq!(used.node.status()?, 0);
    used.restart()?;
    used.works()
}

fn ask(arguments: &[&str]) -> Outcome {
    child::tell_ready()?;
    match arguments {
        ["info"] => vhost_vdpa::info().map(drop)?,
        ["stats", name] => vhost_vdpa::stats(name, 0).map(drop)?,
        _ => return Err("what to ask for".into()),
    }
    Ok(())
}

/// A VMM unmaps what a disk that does not answer uses.
fn who_asks_while_a_vmm_waits_can_be_killed(_: &Context) -> Outcome {
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let mut used = Used::started(&disk, 0)?;
    let hold = disk.hold()?;
    used.launch(&reads(1));
    hold.await_held(1)?;
    let data = region_at(&used.memory, MIDDLE.guest);
    let name = used.device.name().to_owned();
    thread::scope(|scope| -> Outcome {
        let node = &used.node;
        let unmapping = scope.spawn(move || node.unmap(&data));
        // It waits, and so does who asks.
        thread::sleep(Duration::from_millis(100));
        for question in [&["info"][..], &["stats", &name]] {
            let mut child = child::until_ready(child::command(&ASKING, question)?)?;
            thread::sleep(Duration::from_millis(100));
            assert!(child.try_wait()?.is_none(), "{question:?}: an answer");
            process::kill(child.id())?;
            let end = Instant::now() + PATIENCE / 2;
            while child.try_wait()?.is_none() {
                assert!(Instant::now() < end, "{question:?}: still there");
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(!unmapping.is_finished());
        drop(hold);
        unmapping.join().expect("no panic")?;
        Ok(())
    })?;
    used.await_used(1)
}

fn deleting_waits_for_the_vmm(context: &Context) -> Outcome {
    let disk = slow_disk(context)?;
    let mut used = Used::started(&disk, 0)?;
    used.launch(&reads(16));
    let name = used.device.name().to_owned();
    let module = vhost_vdpa::module()?;
    let deleting = thread::spawn(move || vhost_vdpa::delete(&module, &name));
    // The VMM does not notice.
    used.await_used(16)?;
    used.works()?;
    assert!(!deleting.is_finished());
    let Used { node, device, .. } = used;
    drop(node);
    deleting.join().expect("no panic")?;
    assert_refused("another time", device.delete(), Errno::ENODEV);
    // The disk is free again.
    drop(disk::open(disk.path(), Mode::ReadWrite, libc::O_EXCL)?);
    Ok(())
}

fn the_module_stays_while_a_device_exists(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let before = kmod::users();
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, plain(1, 0))?;
    // No process has the module's own device open.
    assert_eq!(kmod::users(), before.map(|users| users + 1));
    assert_refused("unloading", kmod::unload(), Errno::EAGAIN);
    drop(device);
    Ok(())
}

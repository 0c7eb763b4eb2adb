// SPDX-License-Identifier: GPL-2.0

//! The control interface: each command with each wrong argument, and its exact error.

use crate::{
    device::{mem_table, Device},
    disk::{self, NullBlk},
    fixtures::commands::assert_errno,
    prelude::*,
    sys::{
        map::{Access, Mapping},
        poll::EventFd,
        system,
    },
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};
use vblk_core::{
    features::Features,
    uapi::{self, ConfigHeader, MemoryRegion, VringAddr, CONFIG_ROOM},
};

pub const TESTS: &[Test] = tests!["harness":
    arguments_of_features(20),
    arguments_of_vring_num(20),
    arguments_of_vring_base(20),
    arguments_of_vring_addr(20),
    arguments_of_vring_files(20),
    arguments_of_mem_table(20),
    arguments_of_backend(20),
    zoned_disks_are_refused(20),
    reserved_fields_must_be_zero(20),
    backend_needs_rings_in_usable_memory(20),
];

fn owned() -> Result<Device, Errno> {
    let device = Device::open()?;
    device.set_owner()?;
    Ok(device)
}

fn arguments_of_features(_: &Context) -> Outcome {
    let device = owned()?;
    for number in 0..64 {
        let wanted = device.set_features(1 << number);
        if Features::VHOST.has(number) {
            assert_eq!(wanted, Ok(()), "feature {number}");
        } else {
            assert_errno(&format!("feature {number}"), wanted, Errno::EOPNOTSUPP);
        }
        let backend = device.set_backend_features(1 << number);
        assert_errno(
            &format!("back-end feature {number}"),
            backend,
            Errno::EOPNOTSUPP,
        );
    }
    // A legacy guest, all at once, and all plus one too many.
    device.set_features(0)?;
    device.set_features(Features::VHOST.0)?;
    let unknown = (0..64).find(|bit| !Features::VHOST.has(*bit));
    let more = device.set_features(Features::VHOST.0 | 1 << unknown.expect("one"));
    assert_errno("one too many", more, Errno::EOPNOTSUPP);
    device.set_backend_features(0)?;
    Ok(())
}

fn arguments_of_vring_num(_: &Context) -> Outcome {
    let device = owned()?;
    for power in 0..=15 {
        device.set_vring_num(0, 1 << power)?;
    }
    for num in [
        0,
        3,
        5,
        255,
        257,
        32767,
        32769,
        0x1_0000,
        0x8000_0000,
        u32::MAX,
    ] {
        let result = device.set_vring_num(0, num);
        assert_errno(&format!("{num} entries"), result, Errno::EINVAL);
    }
    Ok(())
}

fn arguments_of_vring_base(_: &Context) -> Outcome {
    let device = owned()?;
    for num in [0, 1, 0x7fff, 0x8000, 0xffff] {
        device.set_vring_base(0, num)?;
        assert_eq!(device.vring_base(0)?, num);
    }
    for num in [0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
        let result = device.set_vring_base(0, num);
        assert_errno(&format!("base {num:#x}"), result, Errno::EINVAL);
        assert_eq!(device.vring_base(0)?, 0xffff, "unchanged");
    }
    assert_eq!(device.vring_base(1)?, 0, "another queue");
    Ok(())
}

fn arguments_of_vring_addr(_: &Context) -> Outcome {
    let vm = Vm::new(&Setup::default())?;
    let good = vm.queues[0].addr();
    let with = |change: &dyn Fn(&mut VringAddr)| {
        let mut addr = good;
        change(&mut addr);
        vm.device.set_vring_addr(&addr)
    };
    // The one of the log.
    with(&|addr| addr.flags = 1)?;
    for flag in 1..32 {
        let result = with(&|addr| addr.flags = 1 << flag);
        assert_errno(&format!("flag {flag}"), result, Errno::EOPNOTSUPP);
    }
    for skew in 1..16 {
        let desc = with(&|addr| addr.desc_user_addr += skew);
        assert_errno(&format!("descriptors +{skew}"), desc, Errno::EINVAL);
    }
    let avail = with(&|addr| addr.avail_user_addr += 1);
    assert_errno("available ring +1", avail, Errno::EINVAL);
    for skew in 1..4 {
        let used = with(&|addr| addr.used_user_addr += skew);
        assert_errno(&format!("used ring +{skew}"), used, Errno::EINVAL);
    }
    with(&|addr| addr.desc_user_addr += 16)?;
    with(&|addr| addr.avail_user_addr += 2)?;
    with(&|addr| addr.used_user_addr += 4)?;
    // Nothing is logged, so where to log does not matter.
    with(&|addr| addr.log_guest_addr = u64::MAX)?;
    Ok(())
}

fn arguments_of_vring_files(_: &Context) -> Outcome {
    let device = owned()?;
    let event = EventFd::new()?;
    let plain = File::open("/proc/self/exe")?;
    let path_only = disk::open(Path::new("/dev/null"), Mode::ReadOnly, libc::O_PATH)?;
    let closed = File::open("/dev/null")?.as_raw_fd();
    for (name, command) in [
        ("kick", uapi::VHOST_SET_VRING_KICK),
        ("call", uapi::VHOST_SET_VRING_CALL),
        ("err", uapi::VHOST_SET_VRING_ERR),
    ] {
        let set = |fd| device.set_file(command, 0, fd);
        assert_errno(&format!("{name}: closed"), set(closed), Errno::EBADF);
        assert_errno(&format!("{name}: -2"), set(-2), Errno::EBADF);
        assert_errno(&format!("{name}: most"), set(i32::MAX), Errno::EBADF);
        assert_errno(&format!("{name}: least"), set(i32::MIN), Errno::EBADF);
        assert_errno(
            &format!("{name}: a path"),
            set(path_only.as_raw_fd()),
            Errno::EBADF,
        );
        assert_errno(
            &format!("{name}: a file"),
            set(plain.as_raw_fd()),
            Errno::EINVAL,
        );
        let own = device.file().as_raw_fd();
        assert_errno(&format!("{name}: the device"), set(own), Errno::EINVAL);
        // Binding twice, unbinding twice, and after a failure.
        set(event.as_fd().as_raw_fd())?;
        set(event.as_fd().as_raw_fd())?;
        assert_errno(
            &format!("{name}: a file"),
            set(plain.as_raw_fd()),
            Errno::EINVAL,
        );
        set(uapi::FD_UNBIND)?;
        set(uapi::FD_UNBIND)?;
    }
    Ok(())
}

fn region(guest: u64, size: u64, host: u64) -> MemoryRegion {
    MemoryRegion {
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: host,
        flags_padding: 0,
    }
}

fn arguments_of_mem_table(_: &Context) -> Outcome {
    let device = owned()?;
    let map = Mapping::anonymous(64 << 12)?;
    let host = map.addr();
    let good = region(0, 4096, host);
    let top = 0u64.wrapping_sub(4096);
    let kernel = 0xffff_8880_0000_0000;
    let many = |count: u64| -> Vec<_> { (0..count).map(|i| region(i << 12, 4096, host)).collect() };
    let (fine, fault, invalid) = (Ok(()), Err(Errno::EFAULT), Err(Errno::EINVAL));
    let table = [
        ("no regions", vec![], fine),
        ("one", vec![good], fine),
        ("64", many(64), fine),
        ("65", many(65), Err(Errno::E2BIG)),
        ("empty region", vec![good, region(8192, 0, host)], fault),
        ("guest address wraps", vec![region(top, 8192, host)], fault),
        (
            "guest address ends with the space",
            vec![region(top, 4096, host)],
            fine,
        ),
        ("host address wraps", vec![region(0, 8192, top)], fault),
        (
            "host address of the kernel",
            vec![region(0, 4096, kernel)],
            fault,
        ),
        (
            "host range into the kernel",
            vec![region(0, 1 << 63, host)],
            fault,
        ),
        ("all of everything", vec![region(0, u64::MAX, 0)], fault),
        ("the same twice", vec![good, good], invalid),
        (
            "last byte overlaps",
            vec![region(4095, 4096, host), good],
            invalid,
        ),
        (
            "one inside another",
            vec![region(0, 1 << 16, host), region(4096, 4096, host)],
            invalid,
        ),
        ("neighbours", vec![region(4096, 4096, host), good], fine),
        (
            "two names for one page",
            vec![good, region(1 << 40, 4096, host)],
            fine,
        ),
        ("not aligned at all", vec![region(3, 101, host + 5)], fine),
        // As C vhost: what is mapped there shows when it is used.
        ("nothing mapped there", vec![region(0, 4096, 4096)], fine),
    ];
    for (name, regions, expected) in table {
        assert_eq!(device.set_mem_table(&regions), expected, "{name}");
    }
    let padding = device.call(uapi::VHOST_SET_MEM_TABLE, &mut mem_table(1, &[good]));
    assert_errno("padding", padding, Errno::EOPNOTSUPP);
    let mut huge = mem_table(0, &[good]);
    huge[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    let huge = device.call(uapi::VHOST_SET_MEM_TABLE, &mut huge);
    assert_errno("2^32 - 1 regions", huge, Errno::E2BIG);
    let flags = MemoryRegion {
        flags_padding: u64::MAX,
        ..good
    };
    device.set_mem_table(&[flags])?;
    Ok(())
}

fn arguments_of_backend(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let device = owned()?;
    let read_write = disk.open(Mode::ReadWrite)?;
    assert_errno("no memory table", device.attach(&read_write), Errno::EFAULT);
    let vm = Vm::new(&Setup {
        queues: 0,
        ..Setup::default()
    })?;
    assert_errno("no queue", vm.device.attach(&read_write), Errno::EINVAL);
    vm.device.set_vring_num(0, 256)?;
    assert_errno("no addresses", vm.device.attach(&read_write), Errno::EINVAL);

    let vm = Vm::new(&Setup::default())?;
    let attach = |fd| vm.device.set_file(uapi::VHOST_BLK_SET_BACKEND, 0, fd);
    let closed = File::open("/dev/null")?.as_raw_fd();
    assert_errno("closed", attach(closed), Errno::EBADF);
    assert_errno("-2", attach(-2), Errno::EBADF);
    let path_only = disk::open(disk.path(), Mode::ReadOnly, libc::O_PATH)?;
    assert_errno("a path", attach(path_only.as_raw_fd()), Errno::EBADF);
    for path in ["/proc/self/exe", "/dev/null", "/dev", "/proc/self/status"] {
        let file = File::open(path)?;
        assert_errno(path, vm.device.attach(&file), Errno::ENOTBLK);
    }
    let memory = system::memory_file(c"no disk", 1 << 20)?;
    assert_errno("a memory file", vm.device.attach(&memory), Errno::ENOTBLK);
    let own = vm.device.file().as_raw_fd();
    assert_errno("the device itself", attach(own), Errno::ENOTBLK);
    drop(read_write);
    let write_only = disk.open(Mode::WriteOnly)?;
    assert_errno(
        "opened for writing only",
        vm.device.attach(&write_only),
        Errno::EBADF,
    );
    drop(write_only);
    // None of these left anything behind.
    vm.device.attach(&disk.open(Mode::ReadWrite)?)?;
    let again = disk::open(disk.path(), Mode::ReadOnly, 0)?;
    assert_errno("attached already", vm.device.attach(&again), Errno::EBUSY);
    // A detachment forgets the addresses.
    vm.device.detach()?;
    assert_errno(
        "addresses of before",
        vm.device.attach(&again),
        Errno::EINVAL,
    );
    vm.attach(&again)?;
    Ok(())
}

/// A guest takes it for an ordinary disk, and would find out with its first write.
fn zoned_disks_are_refused(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let disk = Disk::null(&NullBlk {
        zoned: true,
        ..NullBlk::default()
    })?;
    assert_eq!(disk.sysfs("queue/zoned")?.trim(), "host-managed");
    let mut vm = Vm::new(&Setup::default())?;
    for mode in [Mode::ReadWrite, Mode::ReadOnly] {
        let file = disk.open(mode)?;
        assert_errno("attach", vm.attach(&file), Errno::EOPNOTSUPP);
        let config = vm.device.config(&file, 1, 128).map(drop);
        assert_errno("configuration space", config, Errno::EOPNOTSUPP);
    }
    // Nothing is attached, and the disk is free.
    drop(disk.open(Mode::ReadWrite)?);
    vm.attach(&Disk::ram().open(Mode::ReadWrite)?)?;
    let header = vm.free();
    let read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let read = read.data(GuestAddr(header.0 + 512), 512);
    assert_eq!(vm.queue().request(&read), Answer::new(OK, 513));
    Ok(())
}

fn reserved_fields_must_be_zero(_: &Context) -> Outcome {
    let disk = Disk::ram().open(Mode::ReadWrite)?;
    let device = Device::open()?;
    for bit in 0..64 {
        let header = ConfigHeader {
            fd: disk.as_raw_fd(),
            queues: 1,
            queue_size: 128,
            reserved: 1 << bit,
            ..ConfigHeader::default()
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(ConfigHeader::BYTES + CONFIG_ROOM, 0);
        let result = device.call(uapi::VHOST_BLK_GET_CONFIG, &mut bytes);
        assert_errno(&format!("bit {bit}"), result, Errno::EINVAL);
    }
    // What the device tells has zeroes there.
    device.config(&disk, 1, 128)?;
    device.set_owner()?;
    assert_eq!(device.stats()?.reserved, [0; 7]);
    Ok(())
}

fn backend_needs_rings_in_usable_memory(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let vm = Vm::new(&Setup::default())?;
    let good = vm.queues[0].addr();
    let bad = Mapping::anonymous(4 << 12)?;
    let page = 4096;
    bad.protect(page as usize, page as usize, Access::Read)?;
    bad.protect(2 * page as usize, page as usize, Access::None)?;
    let (read_only, none) = (bad.addr() + page, bad.addr() + 2 * page);
    type Set = fn(&mut VringAddr, u64);
    let parts: [(&str, Set); 3] = [
        ("descriptors", |addr, place| addr.desc_user_addr = place),
        ("available ring", |addr, place| addr.avail_user_addr = place),
        ("used ring", |addr, place| addr.used_user_addr = place),
    ];
    let attach = |set: Set, place| {
        let mut addr = good;
        set(&mut addr, place);
        vm.device.set_vring_addr(&addr)?;
        vm.device.attach(&file)
    };
    for (what, place) in [
        ("no memory", none),
        ("the end of usable memory", none - 512),
        ("nothing mapped", 4096),
        ("the kernel", 0xffff_8880_0000_0000),
        ("the end of the address space", 0u64.wrapping_sub(64)),
    ] {
        for (part, set) in parts {
            let result = attach(set, place);
            assert_errno(&format!("{part} in {what}"), result, Errno::EFAULT);
        }
    }
    // The device writes to one of them only. A page holds the descriptors of 256 entries.
    let [(_, desc), (_, avail), (_, used)] = parts;
    assert_errno(
        "used ring in read-only memory",
        attach(used, read_only),
        Errno::EFAULT,
    );
    for set in [desc, avail] {
        attach(set, read_only)?;
        vm.device.detach()?;
    }
    vm.device.set_vring_addr(&good)?;
    vm.device.attach(&file)?;
    Ok(())
}

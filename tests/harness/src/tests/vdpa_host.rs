// SPDX-License-Identifier: GPL-2.0

//! A vDPA device whose driver is the host's own: /dev/vdX by virtio_vdpa and virtio_blk.

use crate::{
    disk::{
        filesystem::{self, Mounted},
        NullBlk, Target, TestDisk, DISCARDED,
    },
    prelude::*,
    program::run,
    sys::ioctl,
    vhost_vdpa::{until_there, VdpaDevice},
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};
use vblk_core::uapi::{VdpaAdd, VDPA_HOST, VDPA_PACKED};

pub const TESTS: &[Test] = tests!["vdpa":
    the_hosts_own_driver(60),
    the_hosts_own_driver_passes_fio(60),
    the_hosts_own_driver_has_a_filesystem(60),
    the_hosts_own_driver_survives_a_power_cut(60),
    the_hosts_own_driver_on_a_read_only_disk(20),
    the_hosts_own_driver_discards_and_zeroes(20),
    the_hosts_own_driver_sees_a_new_size(20),
    the_hosts_own_driver_sees_errors(20),
    the_hosts_worker_waits_for_no_writeback(20),
];

fn add(flags: u32) -> VdpaAdd {
    let mut serial = [0; 20];
    serial[..7].copy_from_slice(b"of-host");
    VdpaAdd {
        flags: VDPA_HOST | flags,
        queues: 2,
        queue_size: 128,
        serial,
        ..VdpaAdd::default()
    }
}

/// Waits for /dev/vdX, and returns it and what its directory in sysfs is called.
fn disk_of(device: &VdpaDevice) -> Result<(Disk, String), Errno> {
    until_there(|| device.host_disk())
}

fn the_hosts_own_driver(context: &Context) -> Outcome {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 1024;
    let disk = Disk::ram();
    for packed in [0, VDPA_PACKED] {
        disk.write(0, &vec![0; (BLOCK * BLOCKS) as usize])?;
        let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(packed))?;
        let (host, name) = disk_of(&device)?;
        let serial = fs::read_to_string(format!("/sys/block/{name}/serial"))?;
        assert_eq!(serial, "of-host");
        let features = fs::read_to_string(format!("/sys/block/{name}/device/features"))?;
        assert_eq!(features.as_bytes()[34] == b'1', packed != 0, "packed rings");
        let mut rng = context.rng();
        let mut model = vec![0u8; (BLOCK * BLOCKS) as usize];
        for round in 0..context.times(300) {
            let count = rng.within(1..65);
            let first = rng.within(0..BLOCKS - count);
            let range = (first * BLOCK) as usize..((first + count) * BLOCK) as usize;
            if round % 2 == 0 {
                let bytes = rng.bytes(range.len());
                host.write(first * BLOCK, &bytes)?;
                model[range].copy_from_slice(&bytes);
            } else {
                let bytes = host.read(first * BLOCK, range.len())?;
                assert!(bytes == model[range], "round {round}");
            }
        }
        host.open(Mode::ReadWrite)?.sync_all()?;
        device.delete()?;
        assert!(disk.read(0, model.len())? == model, "on the disk itself");
    }
    Ok(())
}

/// The worker's own allocations must not wait for what is written to the disk that it serves: they
/// start no I/O (PF_MEMALLOC_NOIO, <linux/sched.h>), as those of a loop device do.
fn the_hosts_worker_waits_for_no_writeback(_: &Context) -> Outcome {
    const KTHREADD: &str = "2";
    const NO_IO: u32 = 0x0008_0000;
    let device = VdpaDevice::new(&Disk::ram().open(Mode::ReadWrite)?, add(0))?;
    disk_of(&device)?;
    let mut workers = 0;
    for process in fs::read_dir("/proc")?.flatten() {
        // A thread that ended meanwhile has no status.
        let status = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = status.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        if name.contains("(vhost-") && fields[1] == KTHREADD {
            let flags: u32 = fields[6].parse()?;
            assert_ne!(flags & NO_IO, 0, "{name}: {flags:x}");
            workers += 1;
        }
    }
    assert_eq!(workers, 1);
    device.delete()?;
    Ok(())
}

fn the_hosts_own_driver_passes_fio(_: &Context) -> Outcome {
    for packed in [0, VDPA_PACKED] {
        let device = VdpaDevice::new(&Disk::ram().open(Mode::ReadWrite)?, add(packed))?;
        let (host, _) = disk_of(&device)?;
        let disk = format!("--filename={}", host.path().display());
        let fixed = "--name=verify --size=16M --rw=randwrite --bsrange=4k-64k --direct=1 \
             --ioengine=io_uring --iodepth=32 --verify=crc32c --verify_fatal=1 --thread";
        let arguments: Vec<&str> = fixed.split_whitespace().chain([&*disk]).collect();
        let report = run("/usr/bin/fio", &arguments)?;
        assert!(report.contains("err= 0"), "{report}");
    }
    Ok(())
}

/// What is written to files there is in the filesystem on the disk itself.
fn the_hosts_own_driver_has_a_filesystem(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let mut rng = context.rng();
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(0))?;
    let (host, _) = disk_of(&device)?;
    filesystem::make(host.path())?;
    let mut contents = Vec::new();
    {
        let mounted = Mounted::new(host.path())?;
        for number in 0..32 {
            let len = rng.index(1..200_000);
            contents.push(rng.bytes(len));
            fs::write(mounted.path().join(number.to_string()), &contents[number])?;
        }
    }
    device.delete()?;
    filesystem::check(disk.path())?;
    let mounted = Mounted::new(disk.path())?;
    for (number, content) in contents.iter().enumerate() {
        let read = fs::read(mounted.path().join(number.to_string()))?;
        assert!(read == *content, "file {number}");
    }
    Ok(())
}

/// What was flushed is there when the power was cut, and something is lost that was not.
fn the_hosts_own_driver_survives_a_power_cut(context: &Context) -> Outcome {
    const BLOCK: u64 = 4096;
    let mut rng = context.rng();
    let mut lost = 0;
    for packed in [0, VDPA_PACKED] {
        for _ in 0..context.times(3) {
            let disk = Disk::null(&NullBlk::cached())?;
            let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(packed))?;
            let (host, _) = disk_of(&device)?;
            let file = host.open(Mode::ReadWrite)?;
            let mut written = rng.order(disk.bytes()? / BLOCK);
            written.truncate(300);
            let mut durable = 0;
            for (count, block) in (1..).zip(&written) {
                host.write(block * BLOCK, &[*block as u8 | 1; BLOCK as usize])?;
                if rng.within(0..20) == 0 {
                    file.sync_all()?;
                    durable = count;
                }
            }
            disk.cut_power()?;
            drop((host, file));
            device.delete()?;
            disk.restore_power()?;
            for (place, block) in written.iter().enumerate() {
                let is_there =
                    disk.read(block * BLOCK, BLOCK as usize)? == [*block as u8 | 1; BLOCK as usize];
                assert!(is_there || place >= durable, "block {block} is lost");
                lost += u32::from(!is_there);
            }
        }
    }
    assert!(lost > 0, "the power was not cut");
    Ok(())
}

/// `BLKDISCARD` and `BLKZEROOUT` of `<linux/fs.h>`, of a first byte and a length.
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127F;

fn the_hosts_own_driver_discards_and_zeroes(_: &Context) -> Outcome {
    let disk = Disk::counting(&TestDisk {
        max_discard_sectors: 64,
        discard_granularity: 4096,
        ..TestDisk::DEFAULT
    })?;
    let mut expected = vec![0x5A; 1 << 20];
    disk.write(0, &expected)?;
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(0))?;
    let (host, _) = disk_of(&device)?;
    let file = host.open(Mode::ReadWrite)?;
    for (command, first, len, content) in [
        (BLKDISCARD, 65536, 131072, DISCARDED),
        (BLKZEROOUT, 524288 + 512, 65536, 0),
    ] {
        let mut range = [first as u64, len as u64].map(u64::to_ne_bytes);
        ioctl::with_bytes(&file, command, range.as_flattened_mut())?;
        expected[first..first + len].fill(content);
        assert!(disk.read(0, expected.len())? == expected, "{command:#x}");
    }
    Ok(())
}

fn the_hosts_own_driver_on_a_read_only_disk(_: &Context) -> Outcome {
    let disk = Disk::ram();
    let device = VdpaDevice::new(&disk.open(Mode::ReadOnly)?, add(0))?;
    let (host, name) = disk_of(&device)?;
    let ro = fs::read_to_string(format!("/sys/block/{name}/ro"))?;
    assert_eq!(ro.trim(), "1");
    host.open(Mode::ReadOnly)?;
    assert!(host.write(0, &[1; 4096]).is_err(), "written");
    Ok(())
}

fn the_hosts_own_driver_sees_a_new_size(_: &Context) -> Outcome {
    let disk = Disk::looped(8 << 20)?;
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(0))?;
    let (_, name) = disk_of(&device)?;
    let sectors = || fs::read_to_string(format!("/sys/block/{name}/size"));
    assert_eq!(sectors()?.trim(), "16384");
    disk.resize(16 << 20)?;
    let end = Instant::now() + PATIENCE;
    while sectors()?.trim() != "32768" {
        assert!(Instant::now() < end, "still {}", sectors()?);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn the_hosts_own_driver_sees_errors(_: &Context) -> Outcome {
    let below = Disk::ram();
    let good = Target::linear(below.path(), 0, 8192);
    let disk = Disk::mapped(&[good, Target::error(8192)])?;
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add(0))?;
    let (host, _) = disk_of(&device)?;
    host.read(0, 4096)?;
    assert_eq!(host.read(6 << 20, 4096).err(), Some(Errno(libc::EIO)));
    assert_eq!(
        host.write(6 << 20, &[1; 4096]).err(),
        Some(Errno(libc::EIO))
    );
    host.read(0, 4096)?;
    Ok(())
}

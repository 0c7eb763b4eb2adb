// SPDX-License-Identifier: GPL-2.0

//! The disk of tests/disk, a module of its own: loaded for a test, and unloaded behind it.

use super::{
    Disk,
    HELD,
    PATIENCE, //
};
use crate::sys::{
    system,
    Errno, //
};
use std::{
    collections::BTreeMap,
    env,
    ffi::CString,
    fs::File,
    ops::Sub,
    path::PathBuf,
    time::{
        Duration,
        Instant as Time, //
    },
};

/// What a range holds that was discarded.
pub const DISCARDED: u8 = 0xdd;
/// What a range holds that was erased.
pub const ERASED: u8 = 0xee;

/// How it behaves. Limits of 0: it can't do this, or the kernel's default.
#[derive(Clone, Copy, Debug)]
pub struct TestDisk {
    /// Size in MiB.
    pub mib: u32,
    /// Logical block size.
    pub block_size: u32,
    /// Physical block size.
    pub physical_block_size: u32,
    /// Most segments of a request.
    pub max_segments: u32,
    /// Most bytes of a segment.
    pub max_segment_size: u32,
    /// Most sectors to discard at a time.
    pub max_discard_sectors: u32,
    /// Unit of discarding in bytes.
    pub discard_granularity: u32,
    /// Most sectors to erase at a time.
    pub max_secure_erase_sectors: u32,
    /// Most sectors to zero at a time.
    pub max_write_zeroes_sectors: u32,
    /// Whether it says that it has a volatile cache.
    pub write_cache: bool,
    /// Whether it says that it can write past that cache.
    pub fua: bool,
}

impl TestDisk {
    /// One that can only be read and written.
    pub const DEFAULT: Self = Self {
        mib: 16,
        block_size: 512,
        physical_block_size: 512,
        max_segments: 0,
        max_segment_size: 0,
        max_discard_sectors: 0,
        discard_granularity: 0,
        max_secure_erase_sectors: 0,
        max_write_zeroes_sectors: 0,
        write_cache: false,
        fua: false,
    };

    /// As `insmod` takes it.
    fn parameters(&self) -> CString {
        let text = format!(
            "size_mib={} logical_block_size={} physical_block_size={} max_segments={} \
             max_segment_size={} max_discard_sectors={} discard_granularity={} \
             max_secure_erase_sectors={} max_write_zeroes_sectors={} write_cache={} fua={}",
            self.mib,
            self.block_size,
            self.physical_block_size,
            self.max_segments,
            self.max_segment_size,
            self.max_discard_sectors,
            self.discard_granularity,
            self.max_secure_erase_sectors,
            self.max_write_zeroes_sectors,
            u8::from(self.write_cache),
            u8::from(self.fua),
        );
        CString::new(text).expect("no zero in it")
    }
}

/// The disk that was made.
pub struct Instance(());

impl Instance {
    /// Loads the file that the environment variable TEST_DISK names.
    pub fn new(options: &TestDisk) -> Result<Self, Errno> {
        let path = env::var_os("TEST_DISK").ok_or(Errno::ENOENT)?;
        system::load_module(File::open(path)?, &options.parameters())?;
        Ok(Self(()))
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        "/dev/vblktest".into()
    }

    /// Unloads it. Its last user may still be on the way out.
    pub fn remove(&mut self) {
        let deadline = Time::now() + PATIENCE;
        while let Err(error) = system::unload_module(c"vblk_test_disk") {
            if error != Errno::EAGAIN || Time::now() > deadline {
                if let Ok(mut list) = HELD.lock() {
                    list.push(format!("the module of the test disk: {error}"));
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Requests of one kind, and their sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many there were.
    pub requests: u64,
    /// Their sectors, together.
    pub sectors: u64,
}

impl Count {
    /// This many requests, of so many sectors together.
    pub fn new(requests: u64, sectors: u64) -> Self {
        Self { requests, sectors }
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            sectors: self.sectors - before.sectors,
        }
    }
}

/// What reached the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub read: Count,
    /// Writes, with FUA or without.
    pub write: Count,
    /// Those with FUA.
    pub fua: Count,
    /// Flushes of the cache.
    pub preflush: Count,
    /// Discards.
    pub discard: Count,
    /// Secure erases.
    pub secure_erase: Count,
    /// What the disk shall make zeroes of by itself.
    pub write_zeroes: Count,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            read: self.read - before.read,
            write: self.write - before.write,
            fua: self.fua - before.fua,
            preflush: self.preflush - before.preflush,
            discard: self.discard - before.discard,
            secure_erase: self.secure_erase - before.secure_erase,
            write_zeroes: self.write_zeroes - before.write_zeroes,
        }
    }
}

impl Disk {
    /// What reached a counting disk since it was made.
    pub fn counts(&self) -> Result<Counts, Errno> {
        let count = |name: &str| {
            let numbers = numbers(&self.sysfs(&format!("counts/{name}"))?);
            Ok::<_, Errno>(Count::new(numbers[0], numbers[1]))
        };
        Ok(Counts {
            read: count("read")?,
            write: count("write")?,
            fua: count("fua")?,
            preflush: count("preflush")?,
            discard: count("discard")?,
            secure_erase: count("secure_erase")?,
            write_zeroes: count("write_zeroes")?,
        })
    }

    /// What reaches a counting disk because of `f`, and what `f` makes of it.
    pub fn counts_of<R>(&self, f: impl FnOnce() -> Result<R, Errno>) -> Result<(Counts, R), Errno> {
        let before = self.counts()?;
        let result = f()?;
        Ok((self.counts()? - before, result))
    }

    /// How many requests of each priority reached a counting disk since it was made.
    pub fn priorities(&self) -> Result<BTreeMap<u32, u64>, Errno> {
        let text = self.sysfs("priorities/seen")?;
        let pair = |line: &str| {
            let (priority, times) = line.split_once(' ').expect("two numbers");
            let priority = priority.strip_prefix("0x").expect("hexadecimal");
            let priority = u32::from_str_radix(priority, 16).expect("a priority");
            (priority, times.parse().expect("a number"))
        };
        Ok(text.lines().map(pair).collect())
    }
}

fn numbers(text: &str) -> Vec<u64> {
    let numbers = text.split_whitespace();
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

// SPDX-License-Identifier: GPL-2.0

//! The test disk at work: counts of what reached it, and bios that it keeps.

use super::{block_device::Disk, held::HELD};
use crate::{context::PATIENCE, sys::Errno};
use std::{
    collections::BTreeMap,
    fs,
    ops::Sub,
    path::PathBuf,
    time::{Duration, Instant as Time},
};

/// Requests of one kind, and their sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of requests.
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

/// Requests that reached the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub read: Count,
    /// Writes, with FUA or without.
    pub write: Count,
    /// Writes with FUA.
    pub fua: Count,
    /// Flushes of the cache.
    pub preflush: Count,
    /// Discards.
    pub discard: Count,
    /// Secure erases.
    pub secure_erase: Count,
    /// Ranges that the disk shall make zeroes of by itself.
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
    /// Returns what reached a counting disk since it was made.
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

    /// Returns what reaches a counting disk because of `f`, and the result of `f`.
    pub fn counts_of<R>(&self, f: impl FnOnce() -> Result<R, Errno>) -> Result<(Counts, R), Errno> {
        let before = self.counts()?;
        let result = f()?;
        Ok((self.counts()? - before, result))
    }

    /// Returns the number of vectors of the reads and writes that reached a counting disk.
    pub fn vectors(&self) -> Result<u64, Errno> {
        Ok(numbers(&self.sysfs("counts/vectors")?)[0])
    }

    /// Makes a counting disk keep what is submitted to it, until the result is dropped.
    pub fn hold(&self) -> Result<Hold, Errno> {
        self.hold_in_mode("1")
    }

    /// Does the same as [`Self::hold`], but reads complete at once.
    pub fn hold_writes(&self) -> Result<Hold, Errno> {
        self.hold_in_mode("2")
    }

    fn hold_in_mode(&self, mode: &str) -> Result<Hold, Errno> {
        let directory = self.sysfs_path("hold")?;
        fs::write(directory.join("on"), mode)?;
        Ok(Hold { directory })
    }

    /// Returns the number of requests of each priority that reached a counting disk since it was
    /// made.
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

/// A counting disk that completes nothing by itself. Drop it before the device that serves the
/// disk, which waits for its requests.
pub struct Hold {
    directory: PathBuf,
}

impl Hold {
    /// Returns the number of bios that the disk keeps now.
    pub fn held(&self) -> Result<u64, Errno> {
        Ok(numbers(&fs::read_to_string(self.directory.join("held"))?)[0])
    }

    /// Waits until the disk keeps so many bios.
    ///
    /// # Panics
    ///
    /// If it does not get so many.
    pub fn await_held(&self, count: u64) -> Result<(), Errno> {
        let deadline = Time::now() + PATIENCE;
        loop {
            let held = self.held()?;
            if held >= count {
                return Ok(());
            }
            assert!(
                Time::now() < deadline,
                "the disk got {held} of {count} bios"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Completes everything from now on.
    pub fn stop(&self) -> Result<(), Errno> {
        Ok(fs::write(self.directory.join("on"), "0")?)
    }

    /// Completes so many bios, the oldest first; 0 stands for all.
    pub fn release(&self, count: u64) -> Result<(), Errno> {
        Ok(fs::write(
            self.directory.join("release"),
            count.to_string(),
        )?)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let (Err(error), Ok(mut list)) = (self.stop(), HELD.lock()) {
            list.push(format!("the bios of the test disk: {error}"));
        }
    }
}

/// Completes the bios that the test disk keeps, if there is one.
pub fn complete_held_bios() {
    // Nothing can be done about a failure.
    drop(fs::write("/sys/block/vblktest/hold/on", "0"));
}

fn numbers(text: &str) -> Vec<u64> {
    let numbers = text.split_whitespace();
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

// SPDX-License-Identifier: GPL-2.0

//! The kernel's own fault injection, one fault at a time and in one thread.
//!
//! `/proc/<pid>/fail-nth` counts down at each allocation, each copy from or to a process and, for
//! disks that take part, each submission of I/O; where it gets to 0, that one fails. With 1, 2, 3
//! and so on, each of them fails once. Debug kernel only.

use crate::sys::Errno;
use std::{
    fs::{
        self,
        File, //
    },
    os::unix::fs::FileExt,
    path::Path, //
};

const DEBUGFS: &str = "/sys/kernel/debug";

/// All that can fail does, and nothing of it is told in the log.
const SETTINGS: &[(&str, &str)] = &[
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
    ("fail_usercopy/verbose", "0"),
    ("fail_make_request/verbose", "0"),
];

/// Each failure of memory is told, and from where.
const TOLD: &[(&str, &str)] = &[
    ("failslab/verbose", "2"),
    ("failslab/verbose_ratelimit_interval_ms", "0"),
    ("fail_page_alloc/verbose", "2"),
    ("fail_page_alloc/verbose_ratelimit_interval_ms", "0"),
];

/// The counter of one thread.
pub struct FailNth {
    file: File,
}

impl FailNth {
    /// That of the caller. Between [`Self::arm`] and [`Self::disarm`] it should do nothing but what
    /// is tested.
    pub fn of_this_thread() -> Result<Self, Errno> {
        Self::open("/proc/thread-self/fail-nth".as_ref())
    }

    /// That of another thread, also one of the kernel.
    pub fn of(pid: u32) -> Result<Self, Errno> {
        Self::open(format!("/proc/{pid}/fail-nth").as_ref())
    }

    fn open(path: &Path) -> Result<Self, Errno> {
        set(SETTINGS)?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file })
    }

    /// As what [`Self::open`] gives, and the log tells where each failure was.
    pub fn told(self) -> Result<Self, Errno> {
        set(TOLD)?;
        Ok(self)
    }

    /// From now on the `nth` thing that can fail does.
    pub fn arm(&self, nth: u32) -> Result<(), Errno> {
        Ok(self.file.write_all_at(nth.to_string().as_bytes(), 0)?)
    }

    /// Nothing fails any more. Whether something did.
    pub fn disarm(&self) -> Result<bool, Errno> {
        Ok(self.left()? == Some(0))
    }

    /// As [`Self::disarm`], and gives how much more would have had to go well for a failure; that is
    /// not known where asking for it was what failed.
    pub fn left(&self) -> Result<Option<u32>, Errno> {
        let mut text = [0; 16];
        let count = self.file.read_at(&mut text, 0).map_err(Errno::from);
        // Where this very read failed, the counter had not been used up before.
        let left = match count {
            Ok(count) => String::from_utf8_lossy(&text[..count]).trim().parse().ok(),
            Err(Errno::EFAULT) => None,
            Err(error) => return Err(error),
        };
        match self.arm(0) {
            Err(Errno::EFAULT) => self.arm(0)?,
            other => other?,
        }
        Ok(left)
    }
}

fn set(settings: &[(&str, &str)]) -> Result<(), Errno> {
    for (name, value) in settings {
        fs::write(Path::new(DEBUGFS).join(name), value)?;
    }
    Ok(())
}

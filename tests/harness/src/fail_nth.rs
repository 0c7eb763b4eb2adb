// SPDX-License-Identifier: GPL-2.0

//! The kernel's own fault injection, one fault at a time and in one thread.
//!
//! `/proc/<pid>/fail-nth` counts down at each allocation, each copy from or to a process and, for
//! disks that take part, each submission of I/O; where it gets to 0, that one fails. With 1, 2, 3
//! and so on, each of them fails once. Debug kernel only.

use crate::sys::Errno;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

const DEBUGFS: &str = "/sys/kernel/debug";

/// Enables all failures, and the log tells of none.
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

/// More things that can fail than any tested step has: where a sweep has gone astray.
pub const MOST: u32 = 5000;

/// The counter of one thread.
pub struct FailNth {
    file: File,
}

impl FailNth {
    /// Opens that of the caller. Between [`Self::arm`] and [`Self::disarm`] it should do nothing
    /// but what is tested.
    pub fn of_this_thread() -> Result<Self, Errno> {
        Self::open("/proc/thread-self/fail-nth".as_ref())
    }

    /// Opens that of another thread, also one of the kernel.
    pub fn of(pid: u32) -> Result<Self, Errno> {
        Self::open(format!("/proc/{pid}/fail-nth").as_ref())
    }

    fn open(path: &Path) -> Result<Self, Errno> {
        set(SETTINGS)?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file })
    }

    /// Does the same as [`Self::open`], and the log tells where each failure was.
    pub fn told(self) -> Result<Self, Errno> {
        set(TOLD)?;
        Ok(self)
    }

    /// Makes the `nth` thing that can fail do so from now on.
    pub fn arm(&self, nth: u32) -> Result<(), Errno> {
        Ok(self.file.write_all_at(nth.to_string().as_bytes(), 0)?)
    }

    /// Ends the failures. Returns whether there was one.
    pub fn disarm(&self) -> Result<bool, Errno> {
        Ok(self.left()? == Some(0))
    }

    /// Does the same as [`Self::disarm`] and returns how much more would have had to go well for a
    /// failure; that is not known where asking for it was what failed.
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

/// Fails all allocations of eight pages in a row and more in one thread, until this is dropped.
pub struct LargePagesFail(());

impl LargePagesFail {
    /// In the calling thread.
    pub fn for_this_thread() -> Result<Self, Errno> {
        let failing = Self(());
        set(&[
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "3"),
            ("fail_page_alloc/verbose", "0"),
            ("fail_page_alloc/task-filter", "Y"),
            ("fail_page_alloc/times", "-1"),
            ("fail_page_alloc/interval", "1"),
            ("fail_page_alloc/probability", "100"),
        ])?;
        fs::write("/proc/thread-self/make-it-fail", "1")?;
        Ok(failing)
    }
}

impl Drop for LargePagesFail {
    fn drop(&mut self) {
        // A later test would fail, which is told then.
        drop(fs::write("/proc/thread-self/make-it-fail", "0"));
        let _ = set(&[
            ("fail_page_alloc/probability", "0"),
            ("fail_page_alloc/times", "1"),
            ("fail_page_alloc/task-filter", "N"),
            ("fail_page_alloc/min-order", "0"),
        ]);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Control groups (version 2) to put children of a test into.

use crate::{
    context::PATIENCE,
    sys::{system, Errno},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group. Its processes must end before it is removed.
pub struct Group(PathBuf);

impl Group {
    /// Creates a group that has these controllers, each with `+` before its name.
    pub fn new(name: &str, controllers: &str) -> Result<Self, Errno> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.procs").exists() {
            system::mount(c"cgroup2", c"/sys/fs/cgroup")?;
        }
        if !controllers.is_empty() {
            fs::write(root.join("cgroup.subtree_control"), controllers)?;
        }
        let group = Self::named(name);
        fs::create_dir(&group.0)?;
        Ok(group)
    }

    /// Returns the group that [`Self::new`] created, in another process.
    pub fn named(name: &str) -> Self {
        Self(Path::new(ROOT).join(format!("vblk-harness-{name}")))
    }

    /// Moves this process into the group.
    pub fn enter(&self) -> Result<(), Errno> {
        self.set("cgroup.procs", &std::process::id().to_string())
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> Result<(), Errno> {
        Ok(fs::write(self.0.join(file), value)?)
    }

    /// Opens one of its files. In a group at its limit this fails, for an open file is charged: a
    /// test that sets a limit opens the file before.
    pub fn open(&self, file: &str) -> Result<File, Errno> {
        Ok(File::options().write(true).open(self.0.join(file))?)
    }

    /// Reads one of its files.
    pub fn get(&self, file: &str) -> Result<String, Errno> {
        Ok(fs::read_to_string(self.0.join(file))?.trim().to_owned())
    }

    /// Returns the line that its members have in `/proc/<pid>/cgroup`.
    pub fn membership(&self) -> String {
        let path = self.0.strip_prefix(ROOT).unwrap_or(&self.0);
        format!("0::/{}", path.display())
    }

    /// Removes the group as soon as nothing is in it.
    ///
    /// # Panics
    ///
    /// If it stays in use.
    pub fn remove(self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::remove_dir(&self.0) {
            assert!(Instant::now() < deadline, "the group stays in use: {error}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

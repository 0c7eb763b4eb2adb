// SPDX-License-Identifier: GPL-2.0

//! Faults of a disk, made on purpose.

use super::{
    block_device::{Disk, Origin},
    dm::{self, Target},
    node::wait_for,
    null,
};
use crate::sys::Errno;
use std::{fs, ops::Range, path::PathBuf};

/// A rule that fails requests: CONFIG_BLK_ERROR_INJECTION, of the debug kernel.
#[derive(Clone, Debug)]
pub struct Injection {
    /// `READ`, `WRITE` and so on, as the block layer calls them.
    pub op: &'static str,
    /// Name of the status without its `BLK_STS_`.
    pub status: &'static str,
    /// The sectors that a request must touch.
    pub sectors: Range<u64>,
}

impl Disk {
    /// Exchanges the targets of a mapped disk.
    pub fn load(&self, targets: &[Target]) -> Result<(), Errno> {
        self.mapped_device().load(targets)
    }

    /// Holds back the requests to a mapped disk.
    pub fn suspend(&self) -> Result<(), Errno> {
        self.mapped_device().suspend()
    }

    /// Passes the requests on again.
    pub fn resume(&self) -> Result<(), Errno> {
        self.mapped_device().resume()
    }

    /// Marks the log of [`Target::log_writes`]: what comes later was not durable yet.
    pub fn mark_log(&self, mark: &str) -> Result<(), Errno> {
        self.mapped_device().tell(&format!("mark {mark}"))
    }

    /// Makes requests to sectors of a null_blk disk fail.
    pub fn break_sectors(&self, sectors: Range<u64>) -> Result<(), Errno> {
        self.null_blk().set_bad_blocks('+', sectors)
    }

    /// Mends them again.
    pub fn mend_sectors(&self, sectors: Range<u64>) -> Result<(), Errno> {
        self.null_blk().set_bad_blocks('-', sectors)
    }

    /// Makes the next request to a null_blk disk time out. Needs the debug kernel.
    pub fn time_out_once(&self) -> Result<(), Errno> {
        self.null_blk().inject("timeout_inject", 100, 1)
    }

    /// Makes null_blk send so many requests back to the block layer, about every second one. Needs
    /// the debug kernel.
    pub fn requeue(&self, times: u32) -> Result<(), Errno> {
        self.null_blk().inject("requeue_inject", 50, times)
    }

    /// Cuts the power of a null_blk disk: the disk disappears, and with it what is in its cache.
    pub fn cut_power(&self) -> Result<(), Errno> {
        self.null_blk().set_power(false)
    }

    /// The disk appears again, with what was on it.
    pub fn restore_power(&self) -> Result<(), Errno> {
        self.null_blk().set_power(true)?;
        wait_for(&self.path)
    }

    /// Sets a limit or a switch of its queue.
    pub fn set_queue(&self, name: &str, value: u64) -> Result<(), Errno> {
        Ok(fs::write(
            self.sysfs_path(&format!("queue/{name}"))?,
            value.to_string(),
        )?)
    }

    /// Submits its requests to fail_make_request, which the fail-nth of a thread counts. Needs the
    /// debug kernel.
    pub fn may_fail(&self) -> Result<(), Errno> {
        Ok(fs::write(self.sysfs_path("make-it-fail")?, "1")?)
    }

    /// Adds a rule, which comes before those that there are.
    pub fn inject(&self, rule: &Injection) -> Result<(), Errno> {
        let Injection {
            op,
            status,
            sectors,
        } = rule;
        let (start, count) = (sectors.start, sectors.end - sectors.start);
        let text = format!("add,op={op},start={start},nr_sectors={count},status={status}");
        Ok(fs::write(self.injections(), text)?)
    }

    /// Removes all rules.
    pub fn inject_nothing(&self) -> Result<(), Errno> {
        Ok(fs::write(self.injections(), "removeall")?)
    }

    fn injections(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        let all = PathBuf::from("/sys/kernel/debug/block");
        all.join(name).join("error_injection")
    }

    fn null_blk(&self) -> &null::Instance {
        match &self.origin {
            Origin::Null(instance) => instance,
            _ => panic!("{} is no null_blk", self.path.display()),
        }
    }

    fn mapped_device(&self) -> &dm::Instance {
        match &self.origin {
            Origin::Mapped(instance) => instance,
            _ => panic!("{} is no mapped device", self.path.display()),
        }
    }
}

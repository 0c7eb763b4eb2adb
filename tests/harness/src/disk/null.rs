// SPDX-License-Identifier: GPL-2.0

//! null_blk through configfs.

use crate::sys::{system, Errno};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

const CONFIGFS: &str = "/sys/kernel/config";

/// Behaviour of a null_blk disk.
#[derive(Clone, Copy, Debug)]
pub struct NullBlk {
    /// Size in MiB.
    pub mib: u32,
    /// Logical block size.
    pub block_size: u32,
    /// Time that each request takes, on a timer whose interrupt completes it.
    pub delay: Option<Duration>,
    /// Requests that it takes at once, on each of its queues.
    pub depth: u32,
    /// Number of queues: each CPU has one, or shares it with others.
    pub queues: u32,
    /// MiB that it does in a second, a fiftieth of it every 20 ms; 0 for any.
    pub mbps: u32,
    /// Keeps what is written. Otherwise reads leave the buffer as it is.
    pub keeps_data: bool,
    /// Size in MiB of a volatile write cache, 0 for none.
    pub cache_mib: u32,
    /// Can write past that cache. Otherwise the block layer flushes behind such writes.
    pub fua: bool,
    /// Performs a request that meets a bad block up to there, instead of not at all.
    pub partial_io: bool,
    /// Consists of zones that are written in order only. Needs the debug kernel.
    pub zoned: bool,
}

impl Default for NullBlk {
    fn default() -> Self {
        Self {
            mib: 32,
            block_size: 512,
            delay: None,
            depth: 256,
            queues: 1,
            mbps: 0,
            keeps_data: true,
            cache_mib: 0,
            fua: true,
            partial_io: false,
            zoned: false,
        }
    }
}

impl NullBlk {
    /// One with a cache that is larger than all that is written in a test, so that nothing leaves it
    /// before it must. It caches only blocks that were never written before.
    pub fn cached() -> Self {
        Self {
            mib: 64,
            cache_mib: 64,
            ..Self::default()
        }
    }
}

/// A disk that was made.
pub struct Instance {
    name: String,
    dir: PathBuf,
}

impl Instance {
    /// Makes it and switches it on.
    pub fn new(options: &NullBlk) -> Result<Self, Errno> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let nullb = Path::new(CONFIGFS).join("nullb");
        if !nullb.exists() {
            match system::mount(c"configfs", c"/sys/kernel/config") {
                Ok(()) | Err(Errno::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        // Unique among processes too: children make disks of their own.
        let name = format!("vh{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let dir = nullb.join(&name);
        fs::create_dir(&dir)?;
        let mut instance = Self { name, dir };
        if let Err(error) = instance.configure(options) {
            instance.remove();
            return Err(error);
        }
        Ok(instance)
    }

    fn configure(&self, options: &NullBlk) -> Result<(), Errno> {
        /// Completes within the submission.
        const IRQ_NONE: u32 = 0;
        const IRQ_TIMER: u32 = 2;
        const ZONE_MIB: u128 = 4;
        let set = |attribute: &str, value: u128| {
            fs::write(self.dir.join(attribute), value.to_string()).map_err(Errno::from)
        };
        set("size", options.mib.into())?;
        set("blocksize", options.block_size.into())?;
        set("memory_backed", options.keeps_data.into())?;
        set("cache_size", options.cache_mib.into())?;
        set("fua", options.fua.into())?;
        set("badblocks_partial_io", options.partial_io.into())?;
        set("hw_queue_depth", options.depth.into())?;
        set("submit_queues", options.queues.into())?;
        set("mbps", options.mbps.into())?;
        if options.zoned {
            set("zone_size", ZONE_MIB)?;
            set("zoned", 1)?;
        }
        match options.delay {
            None => set("irqmode", IRQ_NONE.into())?,
            Some(delay) => {
                set("irqmode", IRQ_TIMER.into())?;
                set("completion_nsec", delay.as_nanos())?;
            }
        }
        self.set_power(true)
    }

    /// Makes the disk appear or disappear. What is on it stays, what is in its cache does not.
    pub fn set_power(&self, on: bool) -> Result<(), Errno> {
        Ok(fs::write(
            self.dir.join("power"),
            if on { "1" } else { "0" },
        )?)
    }

    /// Adds (`+`) bad blocks, or takes them away (`-`).
    pub fn set_bad_blocks(&self, sign: char, sectors: Range<u64>) -> Result<(), Errno> {
        let text = format!("{sign}{}-{}", sectors.start, sectors.end - 1);
        Ok(fs::write(self.dir.join("badblocks"), text)?)
    }

    /// Injects a fault into that percentage of requests, so many times.
    pub fn inject(&self, what: &str, probability: u32, times: u32) -> Result<(), Errno> {
        let dir = self.dir.join(what);
        // Each of them would be told in the kernel log, with its backtrace.
        fs::write(dir.join("verbose"), "0")?;
        fs::write(dir.join("times"), times.to_string())?;
        Ok(fs::write(dir.join("probability"), probability.to_string())?)
    }

    /// The device node: the disk has the name of its directory.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Removes it. Nothing can be done about a failure here; the next one to make disks will see.
    pub fn remove(&mut self) {
        let _ = self.set_power(false);
        drop(fs::remove_dir(&self.dir));
    }
}

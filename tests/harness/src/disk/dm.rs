// SPDX-License-Identifier: GPL-2.0

//! Device-mapper targets, by the ioctls of `<linux/dm-ioctl.h>`.

use crate::sys::{ioctl, Errno};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

const HEADER: usize = 312;
const FLAGS_AT: usize = 28;
const DEV_AT: usize = 40;
const NAME_AT: usize = 48;
const SPEC: usize = 40;

/// DM_SUSPEND_FLAG: without it, the command resumes.
const SUSPEND: u32 = 1 << 1;
/// DM_SKIP_LOCKFS_FLAG: no filesystem is on it.
const SKIP_LOCKFS: u32 = 1 << 10;
/// DM_NOFLUSH_FLAG: what is under way need not be done first.
const NOFLUSH: u32 = 1 << 11;

/// Commands of `/dev/mapper/control`.
#[derive(Clone, Copy)]
enum Command {
    Create = 3,
    Remove = 4,
    Suspend = 6,
    LoadTable = 9,
    Message = 14,
}

impl Command {
    const fn number(self) -> u32 {
        3 << 30 | (HEADER as u32) << 16 | 0xfd << 8 | self as u32
    }
}

/// Time that dm-delay keeps what it is given.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Milliseconds for reads; 0 passes them on at once.
    pub read: u32,
    /// The same for writes and flushes.
    pub write: u32,
}

/// A run of sectors of a mapped device, and what becomes of I/O to it.
#[derive(Clone, Debug)]
pub struct Target {
    sectors: u64,
    kind: &'static str,
    parameters: String,
}

impl Target {
    /// The sectors of another device from `start` on.
    pub fn linear(below: &Path, start: u64, sectors: u64) -> Self {
        Self {
            sectors,
            kind: "linear",
            parameters: format!("{} {start}", below.display()),
        }
    }

    /// Each request fails.
    pub fn error(sectors: u64) -> Self {
        Self {
            sectors,
            kind: "error",
            parameters: String::new(),
        }
    }

    /// The first sectors of another device, where `fault` always happens: a feature of dm-flakey.
    pub fn flakey(below: &Path, sectors: u64, fault: &str) -> Self {
        // Never up for any time, down for a second.
        let parameters = format!("{} 0 0 1 1 {fault}", below.display());
        Self {
            sectors,
            kind: "flakey",
            parameters,
        }
    }

    /// The first sectors of another device, which requests reach later.
    pub fn delay(below: &Path, sectors: u64, delays: Delays) -> Self {
        let (below, Delays { read, write }) = (below.display(), delays);
        Self {
            sectors,
            kind: "delay",
            parameters: format!("{below} 0 {read} {below} 0 {write}"),
        }
    }

    /// Returns a target like [`Self::delay`] in which only data that is written waits: a flush
    /// overtakes it.
    pub fn delayed_writes(below: &Path, sectors: u64, millis: u32) -> Self {
        let below = below.display();
        Self {
            sectors,
            kind: "delay",
            parameters: format!("{below} 0 0 {below} 0 {millis} {below} 0 0"),
        }
    }

    /// The first sectors of another device, and on a third one a log of all writes in the order in
    /// which they became durable. Needs the debug kernel.
    pub fn log_writes(below: &Path, log: &Path, sectors: u64) -> Self {
        Self {
            sectors,
            kind: "log-writes",
            parameters: format!("{} {}", below.display(), log.display()),
        }
    }
}

/// A mapped device that was made.
pub struct Instance {
    name: String,
    minor: u32,
    /// The targets that it was made of at first.
    first: Target,
}

impl Instance {
    /// Makes it of these targets, one behind the other.
    pub fn new(targets: &[Target]) -> Result<Self, Errno> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("vblk-{}-{number}", std::process::id());
        let reply = call(Command::Create, &name, 0, 0, &[])?;
        let mut dev = [0; 8];
        dev.copy_from_slice(&reply[DEV_AT..DEV_AT + 8]);
        // The number is in the kernel's "huge" encoding, in which small minors are the low byte.
        let minor = (u64::from_le_bytes(dev) & 0xff) as u32;
        let first = targets.first().ok_or(Errno::EINVAL)?.clone();
        let mut instance = Self { name, minor, first };
        if let Err(error) = instance.load(targets) {
            instance.remove();
            return Err(error);
        }
        Ok(instance)
    }

    /// Exchanges the targets. Requests in flight finish with the old ones first.
    pub fn load(&self, targets: &[Target]) -> Result<(), Errno> {
        let count = targets.len() as u32;
        call(Command::LoadTable, &self.name, 0, count, &table(targets))?;
        // Resuming makes the loaded table the active one.
        self.resume()
    }

    /// Gives it another size: that of its first target, which it was made of alone.
    pub fn resize(&self, sectors: u64) -> Result<(), Errno> {
        self.load(&[Target {
            sectors,
            ..self.first.clone()
        }])
    }

    /// Keeps from now on whatever it is given, until [`Self::resume`].
    pub fn suspend(&self) -> Result<(), Errno> {
        let flags = SUSPEND | SKIP_LOCKFS | NOFLUSH;
        call(Command::Suspend, &self.name, flags, 0, &[]).map(drop)
    }

    /// Passes requests on again.
    pub fn resume(&self) -> Result<(), Errno> {
        call(Command::Suspend, &self.name, 0, 0, &[]).map(drop)
    }

    /// Tells something to the first target.
    pub fn tell(&self, message: &str) -> Result<(), Errno> {
        // struct dm_target_msg: a sector, and a string.
        let mut payload = vec![0; 8];
        payload.extend(message.as_bytes());
        payload.push(0);
        call(Command::Message, &self.name, 0, 0, &payload).map(drop)
    }

    /// The device node that devtmpfs makes.
    pub fn node(&self) -> PathBuf {
        format!("/dev/dm-{}", self.minor).into()
    }

    /// Removes it.
    pub fn remove(&mut self) {
        // It could not be removed while it keeps something.
        let _ = self.resume();
        drop(call(Command::Remove, &self.name, 0, 0, &[]));
    }
}

/// The targets as `struct dm_target_spec`, each with its parameters behind it.
fn table(targets: &[Target]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut start = 0;
    for target in targets {
        let len = (SPEC + target.parameters.len() + 1).next_multiple_of(8);
        let mut spec = vec![0; SPEC];
        spec[..8].copy_from_slice(&u64::to_le_bytes(start));
        spec[8..16].copy_from_slice(&target.sectors.to_le_bytes());
        // Where the next one begins, from this one on.
        spec[20..24].copy_from_slice(&(len as u32).to_le_bytes());
        spec[24..24 + target.kind.len()].copy_from_slice(target.kind.as_bytes());
        spec.extend(target.parameters.as_bytes());
        spec.resize(len, 0);
        bytes.extend(spec);
        start += target.sectors;
    }
    bytes
}

/// Calls the device mapper with `struct dm_ioctl` and what follows it.
fn call(
    command: Command,
    name: &str,
    flags: u32,
    targets: u32,
    payload: &[u8],
) -> Result<Vec<u8>, Errno> {
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")?;
    let total = (HEADER + payload.len()) as u32;
    let mut bytes = Vec::with_capacity(total as usize);
    // version, data_size, data_start, target_count
    for value in [4, 0, 0, total, HEADER as u32, targets] {
        bytes.extend(u32::to_le_bytes(value));
    }
    bytes.resize(HEADER, 0);
    bytes[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&flags.to_le_bytes());
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
    bytes.extend(payload);
    ioctl::with_bytes(control, command.number(), &mut bytes)?;
    Ok(bytes)
}

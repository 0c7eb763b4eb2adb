// SPDX-License-Identifier: GPL-2.0

//! A device-mapper target, by the ioctls of `<linux/dm-ioctl.h>`.

use crate::sys::{
    ioctl,
    Errno, //
};
use std::{
    fs::File,
    path::PathBuf, //
};

const HEADER: usize = 312;
const NAME_AT: usize = 48;
const DEV_AT: usize = 40;
const SPEC: usize = 40;

/// `DM_SUSPEND_FLAG`: without it, [`Command::Suspend`] resumes.
const SUSPEND: u32 = 1 << 1;

/// Commands of `/dev/mapper/control`.
#[derive(Clone, Copy)]
enum Command {
    Create = 3,
    Remove = 4,
    Suspend = 6,
    LoadTable = 9,
}

impl Command {
    const fn number(self) -> u32 {
        3 << 30 | (HEADER as u32) << 16 | 0xfd << 8 | self as u32
    }
}

/// A mapped device that was made.
pub struct Instance {
    name: String,
    minor: u32,
    /// The target and its parameters.
    target: (&'static str, String),
}

impl Instance {
    /// dm-delay over the first `bytes` bytes of another device, with which it starts.
    pub fn delay(below: &str, bytes: u64, millis: u32) -> Result<Self, Errno> {
        Self::new(bytes, ("delay", format!("{below} 0 {millis}")))
    }

    /// dm-linear over `bytes` bytes of another device, from a sector on.
    pub fn linear(below: &str, sector: u64, bytes: u64) -> Result<Self, Errno> {
        Self::new(bytes, ("linear", format!("{below} {sector}")))
    }

    fn new(bytes: u64, target: (&'static str, String)) -> Result<Self, Errno> {
        let name = format!("vblk-{}", std::process::id());
        let reply = call(Command::Create, &name, 0, &[])?;
        let mut dev = [0; 8];
        dev.copy_from_slice(&reply[DEV_AT..DEV_AT + 8]);
        // The number is in the kernel's "huge" encoding, in which small minors are the low byte.
        let minor = (u64::from_le_bytes(dev) & 0xff) as u32;
        let mut instance = Self {
            name,
            minor,
            target,
        };
        if let Err(error) = instance.load(bytes).and_then(|()| instance.resume()) {
            instance.remove();
            return Err(error);
        }
        Ok(instance)
    }

    /// Gives it another size, as `dmsetup` does: what is under way is waited for, and what comes
    /// meanwhile waits.
    pub fn resize(&self, bytes: u64) -> Result<(), Errno> {
        self.load(bytes)?;
        call(Command::Suspend, &self.name, SUSPEND, &[])?;
        self.resume()
    }

    fn load(&self, bytes: u64) -> Result<(), Errno> {
        let (kind, parameters) = &self.target;
        let table = target(bytes / 512, kind, parameters);
        call(Command::LoadTable, &self.name, 0, &table).map(drop)
    }

    /// Makes the table that was loaded the active one.
    fn resume(&self) -> Result<(), Errno> {
        call(Command::Suspend, &self.name, 0, &[]).map(drop)
    }

    /// The device node that devtmpfs makes.
    pub fn node(&self) -> PathBuf {
        format!("/dev/dm-{}", self.minor).into()
    }

    /// Removes it.
    pub fn remove(&mut self) {
        drop(call(Command::Remove, &self.name, 0, &[]));
    }
}

/// One target that covers everything: `struct dm_target_spec` and its parameters.
fn target(sectors: u64, kind: &str, parameters: &str) -> Vec<u8> {
    let mut spec = vec![0; SPEC];
    spec[8..16].copy_from_slice(&sectors.to_le_bytes());
    spec[24..24 + kind.len()].copy_from_slice(kind.as_bytes());
    spec.extend(parameters.as_bytes());
    spec.resize((spec.len() + 1).next_multiple_of(8), 0);
    spec
}

/// Calls the device mapper with `struct dm_ioctl` and what follows it.
fn call(command: Command, name: &str, flags: u32, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")?;
    let total = (HEADER + payload.len()) as u32;
    let targets = u32::from(!payload.is_empty());
    let mut bytes = Vec::with_capacity(total as usize);
    // version, data_size, data_start, target_count, open_count, flags
    for value in [4, 0, 0, total, HEADER as u32, targets, 0, flags] {
        bytes.extend(u32::to_le_bytes(value));
    }
    bytes.resize(HEADER, 0);
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
    bytes.extend(payload);
    ioctl::with_bytes(control, command.number(), &mut bytes)?;
    Ok(bytes)
}

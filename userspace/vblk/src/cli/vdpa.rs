// SPDX-License-Identifier: GPL-2.0

//! `vblk vdpa`: disks for other VMMs, and for the host itself.

use super::{
    disk_spec::MAX_POLL_US,
    stdio::{answer, tell},
    Status,
};
use crate::{
    disk::{self, Disk, DiskKind},
    sys::rlimit::{self, Resource},
    vdpa::{self, Device, Name, User},
};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use vblk_core::{
    config::Queues,
    queue::{QueueSize, MAX_QUEUE_SIZE},
    request::ID_BYTES,
};

/// Most queues of a device, as the module has it.
const MAX_QUEUES: u16 = 256;
/// Most of one for a VMM: vhost_vdpa does not take more.
const MAX_QUEUES_OF_A_VMM: u16 = 128;
/// A limit on locked memory below which a VMM is warned of: guests have more than this.
const FEW_LOCKED_BYTES: u64 = 1 << 30;
/// The kernel's default of the most mappings.
const FEW_MAPPINGS: u64 = 2048;

/// The commands of `vblk vdpa`.
#[derive(Subcommand, Debug)]
pub enum VdpaCommand {
    /// Makes a vDPA device of a disk, and prints its node: /dev/vhost-vdpa-N for a VMM, /dev/vdX for
    /// the host.
    ///
    /// The disk is claimed until the device is deleted.
    Add(AddOptions),
    /// Prints the vDPA devices: name, node, disk, queues, whether it is read-only, rings, and
    /// whether a driver uses it: idle until a guest has set it up, also when a VMM has it open.
    List,
    /// Deletes a vDPA device that nothing uses.
    Del {
        /// Name of the device
        name: String,
    },
    /// Prints the counters of each queue of a vDPA device.
    Stats {
        /// Name of the device
        name: String,
    },
}

/// The options of `vblk vdpa add`.
#[derive(Args, Debug)]
pub struct AddOptions {
    /// Name of the device on the vDPA bus, 1 to 63 characters
    name: String,
    /// The disk: a block device
    #[arg(long, value_name = "DISK", value_hint = ValueHint::FilePath)]
    path: PathBuf,
    /// Refuse writes
    #[arg(long)]
    readonly: bool,
    /// Serial number, up to 20 bytes (default an identity of the disk)
    #[arg(long, value_name = "STR")]
    serial: Option<String>,
    /// Number of queues, 1 to 128 for a VMM, to 256 for the host
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    queues: String,
    /// Most entries of each queue, a power of two from 4 to 32768
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        allow_hyphen_values = true
    )]
    queue_size: String,
    /// Offer packed rings
    #[arg(long)]
    packed: bool,
    /// Microseconds for which a thread of the module may look at an empty ring before it sleeps
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        allow_hyphen_values = true
    )]
    poll_us: String,
    /// Who the device is for: a VMM, or the host itself
    #[arg(long = "for", value_name = "WHO", default_value = "guest")]
    user: For,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum For {
    Guest,
    Host,
}

/// Runs a command.
pub fn vdpa(command: &VdpaCommand) -> Result<Status, String> {
    match command {
        VdpaCommand::Add(options) => add(options),
        VdpaCommand::List => {
            let devices = vdpa::devices().map_err(|e| e.to_string())?;
            answer(&devices.iter().map(line).collect::<String>())
        }
        VdpaCommand::Del { name } => {
            let name = Name::new(name).map_err(|e| e.to_string())?;
            vdpa::delete(&name).map_err(|e| e.to_string())?;
            Ok(Status::Success)
        }
        VdpaCommand::Stats { name } => stats(name),
    }
}

fn add(options: &AddOptions) -> Result<Status, String> {
    let name = Name::new(&options.name).map_err(|e| e.to_string())?;
    let user = match options.user {
        For::Guest => User::Guest,
        For::Host => User::Host,
    };
    let queues = Queues {
        count: queues(&options.queues, user)?,
        size: queue_size(&options.queue_size)?,
    };
    let poll_us = poll_us(&options.poll_us)?;
    if let Some(serial) = options.serial.as_ref().filter(|it| it.len() > ID_BYTES) {
        return Err(format!("--serial {serial}: longer than {ID_BYTES} bytes"));
    }
    let label = format!("--path {}", options.path.display());
    let disk = open_disk(options, &label)?;
    let made = vdpa::Options {
        user,
        queues,
        packed: options.packed,
        poll_us,
    };
    let node = vdpa::add(&name, &disk, &made).map_err(|e| match e {
        vdpa::Error::NotABlockDevice | vdpa::Error::Zoned => format!("{label}: {e}"),
        e => e.to_string(),
    })?;
    if user == User::Guest {
        warn();
    }
    answer(&format!("{}\n", node.display()))
}

/// Opens and claims the disk, which must be a block device.
fn open_disk(options: &AddOptions, label: &str) -> Result<Disk, String> {
    let named = |e: &dyn std::fmt::Display| format!("{label}: {e}");
    // A file is refused for what it is, before it can be for its length.
    match disk::kind(&options.path) {
        Ok(DiskKind::Block) => {}
        Ok(DiskKind::File) | Err(disk::Error::Directory | disk::Error::NotADisk) => {
            return Err(named(&vdpa::Error::NotABlockDevice));
        }
        Err(e) => return Err(named(&e)),
    }
    let how = disk::Options {
        read_only: options.readonly,
        serial: options.serial.clone(),
        block_size: None,
    };
    let disk = Disk::open(&options.path, &how).map_err(|e| match e {
        disk::Error::ReadOnly => named(&"read-only; add --readonly"),
        e => named(&e),
    })?;
    if let Some(cached) = disk.cache_use() {
        tell(&named(&cached.text()));
    }
    Ok(disk)
}

/// Tells of limits that a VMM may run into, and that say little when it does.
fn warn() {
    let locked = rlimit::get(Resource::LockedMemory).map_or(u64::MAX, |limit| limit.soft);
    if locked < FEW_LOCKED_BYTES {
        tell(&format!(
            "note: vhost-vdpa pins all memory of a guest for each of its disks, and RLIMIT_MEMLOCK is \
             {} KiB here: the VMM needs at least the guest's memory (ulimit -l, LimitMEMLOCK= of \
             systemd; libvirt raises it by itself)",
            locked >> 10
        ));
    }
    if vdpa::max_mappings().is_some_and(|most| most <= FEW_MAPPINGS) {
        tell(
            "note: vhost-vdpa maps at most 2048 pieces of contiguous memory: give the guest huge \
             pages, or load vhost_vdpa anew with max_iotlb_entries=65536 (built in: boot with \
             vhost_vdpa.max_iotlb_entries=65536)",
        );
    }
}

fn stats(name: &str) -> Result<Status, String> {
    let name = Name::new(name).map_err(|e| e.to_string())?;
    let mut text = String::new();
    for (queue, stats) in vdpa::stats(&name)
        .map_err(|e| e.to_string())?
        .iter()
        .enumerate()
    {
        text += &format!(
            "queue {queue}: requests {} bytes-read {} bytes-written {} flushes {} kicks {} \
             interrupts {} io-errors {} malformed {} stopped {}\n",
            stats.requests,
            stats.bytes_read,
            stats.bytes_written,
            stats.flushes,
            stats.kicks,
            stats.interrupts,
            stats.io_errors,
            stats.malformed,
            stats.stopped_queues,
        );
    }
    answer(&text)
}

fn line(device: &Device) -> String {
    let path = |path: &Option<PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => "-".into(),
    };
    format!(
        "{} {} {} {}x{} {} {} {}{}\n",
        device.name,
        path(&device.node),
        path(&device.disk),
        device.queues.count,
        device.queues.size,
        if device.read_only { "ro" } else { "rw" },
        if device.packed { "packed" } else { "split" },
        if device.in_use { "in-use" } else { "idle" },
        match device.poll_us {
            0 => String::new(),
            us => format!(" poll-us={us}"),
        },
    )
}

fn queues(text: &str, user: User) -> Result<u16, String> {
    let (most, whose) = match user {
        User::Guest => (MAX_QUEUES_OF_A_VMM, "a VMM"),
        User::Host => (MAX_QUEUES, "the host"),
    };
    match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(format!("--queues {text}: wanted 1 to {most} for {whose}")),
    }
}

fn poll_us(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(us @ 0..=MAX_POLL_US) => Ok(us),
        _ => Err(format!("--poll-us {text}: wanted 0 to {MAX_POLL_US}")),
    }
}

/// Reads the value of `--queue-size`.
pub(super) fn queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().and_then(QueueSize::new);
    match size {
        Some(size) if size.get() >= 4 => Ok(size.get()),
        _ => Err(format!(
            "--queue-size {text}: wanted a power of two from 4 to {MAX_QUEUE_SIZE}"
        )),
    }
}

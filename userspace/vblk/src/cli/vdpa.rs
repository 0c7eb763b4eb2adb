// SPDX-License-Identifier: GPL-2.0

//! `vblk vdpa`: disks for other VMMs, and for the host itself.

use super::{
    stdio::{answer, tell},
    Status,
};
use crate::{
    disk::{self, Disk},
    sys::rlimit::{self, Resource},
    vdpa::{self, Device, User},
};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use vblk_core::{
    config::Queues,
    queue::{QueueSize, MAX_QUEUE_SIZE},
};

/// Most queues of a device, as the module has it.
const MAX_QUEUES: u16 = 256;
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
    /// Prints the vDPA devices: name, node, disk, queues, whether it is read-only, rings, and use.
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
    /// Number of queues, 1 to 256
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
            vdpa::delete(name).map_err(|e| e.to_string())?;
            Ok(Status::Success)
        }
        VdpaCommand::Stats { name } => stats(name),
    }
}

fn add(options: &AddOptions) -> Result<Status, String> {
    let queues = Queues {
        count: queues(&options.queues)?,
        size: queue_size(&options.queue_size)?,
    };
    let named = |e: &dyn std::fmt::Display| format!("--path {}: {e}", options.path.display());
    let disk = disk::Options {
        read_only: options.readonly,
        serial: options.serial.clone(),
        block_size: None,
    };
    let disk = Disk::open(&options.path, &disk).map_err(|e| named(&e))?;
    let user = match options.user {
        For::Guest => User::Guest,
        For::Host => User::Host,
    };
    let node = vdpa::add(&options.name, &disk, user, queues, options.packed).map_err(|e| {
        if matches!(e, vdpa::Error::NotABlockDevice) {
            named(&e)
        } else {
            e.to_string()
        }
    })?;
    if user == User::Guest {
        warn();
    }
    answer(&format!("{}\n", node.display()))
}

/// Tells of limits that a VMM may run into, and that say little when it does.
fn warn() {
    let locked = rlimit::get(Resource::LockedMemory).map_or(u64::MAX, |limit| limit.hard);
    if locked < FEW_LOCKED_BYTES {
        tell(&format!(
            "note: vhost-vdpa pins all memory of a guest, and RLIMIT_MEMLOCK is {} KiB here: give \
             the VMM more than the guest has (ulimit -l, LimitMEMLOCK= of systemd)",
            locked >> 10
        ));
    }
    if vdpa::max_mappings().is_some_and(|most| most <= FEW_MAPPINGS) {
        tell(
            "note: vhost-vdpa maps at most 2048 pieces of contiguous memory: give the guest huge \
             pages, or boot the host with vhost_vdpa.max_iotlb_entries=65536",
        );
    }
}

fn stats(name: &str) -> Result<Status, String> {
    let devices = vdpa::devices().map_err(|e| e.to_string())?;
    let device = devices
        .iter()
        .find(|device| device.name == name)
        .ok_or_else(|| vdpa::Error::Unknown(name.to_owned()).to_string())?;
    let mut text = String::new();
    for queue in 0..device.queues.count {
        let stats = vdpa::stats(name, queue).map_err(|e| e.to_string())?;
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
    let path = |path: Option<PathBuf>| path.map_or("-".into(), |it| it.display().to_string());
    let node = vdpa::node(std::path::Path::new("/sys"), &device.name);
    format!(
        "{} {} {} {}x{} {} {} {}\n",
        device.name,
        path(node),
        path(device.disk.clone()),
        device.queues.count,
        device.queues.size,
        if device.read_only { "ro" } else { "rw" },
        if device.packed { "packed" } else { "split" },
        if device.in_use { "in-use" } else { "free" },
    )
}

fn queues(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count) if (1..=MAX_QUEUES).contains(&count) => Ok(count),
        _ => Err(format!("--queues {text}: wanted 1 to {MAX_QUEUES}")),
    }
}

fn queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().and_then(QueueSize::new);
    match size {
        Some(size) if size.get() >= 4 => Ok(size.get()),
        _ => Err(format!(
            "--queue-size {text}: wanted a power of two from 4 to {MAX_QUEUE_SIZE}"
        )),
    }
}

// SPDX-License-Identifier: GPL-2.0

//! `vblk run`: from options to a guest that ran.

use super::{
    parse_size,
    DiskSpec,
    Status,
    UsageError, //
};
use crate::{
    backend::Backend,
    console::{
        self,
        Stopped, //
    },
    devices::bus::lock,
    disk::{
        self,
        Disk, //
    },
    seccomp::{
        self,
        Filters,
        Thread, //
    },
    vm::{
        self,
        Boot,
        DiskSlot,
        End,
        Machine,
        MAX_CPUS,
        MAX_DISKS, //
    },
};
use clap::Args;
use std::path::PathBuf;

/// A kernel needs some room to unpack itself.
const MIN_MEMORY: u64 = 16 << 20;

/// The options of `vblk run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Kernel to boot: a bzImage, or an ELF file
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial file system for the kernel
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Command line for the kernel, behind words that the launcher needs
    #[arg(long, value_name = "STR", default_value = "console=ttyS0")]
    cmdline: String,
    /// Number of CPUs
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    cpus: String,
    /// Size of memory in bytes, or with K, M or G
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        allow_hyphen_values = true
    )]
    memory: String,
    /// A disk: path=FILE[,backend=vhost|io-uring][,readonly][,queues=N][,queue-size=N]
    /// [,packed=on|off][,serial=STR]; may be given several times
    #[arg(long = "disk", value_name = "SPEC")]
    disks: Vec<String>,
    /// What happens to a thread of the launcher that makes a system call it has no use for: on
    /// kills the process, log lets the kernel log it, off allows all
    #[arg(long, value_name = "MODE", default_value = "on")]
    seccomp: String,
}

/// Boots a guest, and waits for its end.
pub fn run(options: &RunOptions) -> Result<Status, String> {
    let cpus = cpus(&options.cpus).map_err(|e| e.to_string())?;
    let memory = memory(&options.memory).map_err(|e| e.to_string())?;
    let specs = specs(&options.disks).map_err(|e| e.to_string())?;
    let boot = Boot::open(&options.kernel, options.initrd.as_deref(), &options.cmdline)
        .map_err(|e| e.to_string())?;
    let filters = filters(&options.seccomp).map_err(|e| e.to_string())?;
    // Before the first thread: all of them inherit what is blocked.
    let console = console::Console::new().map_err(|e| e.to_string())?;
    let slots = specs
        .iter()
        .map(|spec| open_disk(spec, &filters))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let kvm = vm::open_kvm()
        .map_err(|e| format!("{e} (this machine can't run guests, or you may not)"))?;

    let output = Box::new(std::io::stdout());
    let mut machine = Machine::new(&kvm, cpus, memory, boot, slots, filters.clone(), output)
        .map_err(|e| e.to_string())?;
    let stopped = machine
        .start()
        .map_err(|e| e.to_string())
        .and_then(|()| filters.apply(Thread::Main).map_err(|e| e.to_string()))
        .and_then(|()| console.run(&machine).map_err(|e| e.to_string()));
    let all_stopped = machine.stop();
    let mut status = report(stopped, &machine, all_stopped);
    for (number, (device, spec)) in machine.disks().iter().zip(&specs).enumerate() {
        let mut device = lock(device);
        if let Err(e) = device.stop() {
            eprintln!("vblk: {}: {e}", spec.label());
            status = Status::Failure;
        }
        eprintln!("vblk: disk{number} {}", summary(device.backend()));
    }
    Ok(status)
}

/// Says in one line why the guest ended, unless it wanted to.
fn report(stopped: Result<Stopped, String>, machine: &Machine, all_stopped: bool) -> Status {
    let (status, line) = match stopped {
        Err(e) => (Status::Failure, Some(e)),
        Ok(Stopped::Quit) => (Status::Success, Some("quit".into())),
        Ok(Stopped::Signal(number)) => {
            let line = format!("ended by signal {number}");
            (Status::Signal(number as u8), Some(line))
        }
        // Stopping the back-end says so.
        Ok(Stopped::BackendDied) => (Status::Failure, None),
        Ok(Stopped::Ended) => match machine.ending().get() {
            Some(End::PowerOff | End::Reset) => (Status::Success, None),
            Some(End::Panic) => (Status::Failure, Some("the guest's kernel panicked".into())),
            Some(End::Failed(why)) => (Status::Failure, Some(why)),
            None => (Status::Failure, Some("the guest vanished".into())),
        },
    };
    if let Some(line) = line {
        eprintln!("vblk: {line}");
    }
    if all_stopped {
        return status;
    }
    eprintln!("vblk: a CPU does not stop");
    Status::Failure
}

fn summary(backend: &dyn Backend) -> String {
    let disk = format!(
        "path={} backend={}",
        backend.disk().path().display(),
        backend.kind()
    );
    match backend.stats() {
        Ok(stats) => format!(
            "{disk} kicks={} requests={} bytes_read={} bytes_written={} flushes={} interrupts={} \
             io_errors={} malformed={}",
            stats.kicks,
            stats.requests,
            stats.bytes_read,
            stats.bytes_written,
            stats.flushes,
            stats.interrupts,
            stats.io_errors,
            stats.malformed
        ),
        Err(e) => format!("{disk} no counters: {e}"),
    }
}

fn open_disk(spec: &DiskSpec, filters: &Filters) -> Result<DiskSlot, UsageError> {
    let label = spec.label();
    let disk = match Disk::open(&spec.path, &spec.options) {
        Ok(disk) => disk,
        Err(e @ disk::Error::Serial(_)) => return Err(UsageError::new("--disk serial", e)),
        Err(e) => return Err(UsageError::new(label, e)),
    };
    if !disk.direct() {
        eprintln!("vblk: {label}: this file system has no direct I/O; its cache is used");
    }
    let backend = spec.backend.open(disk, filters);
    Ok(DiskSlot {
        backend: backend.map_err(|e| UsageError::new(&label, e))?,
        queues: spec.queues,
        label,
    })
}

fn filters(mode: &str) -> Result<Filters, UsageError> {
    let refuse =
        |cause: &dyn std::fmt::Display| UsageError::new(format!("--seccomp {mode}"), cause);
    let parsed = mode.parse().map_err(|e: seccomp::UnknownMode| refuse(&e))?;
    Filters::new(parsed).map_err(|e| refuse(&e))
}

fn cpus(text: &str) -> Result<u8, UsageError> {
    match text.parse() {
        Ok(count @ 1..=MAX_CPUS) => Ok(count),
        _ => {
            let option = format!("--cpus {text}");
            Err(UsageError::new(option, "not a number from 1 to 254"))
        }
    }
}

fn memory(text: &str) -> Result<u64, UsageError> {
    let refuse = |cause: String| Err(UsageError::new(format!("--memory {text}"), cause));
    let Some(bytes) = parse_size(text) else {
        return refuse("not a size such as 256M or 1G".into());
    };
    if bytes < MIN_MEMORY {
        return refuse("too small: at least 16M".into());
    }
    if bytes % 4096 != 0 {
        return refuse("not a multiple of 4096".into());
    }
    match host_memory() {
        Some(host) if bytes > host => refuse(format!("this host has only {}M", host >> 20)),
        _ => Ok(bytes),
    }
}

/// Memory of the host in bytes, with swap, if it tells.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let swap = kibibytes("SwapTotal:").unwrap_or(0);
    Some((kibibytes("MemTotal:")? + swap) << 10)
}

fn specs(texts: &[String]) -> Result<Vec<DiskSpec>, UsageError> {
    if texts.len() > MAX_DISKS {
        let cause = format!("given {} times, {MAX_DISKS} is the most", texts.len());
        return Err(UsageError::new("--disk", cause));
    }
    texts.iter().map(|text| DiskSpec::parse(text)).collect()
}

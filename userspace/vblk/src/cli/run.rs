// SPDX-License-Identifier: GPL-2.0

//! `vblk run`: from options to a guest that ran.

use super::{limits, parse_size, stdio::tell, DiskSpec, Status, UsageError};
use crate::{
    console::{Console, Stopped, Waited},
    devices::{
        bus::{lock, Shared},
        virtio::block::BlockDevice,
    },
    disk::{self, Disk},
    errno,
    monitor::DiskMonitor,
    output::Output,
    seccomp::{self, Filters, Thread},
    vm::{self, Boot, DiskSlot, End, Machine, MAX_CPUS, MAX_DISKS},
};
use clap::{Args, ValueHint};
use std::{io, os::fd::AsFd, path::PathBuf, time::Duration};
use vmm_sys_util::eventfd::EventFd;

/// A kernel needs some room to unpack itself.
const MIN_MEMORY: u64 = 16 << 20;

/// The options of `vblk run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Kernel to boot: a bzImage, or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: PathBuf,
    /// Initial file system for the kernel (none by default)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    /// Command line for the kernel, behind words that the launcher needs
    #[arg(long, value_name = "STR", default_value = "console=ttyS0")]
    cmdline: String,
    /// Number of CPUs, 1 to 254
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    cpus: String,
    /// Size of memory in bytes, or with K, M, G or T for powers of 1024; at least 16M
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        allow_hyphen_values = true
    )]
    memory: String,
    /// A disk: path=FILE and, behind commas, any of backend=vhost|io-uring (default vhost),
    /// readonly, queues=N (1 to 256, default 1), queue-size=N (entries, a power of two from 4 to
    /// 32768, default 256), packed=on|off (default off), serial=STR (up to 20 bytes; default an
    /// identity of the disk), block-size=N (bytes, of a file; default the smallest that it takes),
    /// memory-pinned, workers=N|per-queue (threads of the module; default 1), poll-us=N
    /// (microseconds for which such a thread may look at an empty ring; default 0). May be given 18
    /// times
    #[arg(long = "disk", value_name = "SPEC")]
    disks: Vec<String>,
    /// What happens to a thread of the launcher that makes a system call it has no use for: on
    /// kills the process, log lets the kernel log it, off allows all
    #[arg(long, value_name = "MODE", default_value = "on")]
    seccomp: String,
}

/// How long lines may take when their reader does not read.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);
/// How long a disk may take to answer what it was asked before the user is told what is waited for.
const DISK_SILENCE: Duration = Duration::from_secs(2);
/// How long a disk may take at all.
const DISK_PATIENCE: Duration = Duration::from_secs(30);

/// Boots a guest, and waits for its end.
pub fn run(options: &RunOptions) -> Result<Status, String> {
    let cpus = cpus(&options.cpus).map_err(|e| e.to_string())?;
    let memory = memory(&options.memory).map_err(|e| e.to_string())?;
    let specs = specs(&options.disks).map_err(|e| e.to_string())?;
    let boot = Boot::open(&options.kernel, options.initrd.as_deref(), &options.cmdline)
        .map_err(|e| e.to_string())?;
    let filters = filters(&options.seccomp).map_err(|e| e.to_string())?;
    limits::check(&specs, cpus, memory).map_err(|e| e.to_string())?;
    // Before the first thread: all of them inherit what is blocked.
    let console = Console::new().map_err(|e| e.to_string())?;
    let slots = specs
        .iter()
        .map(|spec| open_disk(spec, &filters))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let kvm = vm::open_kvm()
        .map_err(|e| format!("{e} (this machine can't run guests, or you may not)"))?;

    let (stdout, stderr) = (io::stdout(), io::stderr());
    let spawn = |name, file| {
        Output::spawn(name, file, &filters).map_err(|e| format!("{name}: {}", errno::text(&e)))
    };
    let output = spawn("vblk-stdout", stdout.as_fd())?;
    let lines = spawn("vblk-stderr", stderr.as_fd())?;
    let mut machine = Machine::new(
        &kvm,
        cpus,
        memory,
        boot,
        slots,
        filters.clone(),
        output.clone(),
    )
    .map_err(|e| e.to_string())?;
    let died = machine.disks().iter().map(died).flat_map(Result::transpose);
    let died = died.collect::<io::Result<Vec<_>>>();
    let died = died.map_err(|e| errno::text(&e))?;
    let monitor = DiskMonitor::spawn(machine.disks(), &filters).map_err(|e| errno::text(&e))?;
    machine.start().map_err(|e| e.to_string())?;
    filters.apply(Thread::Main).map_err(|e| e.to_string())?;

    machine.release();
    let stopped = console.run(&mut machine, &died);
    machine.stop();
    let mut in_a_hurry = matches!(stopped, Ok(Stopped::Quit | Stopped::Signal(_)));
    let mut status = report(stopped, &machine, &lines);
    match stop_disks(&console, &monitor, &specs, &lines) {
        Disks::Stopped { failed } => {
            if failed {
                status = Status::Failure;
            }
            if !machine.is_stopped() && !machine.stop() {
                lines.tell("a CPU does not stop");
                status = Status::Failure;
                std::mem::forget(machine);
            }
        }
        Disks::Abandoned { by_signal } => {
            status = by_signal.map_or(Status::Failure, Status::Signal);
            in_a_hurry = true;
            // Dropping them would wait for the disk. The kernel takes them back when it can.
            std::mem::forget((machine, monitor));
        }
    }
    finish_output(&console, &output, &lines, in_a_hurry).map_or(Ok(status), Ok)
}

/// A duplicate of what is signalled when the back-end of a disk dies.
fn died(disk: &Shared<BlockDevice>) -> io::Result<Option<EventFd>> {
    let device = lock(disk);
    device.backend().died().map(EventFd::try_clone).transpose()
}

/// Says in one line why the guest ended, unless it wanted to.
fn report(stopped: io::Result<Stopped>, machine: &Machine, lines: &Output) -> Status {
    let (status, line) = match stopped {
        Err(e) => (Status::Failure, Some(errno::text(&e))),
        Ok(Stopped::Quit) => (Status::Success, Some("quit".into())),
        Ok(Stopped::Signal(number)) => {
            let line = format!("ended by signal {number}");
            (Status::Signal(number as u8), Some(line))
        }
        // Stopping the back-end says so.
        Ok(Stopped::BackendDied) => (Status::Failure, None),
        Ok(Stopped::Ended) => match machine.ending().get() {
            Some(End::PowerOff | End::Reset) => (Status::Success, None),
            Some(End::Halted) => {
                let line = "the guest halted without switching itself off";
                (Status::Success, Some(line.into()))
            }
            Some(End::Panic) => (Status::Failure, Some("the guest's kernel panicked".into())),
            Some(End::Failed(why)) => (Status::Failure, Some(why)),
            None => (Status::Failure, Some("the guest vanished".into())),
        },
    };
    if let Some(line) = line {
        lines.tell(&line);
    }
    status
}

/// The outcome of stopping the disks.
enum Disks {
    /// All are stopped.
    Stopped {
        /// Not all of them properly.
        failed: bool,
    },
    /// One does not answer.
    Abandoned {
        /// The signal that ended the wait for it.
        by_signal: Option<u8>,
    },
}

/// Lets the disks complete what they were asked, and tells what they did. Tells which disk is
/// waited for, and gives up in the end.
fn stop_disks(
    console: &Console,
    monitor: &DiskMonitor,
    specs: &[DiskSpec],
    lines: &Output,
) -> Disks {
    monitor.stop_disks();
    let mut failed = false;
    let mut number = 0;
    for (limit, last) in [(DISK_SILENCE, false), (DISK_PATIENCE - DISK_SILENCE, true)] {
        let waited = console.wait(monitor.stopped(), Some(limit));
        for (disk, spec) in monitor.reports().zip(&specs[number..]) {
            if let Some(e) = disk.error {
                lines.tell(&format!("{}: {e}", spec.label()));
                failed = true;
            }
            lines.tell(&format!("disk{number} {}", disk.summary));
            number += 1;
        }
        let label = specs
            .get(monitor.current())
            .map_or("--disk".into(), DiskSpec::label);
        match waited {
            Ok(Waited::Done) => return Disks::Stopped { failed },
            Ok(Waited::Signal(signal)) => {
                lines.tell(&format!("{label}: not waited for, by signal {signal}"));
                let by_signal = Some(signal as u8);
                return Disks::Abandoned { by_signal };
            }
            Ok(Waited::TimeOut) if !last => lines.tell(&format!(
                "{label}: waiting up to {} s for requests that the disk has not answered",
                DISK_PATIENCE.as_secs()
            )),
            Ok(Waited::TimeOut) | Err(_) => {}
        }
    }
    lines.tell("giving up: the kernel ends this process when the disk has answered");
    Disks::Abandoned { by_signal: None }
}

/// Waits until everything was written that the guest and the launcher have said: as long as a
/// reader takes, unless a signal comes or one has ended the guest. Returns the status by a signal.
fn finish_output(
    console: &Console,
    output: &Output,
    lines: &Output,
    in_a_hurry: bool,
) -> Option<Status> {
    let limit = in_a_hurry.then_some(OUTPUT_PATIENCE);
    for output in [output, lines] {
        while !output.is_written() {
            match console.wait(output.written(), limit) {
                Ok(Waited::Done) => {}
                Ok(Waited::Signal(signal)) => return Some(Status::Signal(signal as u8)),
                Ok(Waited::TimeOut) | Err(_) => break,
            }
        }
    }
    None
}

fn open_disk(spec: &DiskSpec, filters: &Filters) -> Result<DiskSlot, UsageError> {
    let label = spec.label();
    let disk = match Disk::open(&spec.path, &spec.options) {
        Ok(disk) => disk,
        Err(e @ disk::Error::Serial(_)) => return Err(UsageError::new("--disk serial", e)),
        Err(e) => return Err(UsageError::new(label, e)),
    };
    if let Some(cached) = disk.cache_use() {
        tell(&format!("{label}: {}", cached.text()));
    }
    let backend = spec.backend.open_with(disk, filters, spec.tuning);
    Ok(DiskSlot {
        backend: backend.map_err(|e| UsageError::new(&label, e))?,
        queues: spec.queues,
        label,
    })
}

/// Makes the lists of system calls that the value of `--seccomp` asks for.
pub(super) fn filters(mode: &str) -> Result<Filters, UsageError> {
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

/// Returns the memory of the host in bytes, with swap, if it tells.
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

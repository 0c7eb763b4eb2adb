// SPDX-License-Identifier: GPL-2.0

//! `vblk serve`: a disk for a VMM that speaks vhost-user.

use super::{
    ready,
    run::filters,
    stdio::{answer, tell},
    vdpa::queue_size,
    Status,
};
use crate::{
    backend::{self, Backend, Kind},
    disk::{self, Disk},
    errno,
    seccomp::Thread,
    sys::{
        fault,
        rlimit::{self, Resource},
        signals::Signals,
    },
    vhost_user::{Door, Ended, Server},
};
use clap::{Args, ValueHint};
use std::{
    fmt::Display,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use vblk_core::{config::Queues, request::ID_BYTES};

/// Most queues: the protocol names them with 8 bits.
const MAX_QUEUES: u16 = 256;
/// How long a disk may be in use by the process before this one, which completes its requests.
const HANDOVER: Duration = Duration::from_secs(2);
/// As `docs/interop/vhost-user.json` of QEMU describes it.
const CAPABILITIES: &str = "{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n    \
                            \"blk-file\"\n  ]\n}\n";

/// The options of `vblk serve`.
#[derive(Args, Debug)]
pub struct ServeOptions {
    /// Where to make the socket that the VMM connects to; its mode is 0660
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    socket_path: Option<PathBuf>,
    /// Number of an open file that is the socket: a listening or a connected one
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    fd: Option<String>,
    /// The disk: a block device; with --backend io-uring also a file
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    blk_file: Option<PathBuf>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Most queues that the VMM may use, 1 to 256
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    num_queues: String,
    /// Entries of a queue that the guest is told to expect, a power of two from 4 to 32768; the VMM
    /// decides
    #[arg(
        long,
        value_name = "N",
        default_value = "128",
        allow_hyphen_values = true
    )]
    queue_size: String,
    /// Serial number, up to 20 bytes (default an identity of the disk)
    #[arg(long, value_name = "STR")]
    serial: Option<String>,
    /// Who serves it: vhost (the module) or io-uring (a thread of this process)
    #[arg(long, value_name = "NAME", default_value = "vhost")]
    backend: String,
    /// What happens to this process when it makes a system call it has no use for: on kills it, log
    /// lets the kernel log it, off allows all
    #[arg(long, value_name = "MODE", default_value = "on")]
    seccomp: String,
    /// Print what this program can do, for programs that look for one, and end
    #[arg(long)]
    print_capabilities: bool,
}

/// Serves a disk until a signal comes.
pub fn serve(options: &ServeOptions) -> Result<Status, String> {
    if options.print_capabilities {
        return answer(CAPABILITIES);
    }
    let path = options.blk_file.as_deref();
    let path = path.ok_or("--blk-file: missing")?;
    let label = format!("--blk-file {}", path.display());
    let named = |e: &dyn Display| format!("{label}: {e}");
    let kind: Kind = options
        .backend
        .parse()
        .map_err(|e| format!("--backend: {e}"))?;
    let queues = Queues {
        count: num_queues(&options.num_queues)?,
        size: queue_size(&options.queue_size)?,
    };
    if let Some(serial) = options.serial.as_ref().filter(|it| it.len() > ID_BYTES) {
        return Err(format!("--serial {serial}: longer than {ID_BYTES} bytes"));
    }
    let filters = filters(&options.seccomp).map_err(|e| e.to_string())?;
    // Each queue takes three of the front-end's, and duplicates while they are handed on.
    rlimit::raise(Resource::Files).map_err(|e| errno::text(&e))?;
    // Before the first thread: all of them inherit what is blocked.
    let wanted = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
    let signals = Signals::block(&wanted, &[libc::SIGPIPE]).map_err(|e| errno::text(&e))?;
    let disk = open_disk(path, options).map_err(|e| match e {
        disk::Error::ReadOnly => named(&"read-only; add --read-only"),
        e => named(&e),
    })?;
    if let Some(cached) = disk.cache_use() {
        tell(&named(&cached.text()));
    }
    let mut backend = kind.open(disk, &filters).map_err(|e| match e {
        backend::Error::NoModule => {
            named(&"no /dev/vhost-blk-rs: load the module vhost_blk_rs, or use --backend io-uring")
        }
        e => named(&e),
    })?;
    let door = door(options)?;
    fault::explain().map_err(|e| errno::text(&e))?;
    ready::tell_ready().map_err(|e| format!("NOTIFY_SOCKET: {}", errno::text(&e)))?;
    filters.apply(Thread::Bridge).map_err(|e| e.to_string())?;

    let ended = Server {
        backend: &mut *backend,
        queues,
        signals: &signals,
        tell: &tell,
    }
    .run(&door);
    let status = report(ended, &mut *backend, &label);
    drop(door);
    Ok(status)
}

fn report(ended: Ended, backend: &mut dyn Backend, label: &str) -> Status {
    let failed = match ended {
        Ended::Signal(libc::SIGQUIT) => return Status::Signal(libc::SIGQUIT as u8),
        Ended::Signal(_) | Ended::FrontEnd => None,
        Ended::Backend(e) => Some(e.to_string()),
        Ended::Host(e) => Some(errno::text(&e)),
    };
    let status = match failed {
        Some(cause) => {
            tell(&format!("{label}: {cause}"));
            Status::Failure
        }
        None => Status::Success,
    };
    tell(&format!("disk0 {}", backend::summary(backend)));
    status
}

fn door(options: &ServeOptions) -> Result<Door, String> {
    match (&options.socket_path, &options.fd) {
        (Some(path), None) => Door::at(path)
            .map_err(|e| format!("--socket-path {}: {}", path.display(), errno::text(&e))),
        (None, Some(text)) => {
            let number = text
                .parse()
                .map_err(|_| format!("--fd {text}: not a number"))?;
            Door::inherited(number).map_err(|e| format!("--fd {text}: {}", errno::text(&e)))
        }
        (None, None) => Err("--socket-path: missing".into()),
        (Some(_), Some(_)) => Err("--fd: not together with --socket-path".into()),
    }
}

/// Opens the disk. Where another process has just ended or been killed, it is in use for as long as
/// its requests are being completed.
fn open_disk(path: &Path, options: &ServeOptions) -> Result<Disk, disk::Error> {
    let how = disk::Options {
        read_only: options.read_only,
        serial: options.serial.clone(),
        block_size: None,
    };
    let end = Instant::now() + HANDOVER;
    loop {
        match Disk::open(path, &how) {
            Err(disk::Error::InUse) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn num_queues(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count) if (1..=MAX_QUEUES).contains(&count) => Ok(count),
        _ => Err(format!(
            "--num-queues {text}: not a number from 1 to {MAX_QUEUES}"
        )),
    }
}

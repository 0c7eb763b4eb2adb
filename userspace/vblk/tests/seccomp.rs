// SPDX-License-Identifier: GPL-2.0

//! A thread that makes a system call it has no use for ends the process.
//!
//! There is no way back from a filter, so that each is tried in a process of its own: this program,
//! told to run the one test that others leave out.

mod common;

use common::*;
use std::{
    env,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
    thread,
};
use vblk::{
    backend::Kind,
    disk::Options,
    seccomp::{Filters, Mode, Thread},
};

const THREADS: [(&str, Thread); 6] = [
    ("main", Thread::Main),
    ("cpu", Thread::Vcpu),
    ("disk", Thread::Disk),
    ("monitor", Thread::Monitor),
    ("output", Thread::Output),
    ("bridge", Thread::Bridge),
];

/// What a thread may not do, whatever it is for.
const FORBIDDEN: [(&str, fn()); 6] = [
    ("open", || drop(File::open("/dev/null"))),
    ("exec", || drop(Command::new("/bin/true").status())),
    ("socket", || drop(std::net::UdpSocket::bind("127.0.0.1:0"))),
    ("thread", || drop(thread::Builder::new().spawn(|| {}))),
    ("code", map_code),
    // Not to read from or write to what is open, but whatever the file can do besides.
    ("ioctl", control_terminal),
];

fn map_code() {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_EXEC,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: A mapping of its own, which nobody uses.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) };
}

fn control_terminal() {
    // SAFETY: TIOCSTI reads a byte, which lives for as long as the program.
    unsafe { libc::ioctl(0, libc::TIOCSTI, b"x".as_ptr()) };
}

#[test]
#[ignore = "the others run it in a process of its own"]
fn in_a_process_of_its_own() {
    let of = |name| env::var(name).unwrap();
    let (thread, call) = (of("VBLK_THREAD"), of("VBLK_CALL"));
    let (_, thread) = THREADS
        .into_iter()
        .find(|(name, _)| *name == thread)
        .unwrap();
    let filters = Filters::new(of("VBLK_MODE").parse().unwrap()).unwrap();
    if call == "serve" {
        serve_a_disk();
        std::process::exit(0);
    }
    filters.apply(thread).unwrap();
    if let Some((_, forbidden)) = FORBIDDEN.into_iter().find(|(name, _)| *name == call) {
        forbidden();
    }
    // What any thread does.
    let memory = vec![1; 1 << 20];
    eprintln!("{}", memory.len());
    std::process::exit(0);
}

fn run(mode: &str, thread: &str, call: &str) -> ExitStatus {
    Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "in_a_process_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .env("VBLK_MODE", mode)
        .env("VBLK_THREAD", thread)
        .env("VBLK_CALL", call)
        .output()
        .unwrap()
        .status
}

#[test]
fn a_forbidden_call_kills_the_process() {
    for (thread, _) in THREADS {
        assert_eq!(run("on", thread, "none").code(), Some(0), "{thread}");
        for (call, _) in FORBIDDEN {
            let killed = run("on", thread, call);
            assert_eq!(killed.signal(), Some(libc::SIGSYS), "{thread} {call}");
        }
    }
}

#[test]
fn a_forbidden_call_passes_where_it_is_only_logged() {
    assert_eq!("log".parse(), Ok(Mode::Log));
    for mode in ["log", "off"] {
        for (call, _) in FORBIDDEN {
            assert_eq!(run(mode, "cpu", call).code(), Some(0), "{mode} {call}");
        }
    }
}

/// A disk that a confined thread serves, from its start to its end. In a build with debug assertions
/// the standard library makes calls that it does not make otherwise.
#[test]
fn a_disk_is_served_and_stopped_by_a_confined_thread() {
    let served = run("on", "main", "serve");
    assert_eq!(served.code(), Some(0), "{served}");
}

fn serve_a_disk() {
    let (_file, disk) = file_disk(&pattern(1, 1 << 20), &Options::default());
    let filters = Filters::new(Mode::On).unwrap();
    let backend = Kind::IoUring.open(disk, &filters).unwrap();
    let mut rig = Rig::with_backend(Setup::default(), backend);
    for _ in 0..2 {
        assert_eq!(rig.request(&read(0, DATA, 4096)), (0, 4097));
        assert_eq!(rig.request(&write(0, DATA + 1, 512)), (0, 1));
        let base = rig.stop().base;
        rig.start(base);
    }
}

/// The threads of CPUs and of the main program are looked at in `guest/`: they need KVM.
#[test]
fn the_thread_of_a_disk_is_confined() {
    /// SECCOMP_MODE_FILTER
    const FILTER: &str = "2";
    let (_file, disk) = file_disk(&pattern(1, 1 << 20), &Options::default());
    let _backend = Kind::IoUring
        .open(disk, &Filters::new(Mode::On).unwrap())
        .unwrap();
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    // Threads of other tests may end meanwhile.
    let disks: Vec<_> = statuses
        .flatten()
        .filter(|status| status.starts_with("Name:\tvblk-io-uring\n"))
        .collect();
    assert_eq!(disks.len(), 1);
    let modes = |status: &str| {
        let mode = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        mode.unwrap().trim().to_owned()
    };
    assert_eq!(modes(&disks[0]), FILTER);
}

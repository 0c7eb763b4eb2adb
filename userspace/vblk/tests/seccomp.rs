// SPDX-License-Identifier: GPL-2.0

//! A thread that makes a system call it has no use for ends the process.
//!
//! There is no way back from a filter, so that each is tried in a process of its own: this program,
//! told to run the one test that others leave out.

use std::{
    env,
    fs::File,
    os::unix::process::ExitStatusExt,
    process::{
        Command,
        ExitStatus, //
    },
    thread, //
};
use vblk::seccomp::{
    Filters,
    Mode,
    Thread, //
};

const THREADS: [(&str, Thread); 3] = [
    ("main", Thread::Main),
    ("cpu", Thread::Vcpu),
    ("disk", Thread::Disk),
];

/// What a thread may not do, whatever it is for.
const FORBIDDEN: [(&str, fn()); 4] = [
    ("open", || drop(File::open("/dev/null"))),
    ("exec", || drop(Command::new("/bin/true").status())),
    ("socket", || drop(std::net::UdpSocket::bind("127.0.0.1:0"))),
    ("thread", || drop(thread::Builder::new().spawn(|| {}))),
];

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

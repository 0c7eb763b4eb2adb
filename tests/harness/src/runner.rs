// SPDX-License-Identifier: GPL-2.0

//! Runs tests one by one, each under a time limit and before the oracle.

use crate::{
    context::{Case, Context, NotApplicable},
    disk,
    oracle::{facts, Oracle, WORKER},
    vm::{use_memory, use_polling, use_rings},
};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs,
    io::Write,
    panic::{self, AssertUnwindSafe},
    sync::{
        mpsc::{self, RecvTimeoutError, Sender},
        Mutex,
    },
    thread,
    time::{Duration, Instant},
};

/// Places and reasons of the panics of a test, whichever thread they were in. One test runs at a time.
static PANICS: Mutex<String> = Mutex::new(String::new());

/// Takes what is told of panics so far.
fn take_panics() -> String {
    // A panic while it was held would have been another's.
    std::mem::take(&mut PANICS.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Runs the tests and prints a line for each. Returns whether all passed.
pub fn run(tests: &[Case]) -> bool {
    let context = Context::new();
    let mut oracle = match Oracle::new() {
        Ok(oracle) => oracle,
        Err(error) => {
            eprintln!("vblk-harness: cannot observe the kernel: {error}");
            return false;
        }
    };
    panic::set_hook(Box::new(remember_panic));
    let failures = tests
        .iter()
        .filter(|test| !run_one(test, &context, &mut oracle));
    failures.count() == 0
}

fn run_one(case: &Case, context: &Context, oracle: &mut Oracle) -> bool {
    let start = Instant::now();
    let (name, test) = (case.name(), case.test);
    use_rings(case.format);
    use_memory(case.pinning);
    use_polling(case.is_polled);
    let watchdog = Watchdog::start(name.clone(), context.limit(test));
    let mut skipped = None;
    let mut complaints = match panic::catch_unwind(AssertUnwindSafe(|| (test.run)(context))) {
        Ok(Ok(())) => Vec::new(),
        Ok(Err(error)) if error.is::<NotApplicable>() => {
            skipped = Some(error.to_string());
            Vec::new()
        }
        Ok(Err(error)) => vec![error.to_string()],
        Err(_) => {
            let mut lines: Vec<_> = take_panics().lines().map(str::to_owned).collect();
            if lines.is_empty() {
                lines.push("a panic that told nothing".to_owned());
            }
            lines
        }
    };
    // Those that a test expected.
    take_panics();
    if !complaints.is_empty() {
        complaints.push(format!("seed: VBLK_SEED={}", context.seed));
    }
    complaints.extend(oracle.complaints());
    watchdog.stop();
    // What was left behind by a test that did nothing else is a failure all the same.
    match skipped.filter(|_| complaints.is_empty()) {
        Some(reason) => say(&format!("ok - {name} # SKIP {reason}\n")),
        None => report(&name, start.elapsed(), &complaints),
    }
    complaints.is_empty()
}

fn report(name: &str, time: Duration, complaints: &[String]) {
    let verdict = if complaints.is_empty() {
        "ok"
    } else {
        "not ok"
    };
    let mut text = format!("{verdict} - {name} # time={:.1}s\n", time.as_secs_f32());
    for line in complaints.iter().flat_map(|complaint| complaint.lines()) {
        text.push_str(&format!("# {line}\n"));
    }
    say(&text);
}

/// One write, so that a line of the kernel on the same console does not get into the middle.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The reader of this is gone if it fails; the exit status still tells.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn remember_panic(info: &panic::PanicHookInfo<'_>) {
    let mut text = info.to_string();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    let mut panics = PANICS.lock().unwrap_or_else(|e| e.into_inner());
    panics.push_str(&text);
    panics.push('\n');
}

/// Ends the process when a test takes too long, after saying where it hangs.
struct Watchdog {
    done: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Watchdog {
    fn start(name: String, limit: Duration) -> Self {
        let (done, wait) = mpsc::channel();
        let thread = thread::spawn(move || {
            if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                give_up(&name, limit);
            }
        });
        Self { done, thread }
    }

    fn stop(self) {
        drop(self.done);
        // It can't have panicked: it only waits.
        drop(self.thread.join());
    }
}

/// Ends the run: the fault can't be known or mended from here, and this kernel needs a
/// new start.
fn give_up(name: &str, limit: Duration) {
    let mut complaints = vec![format!("{name} timed out after {} s", limit.as_secs())];
    let own = facts::threads_named("vblk-harness");
    for thread in facts::threads_named(WORKER).into_iter().chain(own) {
        complaints.push(describe(&thread));
    }
    complaints.extend(log_tail());
    report(name, limit, &complaints);
    // Otherwise this process could not end: closing a device waits for its disk.
    disk::complete_held_bios();
    std::process::exit(1);
}

fn describe(thread: &facts::Thread) -> String {
    let read = |what| {
        let path = format!("/proc/{}/{what}", thread.pid);
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    };
    let state = read("stat");
    let state = state.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
    // An empty stack means that this kernel can't tell.
    let (pid, name, place, stack) = (thread.pid, &thread.name, read("wchan"), read("stack"));
    format!("{name} ({pid}) state {state} in {place}\n{stack}")
}

fn log_tail() -> Vec<String> {
    const LINES: usize = 40;
    let Ok(log) = crate::oracle::klog::everything() else {
        return Vec::new();
    };
    let skip = log.len().saturating_sub(LINES);
    log[skip..]
        .iter()
        .map(|line| format!("kernel log: {line}"))
        .collect()
}

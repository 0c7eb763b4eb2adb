// SPDX-License-Identifier: GPL-2.0

//! The kernel log: following it, and knowing what must never be in it.

use crate::sys::Errno;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// Beginnings of reports of a broken rule, by the code that writes such reports. Compared without
/// regard to case.
const ALARMS: &[&str] = &[
    // kernel/panic.c, lib/bug.c, arch/x86/kernel/dumpstack.c
    "warning: ",
    "bug: ",
    "kernel bug at",
    "oops",
    "kernel panic",
    "general protection",
    "unable to handle",
    "call trace:",
    // Rust panics and checks of the kernel's own data
    "panicked",
    "kasan:",
    "ubsan:",
    "kfence:",
    "corruption",
    "refcount_t:",
    "bad page",
    "object already free",
    "redzone",
    // Lockdep
    "circular locking",
    "recursive locking",
    "irq lock inversion",
    "possible deadlock",
    "-safe -> ",
    "inconsistent lock",
    "inconsistent {",
    "bad unlock",
    "held lock freed",
    "lock held when",
    "suspicious rcu",
    "invalid wait context",
    "bad usage",
    // Sleeping where one must not, and waiting for ever
    "while atomic",
    "invalid context",
    "blocked for more than",
    "soft lockup",
    "hard lockup",
    "stall",
    // Kmemleak
    "unreferenced object",
    "suspected memory leaks",
];

/// Lines that an alarm would match although nothing is wrong.
const FALSE_ALARMS: &[&str] = &[
    // Printed once by each kernel that has them.
    "soft lockup detector",
    // The harness loads the module many times; an unsigned one says so.
    "module verification failed",
    "loading out-of-tree module taints kernel",
];

/// Returns whether a line tells of a broken rule.
pub fn alarming(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ALARMS.iter().any(|alarm| has_words(&line, alarm))
        && !FALSE_ALARMS.iter().any(|fine| line.contains(fine))
}

/// The lines but for reports of memory cgroups at their limit whose processes are all protected. A
/// test can only ask for that on purpose; without such a group, the kernel would panic instead.
pub fn without_limits(lines: Vec<String>) -> Vec<String> {
    let (mut kept, mut begun) = (Vec::new(), Vec::new());
    for line in lines {
        let begins = line.contains("invoked oom-killer: ");
        if begins || !begun.is_empty() {
            let ends = line.contains("Out of memory and no killable processes");
            begun.push(line);
            if ends {
                begun.clear();
            }
        } else {
            kept.push(line);
        }
    }
    // One that did not end so is none.
    kept.extend(begun);
    kept
}

/// Returns whether `words` occur in `line`, and not from the middle of a word ("debug: ").
fn has_words(line: &str, words: &str) -> bool {
    line.match_indices(words).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(char::is_alphabetic) || !words.starts_with(char::is_alphabetic)
    })
}

/// The parts of a log, each in turn: which lines tell of a failure that a test has caused, and which
/// tell of something else.
pub fn parts(mut lines: &[String]) -> Vec<(bool, &[String])> {
    let begins = |line: &String| line.starts_with("FAULT_INJECTION: forcing a failure.");
    let mut parts = Vec::new();
    while let Some(first) = lines.iter().position(begins) {
        let (before, rest) = lines.split_at(first);
        let end = rest.iter().position(|line| line == " </TASK>");
        let (report, behind) = rest.split_at(end.map_or(1, |end| end + 1));
        parts.extend([(false, before), (true, report)]);
        lines = behind;
    }
    parts.push((false, lines));
    parts
}

/// Returns the first line that is an alarm. A failure that was caused has a trace, and that is
/// none.
pub fn first_alarm(lines: &[String]) -> Option<usize> {
    let told = parts(lines).into_iter();
    let mut told = told.flat_map(|(caused, part)| part.iter().map(move |line| (caused, line)));
    told.position(|(caused, line)| alarming(line) && !(caused && line == "Call Trace:"))
}

/// The text of a `/dev/kmsg` record: "priority,sequence,time,flags;text", then lines of key and
/// value that begin with a space. `None` for what is no such record.
fn text_of(record: &str) -> Option<&str> {
    let (prefix, rest) = record.split_once(';')?;
    prefix
        .starts_with(|first: char| first.is_ascii_digit())
        .then_some(())?;
    rest.lines().next()
}

/// Reads the kernel log from some moment on.
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Begins with the next line that is logged.
    pub fn from_now() -> Result<Self, Errno> {
        Self::from(SeekFrom::End(0))
    }

    fn from(place: SeekFrom) -> Result<Self, Errno> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(place)?;
        Ok(Self { file })
    }

    /// The lines since the last call. Lines that were overwritten before they were read are told
    /// by a line of our own, which is an alarm: no code may log that much.
    pub fn take(&mut self) -> Result<Vec<String>, Errno> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record).map_err(Errno::from) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(lines),
                Ok(len) => {
                    let record = String::from_utf8_lossy(&record[..len]);
                    lines.extend(text_of(&record).map(str::to_owned));
                }
                Err(Errno::EPIPE) => lines.push("BUG: kernel log overran".to_owned()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The whole log, as far as the kernel still has it.
pub fn everything() -> Result<Vec<String>, Errno> {
    KernelLog::from(SeekFrom::Start(0))?.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First lines of real reports.
    const REPORTS: &[&str] = &[
        "WARNING: CPU: 0 PID: 71 at fs/eventfd.c:72 eventfd_signal_mask+0x5b/0x70",
        "WARNING: fs/eventfd.c:72 at eventfd_signal_mask+0x5b/0x70, CPU#0: vhost-71/72",
        "WARNING: possible circular locking dependency detected",
        "WARNING: possible recursive locking detected",
        "WARNING: possible irq lock inversion dependency detected",
        "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
        "WARNING: inconsistent lock state",
        "WARNING: suspicious RCU usage",
        "[ BUG: Invalid wait context ]",
        "BUG: scheduling while atomic: vhost-71/72/0x00000002",
        "BUG: sleeping function called from invalid context at mm/gup.c:1231",
        "BUG: KASAN: slab-use-after-free in vhost_blk_rs_end_io+0x1f/0x40 [vhost_blk_rs]",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: unable to handle page fault for address: ffffc90000a3d000",
        "Oops: Oops: 0002 [#1] SMP KASAN NOPTI",
        "Oops: general protection fault, probably for non-canonical address 0xdead000000000122",
        "kernel BUG at mm/slub.c:563!",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [vhost-71:72]",
        "INFO: task vhost-71:72 blocked for more than 90 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... }",
        "rust_kernel: panicked at /root/vhost/rust/queue.rs:112:9:",
        "refcount_t: underflow; use-after-free.",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "unreferenced object 0xffff888003a3a000 (size 192):",
        "list_del corruption. prev->next should be ffff888, but was dead000",
    ];

    #[test]
    fn reports_are_alarms() {
        for report in REPORTS {
            assert!(alarming(report), "{report}");
        }
    }

    #[test]
    fn everyday_lines_are_not() {
        for line in [
            "vhost_blk_rs: loading out-of-tree module taints kernel.",
            "vhost_blk_rs: module verification failed: signature and/or required key missing",
            "null_blk: disk nullb0 created",
            "loop0: detected capacity change from 0 to 32768",
            "vhost_blk_rs: version 1, at most 256 queues",
            "random: crng init done",
            "brd: module loaded",
            "nvme debug: queue 1", // no "bug: " as a word of its own
        ] {
            assert!(!alarming(line), "{line}");
        }
    }

    #[test]
    fn a_failure_that_a_test_causes_is_no_alarm() {
        let report = |between: &str| {
            let headline = "FAULT_INJECTION: forcing a failure.\\x0aname failslab, interval 1";
            let lines = [headline, "Call Trace:", " <TASK>", between, " </TASK>"];
            lines.map(str::to_owned).to_vec()
        };
        let caused = report("  init_module+0x1/0x2 [vhost_blk_rs]");
        assert_eq!(first_alarm(&caused), None);
        assert_eq!(first_alarm(&caused[1..]), Some(0), "without the headline");
        // What another CPU says in the middle, and what follows.
        assert_eq!(first_alarm(&report("BUG: KASAN: x")), Some(3));
        let later = [caused.clone(), vec!["Call Trace:".to_owned()]].concat();
        assert_eq!(first_alarm(&later), Some(5));
        let twice = [caused.clone(), caused].concat();
        assert_eq!(first_alarm(&twice), None);
    }

    #[test]
    fn a_group_at_its_limit_is_no_alarm_but_a_killed_process_is() {
        let lines = |words: &[&str]| words.iter().map(|line| (*line).to_owned()).collect();
        let begin = "vblk-harness invoked oom-killer: gfp_mask=0x400cc0(GFP_KERNEL_ACCOUNT)";
        let limit = [
            "before",
            begin,
            "Call Trace:",
            "Out of memory and no killable processes...",
            "behind",
        ];
        let rest: Vec<String> = lines(&["before", "behind"]);
        assert_eq!(without_limits(lines(&limit)), rest);
        let killed = [begin, "Call Trace:", "Out of memory: Killed process 77"];
        assert_eq!(without_limits(lines(&killed)), lines(&killed));
        let later = [
            begin,
            "Out of memory and no killable processes...",
            "Call Trace:",
        ];
        assert_eq!(without_limits(lines(&later)), lines(&later[2..]));
    }

    #[test]
    fn a_record_is_reduced_to_its_text() {
        let record =
            "4,812,98123456,-,caller=T71;WARNING: inconsistent lock state\n SUBSYSTEM=block\n";
        assert_eq!(text_of(record), Some("WARNING: inconsistent lock state"));
        assert_eq!(text_of("6,1,2,-;a;b\n"), Some("a;b"));
        assert_eq!(text_of(" SUBSYSTEM=x;y"), None);
        assert_eq!(text_of("no record"), None);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Conditions that must hold after every test, whatever it did.
//!
//! A snapshot is taken before the first test, or before a command that is observed. After each,
//! everything must be back to it: nothing logged that is a report of a broken rule, no taint, no
//! page still pinned, no file, no eventfd, no thread, no use of the module and no holder of a disk
//! left over. Some of this is given up asynchronously by the kernel, so each condition has a bounded
//! time to come true.

pub mod facts;
pub mod klog;

use crate::{disk, kmod, sys::Errno};
use klog::KernelLog;
use std::{
    collections::BTreeMap,
    fmt::Debug,
    time::{Duration, Instant},
};

/// Time that the kernel may take to let go of what a test used.
const SETTLING: Duration = Duration::from_secs(5);

/// Begins the names of the workers, which end with the process id of the owner as those of all
/// vhost devices do.
pub const WORKER: &str = "vhost-";

/// The state before the first test.
pub struct Oracle {
    log: KernelLog,
    pins: Option<i64>,
    files: BTreeMap<i32, String>,
    users: Option<i64>,
    next_eventfds: Option<u64>,
}

impl Oracle {
    /// Takes the snapshot.
    pub fn new() -> Result<Self, Errno> {
        let log = KernelLog::from_now()?;
        Ok(Self {
            log,
            pins: facts::pins_held(),
            files: facts::open_files(),
            users: kmod::users(),
            next_eventfds: facts::next_eventfds(),
        })
    }

    /// Returns all that is wrong now, one line each. Lines of the log are given once: the next
    /// test is not blamed for them.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut settle = |condition: &dyn Fn() -> Option<String>| {
            complaints.extend(eventually(SETTLING, condition));
        };
        settle(&|| leftover_threads());
        settle(&|| differs("users of the module", self.users, kmod::users()));
        settle(&|| differs("pages still pinned", self.pins, facts::pins_held()));
        settle(&|| files_left_open(&self.files, &facts::open_files()));
        settle(&|| {
            differs(
                "numbers of new eventfds",
                self.next_eventfds,
                facts::next_eventfds(),
            )
        });
        complaints.extend(
            disk::held()
                .iter()
                .map(|held| format!("disk still held: {held}")),
        );
        complaints.extend(bad_taint());
        complaints.extend(self.alarms());
        complaints
    }

    /// Returns what was logged since the last time, from the first alarm on.
    pub fn alarms(&mut self) -> Vec<String> {
        let lines = match self.log.take() {
            Ok(lines) => klog::without_limits(lines),
            Err(error) => return vec![format!("kernel log unreadable: {error}")],
        };
        excerpt(&lines)
    }
}

/// The part of the log that goes with the first alarm, if there is any.
fn excerpt(lines: &[String]) -> Vec<String> {
    const LENGTH: usize = 60;
    let report = klog::first_alarm(lines).map_or(&[][..], |first| &lines[first..]);
    let shown = report.iter().take(LENGTH);
    shown.map(|line| format!("kernel log: {line}")).collect()
}

/// Repeats `condition` until it has nothing to say, and tells what it said last.
fn eventually(limit: Duration, condition: &dyn Fn() -> Option<String>) -> Option<String> {
    let deadline = Instant::now() + limit;
    loop {
        let complaint = condition()?;
        if Instant::now() > deadline {
            return Some(complaint);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn differs<T: PartialEq + Debug>(what: &str, before: T, now: T) -> Option<String> {
    (before != now).then(|| format!("{what}: {now:?}, {before:?} before the tests"))
}

fn leftover_threads() -> Option<String> {
    let threads = facts::threads_named(WORKER);
    (!threads.is_empty()).then(|| format!("workers left: {threads:?}"))
}

fn files_left_open(before: &BTreeMap<i32, String>, now: &BTreeMap<i32, String>) -> Option<String> {
    let left: Vec<_> = now
        .iter()
        .filter(|file| !before.contains_key(file.0))
        .collect();
    (!left.is_empty()).then(|| format!("files left open: {left:?}"))
}

fn bad_taint() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    let bits = facts::bad_taint(&text);
    (bits != 0).then(|| format!("kernel tainted: {}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_difference_is_a_complaint() {
        assert_eq!(differs("pins", Some(2), Some(2)), None);
        assert!(differs("pins", Some(2), Some(3))
            .unwrap()
            .contains("Some(3)"));
        assert!(differs("users", Some(0), None).is_some());
    }

    #[test]
    fn a_file_left_open_is_a_complaint() {
        let before = BTreeMap::from([(0, "/dev/null".to_owned())]);
        let mut now = before.clone();
        assert_eq!(files_left_open(&before, &now), None);
        now.insert(5, "/dev/vhost-blk-rs".to_owned());
        assert!(files_left_open(&before, &now)
            .unwrap()
            .contains("/dev/vhost-blk-rs"));
    }

    #[test]
    fn the_log_is_shown_from_the_first_alarm_on() {
        let lines = ["brd: module loaded", "BUG: KASAN: x", "Call Trace:"].map(str::to_owned);
        assert_eq!(excerpt(&lines).len(), 2);
        assert!(excerpt(&lines[..1]).is_empty());
    }

    #[test]
    fn patience_has_an_end_and_a_condition_a_second_chance() {
        let always = || Some("still".to_owned());
        assert_eq!(
            eventually(Duration::ZERO, &always).as_deref(),
            Some("still")
        );
        let calls = Cell::new(0);
        let later = || {
            calls.set(calls.get() + 1);
            (calls.get() < 3).then(String::new)
        };
        assert_eq!(eventually(Duration::from_secs(5), &later), None);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Facts that the kernel tells about itself in files, parsed.

use crate::sys::poll::EventFd;
use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

/// Time for which a thread that was stopped may still be seen.
const SETTLING: Duration = Duration::from_secs(5);

/// Taint bits that say nothing bad: out-of-tree and unsigned modules.
const HARMLESS_TAINT: u64 = 1 << 12 | 1 << 13;

/// The taint bits in the text of `/proc/sys/kernel/tainted` that must not be set. Text that is
/// no number counts as all of them.
pub fn bad_taint(tainted: &str) -> u64 {
    tainted.trim().parse().unwrap_or(u64::MAX) & !HARMLESS_TAINT
}

/// Pins taken and not given back, from the text of `/proc/vmstat`. `None` when this kernel does
/// not count them.
pub fn pins(vmstat: &str) -> Option<i64> {
    let value = |key: &str| {
        let mut lines = vmstat.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(name, _)| *name == key)?
            .1
            .trim()
            .parse::<i64>()
            .ok()
    };
    Some(value("nr_foll_pin_acquired")? - value("nr_foll_pin_released")?)
}

/// Pins that were ever taken, exactly.
pub fn pins_acquired() -> Option<u64> {
    fs::read("/proc/sys/vm/stat_refresh").ok()?;
    let vmstat = fs::read_to_string("/proc/vmstat").ok()?;
    let mut lines = vmstat.lines();
    let count = lines.find_map(|line| line.strip_prefix("nr_foll_pin_acquired "))?;
    count.trim().parse().ok()
}

/// Pins that are held now, exactly.
pub fn pins_held() -> Option<i64> {
    // Each CPU keeps a few dozen to itself for up to a second, unless told to add them up: a leak of
    // a few pages would look like none.
    fs::read("/proc/sys/vm/stat_refresh").ok()?;
    pins(&fs::read_to_string("/proc/vmstat").ok()?)
}

/// The open files of this process, by number.
pub fn open_files() -> BTreeMap<i32, String> {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let files = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        // The directory that is being read is gone when its own entry is looked up.
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    });
    files
        .filter(|(_, target)| !target.ends_with("/fd"))
        .collect()
}

/// The highest number that some new eventfds get. They get the lowest that are free, so it tells of
/// eventfds that are kept by a user without a file.
pub fn next_eventfds() -> Option<u64> {
    const SOME: usize = 64;
    let events: Vec<_> = (0..SOME)
        .map(|_| EventFd::new().ok())
        .collect::<Option<_>>()?;
    let numbers = events.iter().map(eventfd_number);
    numbers.collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn eventfd_number(event: &EventFd) -> Option<u64> {
    let file = event.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{file}")).ok()?;
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix("eventfd-id:"))?;
    number.trim().parse().ok()
}

/// Returns the number of users of a module; `None` if it is not loaded.
pub fn module_users(module: &str) -> Option<i64> {
    let text = fs::read_to_string(format!("/sys/module/{module}/refcnt")).ok()?;
    text.trim().parse().ok()
}

/// A thread of some process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The thread's number.
    pub pid: u32,
    /// The thread's name.
    pub name: String,
}

/// Threads whose name begins with `prefix`: threads of the kernel, and of any process.
pub fn threads_named(prefix: &str) -> Vec<Thread> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // Neither "self" nor what is no process.
        if !process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            continue;
        }
        let tasks = fs::read_dir(process.path().join("task"));
        for task in tasks.into_iter().flatten().flatten() {
            let pid = task.file_name().to_str().and_then(|pid| pid.parse().ok());
            let name = fs::read_to_string(task.path().join("comm"));
            if let (Some(pid), Ok(name)) = (pid, name) {
                if name.starts_with(prefix) {
                    let name = name.trim_end().to_owned();
                    found.push(Thread { pid, name });
                }
            }
        }
    }
    found
}

/// Waits until there are so many threads whose name begins with `prefix`, and returns those that
/// there are then. A thread that was stopped is still seen for a moment.
pub fn await_threads(prefix: &str, count: usize) -> Vec<Thread> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let threads = threads_named(prefix);
        if threads.len() == count || Instant::now() > deadline {
            return threads;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the locked memory of this process in bytes.
pub fn locked_memory() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.ok_or("VmLck")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_out_of_tree_and_unsigned_are_harmless() {
        assert_eq!(bad_taint("0\n"), 0);
        assert_eq!(bad_taint("4096\n"), 0);
        assert_eq!(bad_taint("12288\n"), 0);
        assert_eq!(bad_taint("512\n"), 512, "W: a warning");
        assert_eq!(bad_taint("4224\n"), 128, "D: died recently");
        assert_ne!(bad_taint("nonsense"), 0);
    }

    #[test]
    fn pins_are_the_difference_of_two_counters() {
        let vmstat = "nr_foll_pin_acquired 120\nnr_foll_pin_released 117\nnr_other 5\n";
        assert_eq!(pins(vmstat), Some(3));
        assert_eq!(pins("nr_foll_pin_acquired 120\n"), None);
        assert_eq!(
            pins("xnr_foll_pin_acquired 1\nnr_foll_pin_released 1\n"),
            None
        );
    }

    #[test]
    fn an_eventfd_that_is_kept_is_noticed() {
        // Whatever other processes have: so many different numbers reach at least so far.
        let kept: Vec<_> = (0..200).map(|_| EventFd::new().unwrap()).collect();
        assert!(next_eventfds().unwrap() >= 200 + 64 - 1);
        drop(kept);
    }

    #[test]
    fn threads_of_this_process_are_found() {
        let name = std::thread::Builder::new().name("finder-7".to_owned());
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = name.spawn(move || receive.recv()).unwrap();
        let found = loop {
            let found = threads_named("finder-");
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(found[0].name, "finder-7");
        drop(send);
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn an_open_file_is_seen_with_its_name() {
        // By its number: other tests of this process open and close files at the same time.
        let file = fs::File::open("/proc/self/status").unwrap();
        let name = open_files().remove(&file.as_raw_fd());
        assert!(name.is_some_and(|name| name.ends_with("/status")));
        drop(file);
    }
}

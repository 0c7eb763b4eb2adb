// SPDX-License-Identifier: GPL-2.0

//! Limits of the host that a guest would run into later: looked at before it starts.

use super::{DiskSpec, UsageError};
use crate::sys::rlimit::{self, Resource};
use std::fs;

/// Files that each disk takes besides those of its queues.
const FILES_PER_DISK: u64 = 16;
/// Files that each queue takes: to kick, and duplicates while the disk is started.
const FILES_PER_QUEUE: u64 = 4;
/// Files that the rest takes: the machine, its serial port, signals, standard output and error.
const FILES_OF_MACHINE: u64 = 32;
/// The bit of CAP_IPC_LOCK, which takes the limit on locked memory away.
const CAP_IPC_LOCK: u32 = 14;

/// Raises what may be raised, and refuses what will not do for this guest.
pub fn check(disks: &[DiskSpec], cpus: u8, memory: u64) -> Result<(), UsageError> {
    for resource in [Resource::Files, Resource::LockedMemory] {
        // One that can't be raised may be enough.
        let _ = rlimit::raise(resource);
    }
    let soft = |resource| rlimit::get(resource).map_or(u64::MAX, |limit| limit.soft);
    let open = fs::read_dir("/proc/self/fd").map_or(8, |files| files.count() as u64);
    check_files(files(disks, cpus) + open, soft(Resource::Files))?;
    let pinned = disks
        .iter()
        .filter(|disk| disk.tuning.memory_pinned)
        .count() as u64;
    if !may_lock_memory() {
        check_locked_memory(pinned, memory, soft(Resource::LockedMemory))?;
    }
    Ok(())
}

/// Files that the disks and the machine take.
fn files(disks: &[DiskSpec], cpus: u8) -> u64 {
    let of = |disk: &DiskSpec| FILES_PER_DISK + FILES_PER_QUEUE * u64::from(disk.queues.count);
    FILES_OF_MACHINE + u64::from(cpus) + disks.iter().map(of).sum::<u64>()
}

fn check_files(need: u64, limit: u64) -> Result<(), UsageError> {
    if need <= limit {
        return Ok(());
    }
    let cause = format!(
        "these disks and queues need {need} open files, and the limit is {limit} (RLIMIT_NOFILE, \
         ulimit -n)"
    );
    Err(UsageError::new("--disk", cause))
}

fn check_locked_memory(pinned: u64, memory: u64, limit: u64) -> Result<(), UsageError> {
    // Each of the disks pins all of it.
    let need = pinned.saturating_mul(memory);
    if need <= limit {
        return Ok(());
    }
    let cause = format!(
        "needs {} KiB of locked memory, and the limit is {} KiB (RLIMIT_MEMLOCK, ulimit -l)",
        need >> 10,
        limit >> 10
    );
    Err(UsageError::new("--disk memory-pinned", cause))
}

fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status, CAP_IPC_LOCK)
}

fn has_capability(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_for_each_queue() {
        let disk = DiskSpec::parse("path=a,queues=256").unwrap();
        let need = files(&vec![disk; 5], 1);
        assert!(need > 5 * 256 * 4);
        assert!(check_files(need, need).is_ok());
        assert_eq!(
            check_files(need, 1024).unwrap_err().to_string(),
            format!(
                "--disk: these disks and queues need {need} open files, and the limit is 1024 \
                 (RLIMIT_NOFILE, ulimit -n)"
            )
        );
    }

    #[test]
    fn memory_is_pinned_for_each_disk_that_asks_for_it() {
        const MIB: u64 = 1 << 20;
        assert!(check_locked_memory(0, 256 * MIB, 0).is_ok());
        assert!(check_locked_memory(2, 256 * MIB, 512 * MIB).is_ok());
        assert!(check_locked_memory(2, 256 * MIB, u64::MAX).is_ok());
        assert_eq!(
            check_locked_memory(1, 256 * MIB, 8 * MIB)
                .unwrap_err()
                .to_string(),
            "--disk memory-pinned: needs 262144 KiB of locked memory, and the limit is 8192 KiB \
             (RLIMIT_MEMLOCK, ulimit -l)"
        );
    }

    #[test]
    fn capabilities_are_read_as_the_kernel_prints_them() {
        let status = "Name:\tvblk\nCapEff:\t0000000000004000\nCapBnd:\tffffffffffffffff\n";
        assert!(has_capability(status, 14));
        assert!(!has_capability(status, 13));
        assert!(!has_capability("", 14));
    }
}

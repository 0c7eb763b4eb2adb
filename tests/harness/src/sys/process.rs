// SPDX-License-Identifier: GPL-2.0

//! Calls by which a process changes itself: fork, give up privileges, restrict its memory.

use super::{check, Errno};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Runs `f` in a forked child and returns its exit status (128 and more for a signal).
///
/// # Panics
///
/// If this process has more than one thread: the child could then inherit locked locks.
pub fn in_fork(f: impl FnOnce() -> u8) -> Result<i32, Errno> {
    // Workers of a device are threads of this process too, but run nothing in user space.
    let tasks = std::fs::read_dir("/proc/self/task").map_err(Errno::from)?;
    let names = tasks.flatten().filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        (!name.starts_with(crate::oracle::WORKER)).then_some(name)
    });
    assert_eq!(names.count(), 1, "fork in a process of several threads");
    // SAFETY: this is the only thread, so the child is a full copy in which everything works.
    let pid = check(unsafe { libc::fork() }.into())? as i32;
    if pid == 0 {
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(101);
        // SAFETY: ends the process without running the parent's exit handlers twice.
        unsafe { libc::_exit(status.into()) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    check(unsafe { libc::waitpid(pid, &mut status, 0) }.into())?;
    Ok(if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    })
}

/// Gives up root for good.
pub fn become_user(id: u32) -> Result<(), Errno> {
    // SAFETY: these take integers, and no groups at all.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()).into())?;
        check(libc::setresgid(id, id, id).into())?;
        check(libc::setresuid(id, id, id).into())?;
    }
    Ok(())
}

/// Does something as another user, without any capability.
pub fn as_user<R>(id: u32, f: impl FnOnce() -> R) -> Result<R, Errno> {
    const KEEP: u32 = u32::MAX;
    // SAFETY: takes integers.
    check(unsafe { libc::setresuid(KEEP, id, KEEP) }.into())?;
    let result = f();
    // SAFETY: as above; the real one is still root.
    check(unsafe { libc::setresuid(KEEP, 0, KEEP) }.into())?;
    Ok(result)
}

/// Limits the memory that the process may lock, in bytes.
pub fn limit_locked_memory(bytes: u64) -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: a valid structure, borrowed for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }.into()).map(drop)
}

/// Limits the processes and threads that the user of this process may have; the hard limit stays.
pub fn limit_processes(count: u64) -> Result<(), Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid place for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut limit) }.into())?;
    limit.rlim_cur = count;
    // SAFETY: a valid structure, borrowed for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) }.into()).map(drop)
}

/// Sets the nice value of the caller.
pub fn set_nice(value: i32) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) }.into()).map(drop)
}

/// Sends SIGKILL to a child of ours.
pub fn kill(pid: u32) -> Result<(), Errno> {
    signal(pid, libc::SIGKILL)
}

/// Sends a signal to a child of ours.
pub fn signal(pid: u32, number: i32) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { libc::kill(pid as i32, number) }.into()).map(drop)
}

/// Binds a thread to one CPU; 0 is the caller.
pub fn run_on(pid: u32, cpu: usize) -> Result<(), Errno> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours; numbers that are too large are left out.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a valid set of that size, borrowed for the call.
    let ret = unsafe { libc::sched_setaffinity(pid as i32, size, &set) };
    check(ret.into()).map(drop)
}

/// Makes a descriptor of ours mean another open file.
pub fn replace_file(from: impl AsFd, to: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: takes integers. `to` stays an open descriptor of ours.
    let ret = unsafe { libc::dup2(from.as_fd().as_raw_fd(), to.as_raw_fd()) };
    check(ret.into()).map(drop)
}

/// The scheduler's treatment of a thread that wakes up or is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Never preempts another thread when it wakes up.
    Batch,
    /// Loses the CPU to everybody who wakes up, except its own kind.
    Idle,
    /// Keeps the CPU for as long as it wants, but for threads of a higher priority.
    Fifo(i32),
}

/// Sets the policy of a thread; 0 is the caller's.
pub fn set_policy(pid: u32, policy: Policy) -> Result<(), Errno> {
    let (policy, sched_priority) = match policy {
        Policy::Batch => (libc::SCHED_BATCH, 0),
        Policy::Idle => (libc::SCHED_IDLE, 0),
        Policy::Fifo(priority) => (libc::SCHED_FIFO, priority),
    };
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: takes integers, and a valid structure, borrowed for the call.
    let ret = unsafe { libc::sched_setscheduler(pid as i32, policy, &parameter) };
    check(ret.into()).map(drop)
}

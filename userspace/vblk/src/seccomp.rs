// SPDX-License-Identifier: GPL-2.0

//! Which system calls a thread may make while a guest runs.
//!
//! A guest that got hold of one of our threads would find no file to open, no program to start and
//! no memory to make executable. Each kind of thread has a list of its own; what is not on it ends
//! the process. Devices and disks are open by then, and what the disk's thread asks the kernel for
//! through its io_uring is limited by the ring, not by this.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};
use vblk_core::uapi;

/// The fate of a thread that makes a system call that is not on its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The process is killed by SIGSYS.
    On,
    /// There are no lists.
    Off,
    /// The kernel logs it and lets it pass, to find out what a list lacks.
    Log,
}

impl Mode {
    const ALL: [Self; 3] = [Self::On, Self::Off, Self::Log];

    fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Log => "log",
        }
    }
}

/// The name of no mode.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of on, off, log")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.name() == name).ok_or(UnknownMode)
    }
}

/// The kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thread {
    /// Waits for events and for the guest's end.
    Main,
    /// Runs a CPU.
    Vcpu,
    /// Serves a disk with an io_uring.
    Disk,
    /// Looks after the disks, and stops them.
    Monitor,
    /// Writes to standard output or to standard error.
    Output,
    /// Speaks vhost-user with a front-end.
    Bridge,
}

impl Thread {
    const ALL: [Self; 6] = [
        Self::Main,
        Self::Vcpu,
        Self::Disk,
        Self::Monitor,
        Self::Output,
        Self::Bridge,
    ];
}

/// A list could not be made or put into force.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The lists of all kinds of threads, or none.
#[derive(Clone, Default)]
pub struct Filters(Option<Arc<BTreeMap<Thread, BpfProgram>>>);

impl Filters {
    /// Makes the lists.
    ///
    /// # Errors
    ///
    /// When this is not the architecture that they were made for.
    pub fn new(mode: Mode) -> Result<Self, Error> {
        let otherwise = match mode {
            Mode::Off => return Ok(Self::default()),
            Mode::On => SeccompAction::KillProcess,
            Mode::Log => SeccompAction::Log,
        };
        let program = |thread| Ok((thread, program(thread, otherwise.clone())?));
        let programs = Thread::ALL.into_iter().map(program);
        let programs = programs.collect::<Result<_, seccompiler::BackendError>>();
        Ok(Self(Some(Arc::new(
            programs.map_err(|e| Error(e.to_string()))?,
        ))))
    }

    /// Puts the list for `thread` into force for the calling thread, and for those that it starts;
    /// there is no way back.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn apply(&self, thread: Thread) -> Result<(), Error> {
        let program = self.0.as_ref().and_then(|programs| programs.get(&thread));
        program.map_or(Ok(()), |program| {
            seccompiler::apply_filter(program).map_err(|e| Error(format!("seccomp: {e}")))
        })
    }
}

fn program(
    thread: Thread,
    otherwise: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = COMMON
        .iter()
        .chain(calls(thread))
        .map(|call| (*call, Vec::new()))
        .collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, NOT_EXECUTABLE, 0)?]);
    }
    let commands = FCNTLS
        .iter()
        .map(|command| argument(1, SeccompCmpOp::Eq, *command as u64))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_fcntl, commands);
    let ioctls = ioctls(thread)
        .iter()
        .map(|number| argument(1, SeccompCmpOp::Eq, (*number).into()))
        .collect::<Result<Vec<_>, _>>()?;
    // An empty list of rules would allow all of them.
    if !ioctls.is_empty() {
        rules.insert(libc::SYS_ioctl, ioctls);
    }
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

const NOT_EXECUTABLE: SeccompCmpOp = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);

fn argument(
    index: u8,
    is: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value)?;
    SeccompRule::new(vec![condition])
}

/// System calls that the standard library and the allocator need anywhere, also to end by a panic.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Commands of fcntl: to duplicate a descriptor, and to ask whether one is open, which the
/// standard library asks before it closes one in builds with debug assertions.
const FCNTLS: [libc::c_int; 2] = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD];

/// Beyond what is common; no thread may start another.
fn calls(thread: Thread) -> &'static [i64] {
    match thread {
        Thread::Main => &[
            libc::SYS_poll,
            // Whether the terminal is this process's.
            libc::SYS_getpgrp,
            libc::SYS_getpgid,
        ],
        Thread::Monitor => &[
            libc::SYS_poll,
            // The length of a disk that is a file.
            libc::SYS_fstat,
            libc::SYS_statx,
        ],
        // A file that others made non-blocking.
        Thread::Output => &[libc::SYS_poll],
        // Devices act in the thread of the CPU that touches them.
        Thread::Vcpu => &[libc::SYS_eventfd2, libc::SYS_fstat, libc::SYS_statx],
        Thread::Disk => &[
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_setup,
        ],
        Thread::Bridge => &[
            libc::SYS_poll,
            libc::SYS_accept4,
            libc::SYS_recvmsg,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_getsockopt,
            libc::SYS_setsockopt,
            libc::SYS_eventfd2,
            // The length of memory, and of a disk, that is a file.
            libc::SYS_fstat,
            libc::SYS_statx,
            // Memory for notes of what is in flight.
            libc::SYS_memfd_create,
            libc::SYS_ftruncate,
            // The used index of a ring.
            libc::SYS_pread64,
            // Whether a descriptor is an eventfd.
            libc::SYS_readlink,
            // Its own socket, at the end.
            libc::SYS_unlink,
        ],
    }
}

// The C library may use either pair.
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const KVM_RUN: u32 = 0xae80;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
const KVM_TRANSLATE: u32 = 0xc018_ae85;
const BLKGETSIZE64: u32 = 0x8008_1272;

fn ioctls(thread: Thread) -> &'static [u32] {
    match thread {
        Thread::Main => &[
            libc::TCGETS as u32,
            libc::TCSETS as u32,
            TCGETS2,
            TCSETS2,
            libc::TIOCGPGRP as u32,
        ],
        Thread::Monitor => &[
            BLKGETSIZE64,
            uapi::VHOST_BLK_GET_CONFIG,
            uapi::VHOST_BLK_GET_STATS,
            uapi::VHOST_BLK_SET_BACKEND,
            uapi::VHOST_GET_VRING_BASE,
        ],
        Thread::Bridge => &[
            // To make a socket non-blocking.
            libc::FIONBIO as u32,
            BLKGETSIZE64,
            uapi::VHOST_BLK_GET_CONFIG,
            uapi::VHOST_BLK_GET_STATS,
            uapi::VHOST_BLK_SET_BACKEND,
            uapi::VHOST_BLK_SET_CONFIG_CALL,
            uapi::VHOST_BLK_SET_SERIAL,
            uapi::VHOST_BLK_SET_WRITEBACK,
            uapi::VHOST_GET_VRING_BASE,
            uapi::VHOST_RESET_OWNER,
            uapi::VHOST_SET_FEATURES,
            uapi::VHOST_SET_MEM_TABLE,
            uapi::VHOST_SET_LOG_BASE,
            uapi::VHOST_SET_OWNER,
            uapi::VHOST_SET_VRING_ADDR,
            uapi::VHOST_SET_VRING_BASE,
            uapi::VHOST_SET_VRING_CALL,
            uapi::VHOST_SET_VRING_ERR,
            uapi::VHOST_SET_VRING_KICK,
            uapi::VHOST_SET_VRING_NUM,
        ],
        Thread::Vcpu => &[
            // First, as it is by far the most frequent.
            KVM_RUN,
            KVM_GET_REGS,
            KVM_GET_MP_STATE,
            KVM_TRANSLATE,
            BLKGETSIZE64,
            uapi::VHOST_BLK_GET_CONFIG,
            uapi::VHOST_BLK_GET_STATS,
            uapi::VHOST_BLK_SET_BACKEND,
            uapi::VHOST_ATTACH_VRING_WORKER,
            uapi::VHOST_BLK_SET_CONFIG_CALL,
            uapi::VHOST_BLK_SET_MEMORY_PINNED,
            uapi::VHOST_BLK_SET_SERIAL,
            uapi::VHOST_BLK_SET_WRITEBACK,
            uapi::VHOST_GET_VRING_BASE,
            uapi::VHOST_NEW_WORKER,
            uapi::VHOST_RESET_OWNER,
            uapi::VHOST_SET_FEATURES,
            uapi::VHOST_SET_MEM_TABLE,
            uapi::VHOST_SET_OWNER,
            uapi::VHOST_SET_VRING_ADDR,
            uapi::VHOST_SET_VRING_BASE,
            uapi::VHOST_SET_VRING_CALL,
            uapi::VHOST_SET_VRING_ERR,
            uapi::VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
            uapi::VHOST_SET_VRING_KICK,
            uapi::VHOST_SET_VRING_NUM,
        ],
        Thread::Disk | Thread::Output => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!("yes".parse::<Mode>(), Err(UnknownMode));
    }

    #[test]
    fn there_is_a_list_for_each_thread() {
        for mode in [Mode::On, Mode::Log] {
            let programs = Filters::new(mode).unwrap().0.unwrap();
            assert_eq!(programs.len(), Thread::ALL.len());
        }
        assert!(Filters::new(Mode::Off).unwrap().0.is_none());
    }
}

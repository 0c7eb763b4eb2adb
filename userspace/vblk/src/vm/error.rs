// SPDX-License-Identifier: GPL-2.0

//! Why a machine can't be built or run.

use super::{boot::Error as BootError, layout::MAX_DISKS};
use crate::{backend, errno, memory};
use std::io;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Why there is no machine. The text names the option or the step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM is not there, or refuses something.
    #[error("{step}: {}", errno::text(.cause))]
    Kvm {
        /// The step that it refused.
        step: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// More CPUs than KVM can do.
    #[error("--cpus {asked}: this host can do {max} at most")]
    Cpus {
        /// How many were asked for.
        asked: u8,
        /// How many there can be.
        max: usize,
    },
    /// More disks than there are interrupts for.
    #[error("--disk: given {0} times, {MAX_DISKS} is the most")]
    Disks(usize),
    /// Memory can't be mapped.
    #[error("--memory: {0}")]
    Memory(#[from] memory::Error),
    /// The guest can't be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A disk can't be offered.
    #[error("{label}: {cause}")]
    Disk {
        /// Its name.
        label: String,
        /// Why.
        cause: backend::Error,
    },
    /// There are no threads for CPUs.
    #[error("--cpus {cpus}: {cause} (limits of processes: ulimit -u, pids.max of the cgroup)")]
    Threads {
        /// How many CPUs were asked for.
        cpus: usize,
        /// The obstacle.
        cause: String,
    },
    /// Two devices at one address: a mistake in the layout.
    #[error(transparent)]
    Layout(#[from] crate::devices::bus::Taken),
}

/// Returns a new eventfd.
pub fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK).map_err(|cause| Error::Kvm {
        step: "eventfd",
        cause,
    })
}

/// Names the step at which KVM refused something.
pub fn kvm(step: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Error {
    move |error| Error::Kvm {
        step,
        cause: error.into(),
    }
}

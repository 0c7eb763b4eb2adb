// SPDX-License-Identifier: GPL-2.0

//! Opens a disk with the back-end that the user named. Nothing else knows both of them.

use super::{io_uring::IoUring, vhost::VhostKernel, Backend, Error, Kind, Tuning};
use crate::{disk::Disk, seccomp::Filters};

impl Kind {
    /// Makes `disk` ready to be served. Threads of this process that serve it are confined by
    /// `filters`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(self, disk: Disk, filters: &Filters) -> Result<Box<dyn Backend>, Error> {
        self.open_with(disk, filters, Tuning::default())
    }

    /// As [`Self::open`], with `tuning` for the module. The other back-end ignores it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open_with(
        self,
        disk: Disk,
        filters: &Filters,
        tuning: Tuning,
    ) -> Result<Box<dyn Backend>, Error> {
        Ok(match self {
            Self::Vhost => Box::new(VhostKernel::open(disk, tuning)?),
            Self::IoUring => Box::new(IoUring::open(disk, filters)?),
        })
    }
}

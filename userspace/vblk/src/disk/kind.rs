// SPDX-License-Identifier: GPL-2.0

//! The two kinds of disks.

/// The kind of file that a disk is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A block device.
    Block,
    /// A regular file.
    File,
}

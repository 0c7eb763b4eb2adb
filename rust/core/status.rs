// SPDX-License-Identifier: GPL-2.0

//! The status byte of a request.

/// Result of a request, as the guest is told (VIRTIO_BLK_S_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or makes no sense.
    IoError = 1,
    /// Not a request that this device knows.
    Unsupported = 2,
}

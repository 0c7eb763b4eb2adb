// SPDX-License-Identifier: GPL-2.0

//! Error numbers that `kernel::error::code` does not name.

use kernel::{
    bindings,
    error::Error,
    ffi::c_int, //
};

/// No buffer space available: what C vhost answers to the number of a queue that does not exist.
pub(crate) fn enobufs() -> Error {
    Error::from_errno(-(bindings::ENOBUFS as c_int))
}

/// Operation not supported.
pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as c_int))
}

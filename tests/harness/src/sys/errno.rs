// SPDX-License-Identifier: GPL-2.0

//! Error numbers by their names, because tests compare and print them.

use std::{fmt, io};

/// An error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $( pub const $name: Self = Self(libc::$name); )*

            fn name(self) -> Option<&'static str> {
                match self {
                    $( Self::$name => Some(stringify!($name)), )*
                    _ => None,
                }
            }
        }
    };
}

names! {
    E2BIG EACCES EAGAIN EBADF EBUSY EEXIST EFAULT EINTR EINVAL EIO EMFILE ENODEV ENOBUFS ENOENT ENOMEM
    ENOSYS ENOTBLK ENOTTY ENXIO EOPNOTSUPP EPERM EPIPE EROFS
}

impl Errno {
    /// Returns the error that the last system call of this thread left behind.
    pub fn last() -> Self {
        Self::from(&io::Error::last_os_error())
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        // An error that is none of the operating system's is told as EIO.
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

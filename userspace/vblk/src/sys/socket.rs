// SPDX-License-Identifier: GPL-2.0

//! UNIX sockets as far as the standard library does not have them: messages with file descriptors,
//! and sockets that were inherited.

use super::check;
use std::{
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};
use vmm_sys_util::{eventfd::EventFd, sock_ctrl_msg::ScmSocket};

/// Receives up to `buffer.len()` bytes, and up to `most` file descriptors that came with them.
/// Returns how many bytes there were; 0 at the end of the stream.
///
/// # Errors
///
/// Returns the kernel's error, and `ENOBUFS` when more descriptors came. These are closed then.
pub fn receive(
    socket: &UnixStream,
    buffer: &mut [u8],
    most: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut parts = [libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    }];
    let mut files = vec![-1; most];
    // SAFETY: The only part is `buffer`, which may hold any bytes.
    let received = unsafe { socket.recv_with_fds(&mut parts, &mut files) };
    let (bytes, count) = received.map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
    let owned = files.iter().take(count).map(|&file| {
        // SAFETY: The kernel has just put this descriptor into the process, and told no one else.
        unsafe { OwnedFd::from_raw_fd(file) }
    });
    Ok((bytes, owned.collect()))
}

/// Returns the file descriptor with this number, which the process was started with.
///
/// # Errors
///
/// `EBADF` when it is not open, and `EINVAL` for the three that belong to the standard library.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: fcntl takes no pointer here. A number that is no open file is refused. The duplicate
    // is a descriptor of its own, so that the number itself may belong to anyone.
    let file = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    check(file)?;
    // SAFETY: The descriptor was just opened, and only this function has it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Returns whether a socket of stream type and of the UNIX domain listens for connections.
///
/// # Errors
///
/// `ENOTSOCK`, and `EPROTOTYPE` for another type or domain.
pub fn is_listening(socket: &OwnedFd) -> io::Result<bool> {
    let is_unix = option(socket, libc::SO_DOMAIN)? == libc::AF_UNIX;
    if !is_unix || option(socket, libc::SO_TYPE)? != libc::SOCK_STREAM {
        return Err(io::Error::from_raw_os_error(libc::EPROTOTYPE));
    }
    Ok(option(socket, libc::SO_ACCEPTCONN)? != 0)
}

fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let at = std::ptr::from_mut(&mut value).cast();
    // SAFETY: There is room for `len` bytes at the pointer, and `len` may be written too.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, at, &mut len) };
    check(result)?;
    Ok(value)
}

/// Makes a socket at `path` for its owner and its group alone.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    // From the beginning: a mode that is set later leaves a moment to others.
    // SAFETY: umask takes no pointer, and can't fail.
    let earlier = unsafe { libc::umask(0o117) };
    let listener = UnixListener::bind(path);
    // SAFETY: As above.
    unsafe { libc::umask(earlier) };
    listener
}

/// Takes a descriptor for the eventfd that its sender says it is. Another file does no harm: it is
/// read and written like one.
pub fn event(file: OwnedFd) -> EventFd {
    // SAFETY: The descriptor is open, and its ownership goes along.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

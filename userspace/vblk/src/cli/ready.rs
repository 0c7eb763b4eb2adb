// SPDX-License-Identifier: GPL-2.0

//! Tells a service manager that the service is ready, as sd_notify(3) has it.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Names the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Says so to the socket that the environment names, if it names one.
///
/// # Errors
///
/// Returns the kernel's error.
pub fn tell_ready() -> io::Result<()> {
    let Some(name) = env::var_os(SOCKET) else {
        return Ok(());
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(b"READY=1", &address)
        .map(drop)
}

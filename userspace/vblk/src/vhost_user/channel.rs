// SPDX-License-Identifier: GPL-2.0

//! The socket to a front-end: whole messages in, whole answers out.
//!
//! A front-end that stops in the middle of a message, or does not read its answers, is given up
//! after a while: while it is waited for, nothing else is looked at.

use super::message::{
    Header, Malformed, Reply, Request, CONFIG_CHANGED, HEADER_BYTES, MAX_FILES, MAX_PAYLOAD,
};
use crate::{errno, sys::socket};
use std::{
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// How long the rest of a message, or the room for an answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The front-end sent something else than the protocol has.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// It closed the socket in the middle of a message.
    #[error("a message that is cut off")]
    CutOff,
    /// It does not send the rest of a message, or does not read.
    #[error("does not go on with a message")]
    Stalled,
    /// More descriptors than any message has.
    #[error("more than {MAX_FILES} file descriptors")]
    TooManyFiles,
    /// The host said so.
    #[error("{}", errno::text(.0))]
    Socket(io::Error),
}

/// A message that is whole; its request may be malformed.
#[derive(Debug)]
pub struct Message {
    /// Its head.
    pub header: Header,
    /// Its request.
    pub request: Result<Request, Malformed>,
}

/// A connection to a front-end.
pub struct Channel {
    socket: UnixStream,
}

impl Channel {
    /// Takes a connected socket.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Receives the next message; `None` when the front-end has closed the connection. To be called
    /// when there is something to read.
    ///
    /// # Errors
    ///
    /// See [`ChannelError`]. The connection is of no use then.
    pub fn receive(&mut self) -> Result<Option<Message>, ChannelError> {
        let end = Instant::now() + PATIENCE;
        let mut head = [0; HEADER_BYTES];
        let mut files = Vec::new();
        if !self.fill(&mut head, &mut files, end)? {
            return Ok(None);
        }
        let header = Header::decode(&head)?;
        let mut room = [0; MAX_PAYLOAD];
        let payload = &mut room[..header.bytes];
        if !self.fill(payload, &mut files, end)? {
            return Err(ChannelError::CutOff);
        }
        Ok(Some(Message {
            header,
            request: Request::decode(header.code, payload, files),
        }))
    }

    /// Fills `buffer`. Returns whether it could: not when the stream ended before its first byte.
    fn fill(
        &self,
        buffer: &mut [u8],
        files: &mut Vec<OwnedFd>,
        end: Instant,
    ) -> Result<bool, ChannelError> {
        let mut done = 0;
        while done < buffer.len() {
            match socket::receive(&self.socket, &mut buffer[done..], MAX_FILES) {
                Ok((0, _)) if done == 0 => return Ok(false),
                Ok((0, _)) => return Err(ChannelError::CutOff),
                Ok((bytes, more)) => {
                    done += bytes;
                    files.extend(more);
                    if files.len() > MAX_FILES {
                        return Err(ChannelError::TooManyFiles);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failure(e)),
            }
            if done < buffer.len() && Instant::now() > end {
                return Err(ChannelError::Stalled);
            }
        }
        Ok(true)
    }

    /// Sends the answer to the request with this number.
    ///
    /// # Errors
    ///
    /// See [`ChannelError`]. The connection is of no use then.
    pub fn send(&mut self, code: u32, answer: &Reply) -> Result<(), ChannelError> {
        let mut bytes = &answer.encode(code)[..];
        if let Some(file) = answer.file() {
            // The descriptor goes with the first byte.
            let sent = self.socket.send_with_fd(bytes, file.as_raw_fd());
            bytes = &bytes[sent.map_err(|e| failure(e.into()))?..];
        }
        self.socket.write_all(bytes).map_err(failure)
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn failure(error: io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => ChannelError::TooManyFiles,
        Some(libc::EAGAIN) => ChannelError::Stalled,
        _ => ChannelError::Socket(error),
    }
}

/// The socket for messages to the front-end that are no answers.
pub struct Notices(UnixStream);

impl Notices {
    /// Takes the descriptor that the front-end has sent.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, also for a file that is no such socket.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        if socket::is_listening(&file)? {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let socket = UnixStream::from(file);
        // A front-end that does not read misses what it could have read, and does not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Tells the front-end to read the configuration space again.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn config_changed(&mut self) -> io::Result<()> {
        self.0.write_all(&CONFIG_CHANGED)
    }
}

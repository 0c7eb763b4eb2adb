// SPDX-License-Identifier: GPL-2.0

//! The loop of the process: front-ends come one after the other, until a signal ends it.

use super::{
    channel::{Channel, ChannelError, Message},
    device::Device,
    message::{code, ConfigRange, Reply},
};
use crate::{
    backend::{self, Backend, Queues},
    sys::{poll, signals::Signals, socket},
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use vmm_sys_util::eventfd::EventFd;

/// How often a disk is asked whose back-end does not tell of changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Where front-ends come from.
pub enum Door {
    /// One after the other connects.
    Listening {
        /// The socket.
        listener: UnixListener,
        /// Its name, which is removed at the end.
        path: Option<PathBuf>,
    },
    /// There is one, and no other will come.
    Connected(UnixStream),
}

impl Door {
    /// Makes a socket at `path`. One that a process has left behind is replaced.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error; `EADDRINUSE` when another process listens there, or the path is
    /// something else than a socket.
    pub fn at(path: &Path) -> io::Result<Self> {
        // A connection to a file of another type is refused in the same words.
        let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
        let nobody = |e: io::Error| e.raw_os_error() == Some(libc::ECONNREFUSED);
        if is_socket && UnixStream::connect(path).is_err_and(nobody) {
            fs::remove_file(path)?;
        }
        Ok(Self::Listening {
            listener: socket::listen(path)?,
            path: Some(path.to_owned()),
        })
    }

    /// Takes the socket that the process was started with under this number.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, also for a file that is no such socket.
    pub fn inherited(number: RawFd) -> io::Result<Self> {
        let file = socket::inherited(number)?;
        Ok(match socket::is_listening(&file)? {
            true => Self::Listening {
                listener: file.into(),
                path: None,
            },
            false => Self::Connected(file.into()),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Listening {
            path: Some(path), ..
        } = self
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Why there will be no further front-end.
#[derive(Debug)]
pub enum Ended {
    /// A signal came.
    Signal(i32),
    /// The only front-end has gone.
    FrontEnd,
    /// The back-end does not serve the disk any more.
    Backend(backend::Error),
    /// The host said so.
    Host(io::Error),
}

/// Serves a disk to front-ends.
pub struct Server<'a> {
    /// The back-end of the disk.
    pub backend: &'a mut dyn Backend,
    /// The queues that there are, for the configuration space.
    pub queues: Queues,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// Takes lines for people.
    pub tell: &'a dyn Fn(&str),
}

impl Server<'_> {
    /// Serves until there is a reason to end.
    pub fn run(&mut self, door: &Door) -> Ended {
        match self.serve_all(door) {
            Ok(ended) | Err(ended) => ended,
        }
    }

    fn serve_all(&mut self, door: &Door) -> Result<Ended, Ended> {
        match door {
            Door::Connected(socket) => {
                let socket = socket.try_clone().map_err(Ended::Host)?;
                self.serve(socket)?;
                Ok(Ended::FrontEnd)
            }
            Door::Listening { listener, .. } => loop {
                let files = [self.signals.as_fd().as_raw_fd(), listener.as_raw_fd()];
                let ready = poll::readable(&files, None).map_err(Ended::Host)?;
                if let Some(signal) = self.signals.next() {
                    return Ok(Ended::Signal(signal));
                }
                if ready[1] {
                    match listener.accept() {
                        Ok((socket, _)) => self.serve(socket)?,
                        // It has gone already.
                        Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(e) => return Err(Ended::Host(e)),
                    }
                }
            },
        }
    }

    /// Serves one front-end until it goes, or is sent away.
    fn serve(&mut self, socket: UnixStream) -> Result<(), Ended> {
        let mut channel = Channel::new(socket).map_err(Ended::Host)?;
        let files = Files::of(&channel, self.backend, self.signals).map_err(Ended::Host)?;
        let mut device = Device::new(self.backend, self.queues).map_err(Ended::Backend)?;
        let session = Session {
            signals: self.signals,
            tell: self.tell,
            files,
        };
        let ended = session.follow(&mut channel, &mut device);
        // The front-end learns that it is alone only when nothing is in flight any more.
        device.stop().map_err(Ended::Backend)?;
        ended
    }
}

/// The events of a session.
struct Files {
    /// Signals, the front-end, and then what the back-end has.
    all: Vec<RawFd>,
    config: Option<EventFd>,
    died: Option<EventFd>,
}

impl Files {
    fn of(channel: &Channel, backend: &dyn Backend, signals: &Signals) -> io::Result<Self> {
        let clone = |event: Option<&EventFd>| event.map(|event| event.try_clone()).transpose();
        let (config, died) = (clone(backend.config_call())?, clone(backend.died())?);
        let mut all = vec![signals.as_fd().as_raw_fd(), channel.as_raw_fd()];
        all.extend(config.iter().chain(&died).map(AsRawFd::as_raw_fd));
        Ok(Self { all, config, died })
    }
}

/// The time that one front-end has.
struct Session<'a> {
    signals: &'a Signals,
    tell: &'a dyn Fn(&str),
    files: Files,
}

impl Session<'_> {
    /// Answers the front-end until it goes. A reason to end the process is an error.
    fn follow(&self, channel: &mut Channel, device: &mut Device<'_>) -> Result<(), Ended> {
        let asks = self.files.config.is_none();
        let mut tick = Instant::now() + PERIOD;
        loop {
            let left = asks.then(|| tick.saturating_duration_since(Instant::now()));
            let ready = poll::readable(&self.files.all, left).map_err(Ended::Host)?;
            if let Some(signal) = self.signals.next() {
                return Err(Ended::Signal(signal));
            }
            if self.files.died.as_ref().is_some_and(|it| it.read().is_ok()) {
                // Stopping it tells why.
                return Ok(());
            }
            let has_news = match &self.files.config {
                Some(event) => event.read().is_ok(),
                None => Instant::now() >= tick,
            };
            if has_news {
                tick = Instant::now() + PERIOD;
                device.refresh();
            }
            if ready[1] {
                match converse(channel, device, self.tell) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(e) => {
                        (self.tell)(&format!("the front-end is sent away: {e}"));
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Answers one message. Returns whether the front-end is still there.
fn converse(
    channel: &mut Channel,
    device: &mut Device<'_>,
    tell: &dyn Fn(&str),
) -> Result<bool, ChannelError> {
    let Some(Message { header, request }) = channel.receive()? else {
        return Ok(false);
    };
    let result = request
        .map_err(Into::into)
        .and_then(|request| device.handle(request));
    let wants_word = header.need_reply && device.tells_success();
    match result {
        Ok(Reply::Done) if wants_word => channel.send(header.code, &Reply::Done)?,
        Ok(Reply::Done) => {}
        Ok(reply) => channel.send(header.code, &reply)?,
        Err(refusal) => {
            tell(&format!("{}: {refusal}", header.name()));
            match header.code {
                // An answer without bytes says that.
                code::GET_CONFIG => {
                    let none = ConfigRange {
                        offset: 0,
                        bytes: 0,
                        flags: 0,
                    };
                    channel.send(header.code, &Reply::Config(none, Vec::new()))?;
                }
                // Their answers have no room for a refusal, and a front-end that takes them for done would
                // miss what is logged elsewhere, or wait for the rest.
                code::SET_LOG_BASE | code::GET_INFLIGHT_FD => return Ok(false),
                _ if wants_word => channel.send(header.code, &Reply::Number(1))?,
                // It would go on as if that had been done.
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

// SPDX-License-Identifier: GPL-2.0

//! The messages of the vhost-user protocol, as the front-end sends them and as they are answered.
//!
//! Bytes become a [`Request`] here, once: sizes, flags and the number of file descriptors are
//! checked, the values are not. Numbers are in the byte order of the host.

use std::os::fd::OwnedFd;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;
/// Most bytes of a payload, far more than any message needs.
pub const MAX_PAYLOAD: usize = 4096;
/// Most file descriptors of a message: one for each region of a memory table.
pub const MAX_FILES: usize = 32;
/// Most bytes of the configuration space that the protocol can carry.
pub const MAX_CONFIG: u32 = 256;

/// Declares the requests, by their names in the protocol and their numbers.
macro_rules! requests {
    ($($name:ident = $number:literal,)*) => {
        /// Numbers of the requests.
        pub mod code {
            $( pub const $name: u32 = $number; )*
        }

        impl Header {
            /// Returns the name of the request, for people.
            pub fn name(self) -> &'static str {
                match self.code {
                    $( code::$name => stringify!($name), )*
                    _ => "an unknown request",
                }
            }
        }
    };
}

requests! {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_LOG_BASE = 6,
    SET_LOG_FD = 7,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SET_BACKEND_REQ_FD = 21,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    RESET_DEVICE = 34,
    GET_MAX_MEM_SLOTS = 36,
    ADD_MEM_REG = 37,
    REM_MEM_REG = 38,
}

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The message that tells a front-end that the configuration space has changed.
pub const CONFIG_CHANGED: [u8; HEADER_BYTES] = header(2, VERSION, 0);

const fn header(code: u32, flags: u32, bytes: u32) -> [u8; HEADER_BYTES] {
    let [c0, c1, c2, c3] = code.to_ne_bytes();
    let [f0, f1, f2, f3] = flags.to_ne_bytes();
    let [b0, b1, b2, b3] = bytes.to_ne_bytes();
    [c0, c1, c2, c3, f0, f1, f2, f3, b0, b1, b2, b3]
}

/// A message that is not what the protocol has. What follows it in the stream can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another version of the protocol, or the header of a reply.
    #[error("a header that is none")]
    Header,
    /// A payload longer than any.
    #[error("a payload of {0} bytes")]
    TooLong(u32),
    /// The payload has not the length that the request has.
    #[error("a payload of another length")]
    Length,
    /// Not as many file descriptors as the request has.
    #[error("{0} file descriptors")]
    Files(usize),
    /// The protocol does not have it, or it was never offered.
    #[error("not a request of this device")]
    Unknown,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub code: u32,
    /// The front-end waits for an answer, if that was agreed on.
    pub need_reply: bool,
    /// Bytes that follow.
    pub bytes: usize,
}

impl Header {
    /// Decodes a header.
    ///
    /// # Errors
    ///
    /// [`Malformed::Header`] and [`Malformed::TooLong`].
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let (code, flags, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
            return Err(Malformed::Header);
        }
        match usize::try_from(length) {
            Ok(bytes) if bytes <= MAX_PAYLOAD => Ok(Self {
                code,
                need_reply: flags & NEED_REPLY != 0,
                bytes,
            }),
            _ => Err(Malformed::TooLong(length)),
        }
    }
}

/// A region of guest memory, as the front-end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First guest-physical address.
    pub guest: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// First address in the front-end, which the addresses of rings refer to.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// Where the log of written memory is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// Length in bytes.
    pub bytes: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// Where the notes of what is in flight are in their file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackingSpec {
    /// Length in bytes.
    pub bytes: u64,
    /// Where they begin in their file.
    pub offset: u64,
    /// Number of queues.
    pub queues: u16,
    /// Size of the longest queue that there is room for.
    pub entries: u16,
}

/// A file descriptor for a ring.
#[derive(Debug)]
pub struct RingFile {
    /// Which ring.
    pub index: u32,
    /// The descriptor; `None` takes the earlier one away.
    pub file: Option<OwnedFd>,
}

/// A number for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Which ring.
    pub index: u32,
    /// The number.
    pub number: u32,
}

/// The addresses of a ring in the front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Which ring.
    pub index: u32,
    /// Bits of `<linux/vhost.h>`.
    pub flags: u32,
    /// The descriptor table or ring.
    pub desc: u64,
    /// The used ring, or the device's event suppression.
    pub used: u64,
    /// The available ring, or the driver's event suppression.
    pub avail: u64,
}

/// A part of the configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRange {
    /// Its first byte.
    pub offset: u32,
    /// Its length.
    pub bytes: u32,
    /// Why it is written.
    pub flags: u32,
}

/// A request of the front-end.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<(RegionSpec, OwnedFd)>),
    SetLogBase(LogSpec, OwnedFd),
    SetLogFd,
    SetVringNum(RingState),
    SetVringAddr(RingAddresses),
    SetVringBase(RingState),
    GetVringBase(u32),
    SetVringKick(RingFile),
    SetVringCall(RingFile),
    SetVringErr(RingFile),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable(RingState),
    SetBackendReqFd(OwnedFd),
    GetConfig(ConfigRange),
    SetConfig(ConfigRange, Vec<u8>),
    GetInflightFd(TrackingSpec),
    SetInflightFd(TrackingSpec, OwnedFd),
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(RegionSpec, OwnedFd),
    RemMemReg(RegionSpec),
}

impl Request {
    /// Decodes the payload of a message, and takes the descriptors that came with it.
    ///
    /// # Errors
    ///
    /// See [`Malformed`]. The descriptors are closed.
    pub fn decode(code: u32, payload: &[u8], files: Vec<OwnedFd>) -> Result<Self, Malformed> {
        let mut fields = Fields(payload);
        let mut files = Files(files);
        let request = match code {
            code::GET_FEATURES => Self::GetFeatures,
            code::SET_FEATURES => Self::SetFeatures(fields.u64()?),
            code::SET_OWNER => Self::SetOwner,
            code::RESET_OWNER => Self::ResetOwner,
            code::SET_MEM_TABLE => Self::SetMemTable(memory_table(&mut fields, &mut files)?),
            code::SET_LOG_BASE => {
                let (bytes, offset) = (fields.u64()?, fields.u64()?);
                Self::SetLogBase(LogSpec { bytes, offset }, files.one()?)
            }
            code::SET_LOG_FD => {
                // To be signalled for each write; front-ends that look at the log from time to time
                // need no signal, and there are no others.
                files.one()?;
                Self::SetLogFd
            }
            code::SET_VRING_NUM => Self::SetVringNum(fields.ring_state()?),
            code::SET_VRING_ADDR => Self::SetVringAddr(fields.ring_addresses()?),
            code::SET_VRING_BASE => Self::SetVringBase(fields.ring_state()?),
            code::GET_VRING_BASE => Self::GetVringBase(fields.ring_state()?.index),
            code::SET_VRING_KICK => Self::SetVringKick(ring_file(&mut fields, &mut files)?),
            code::SET_VRING_CALL => Self::SetVringCall(ring_file(&mut fields, &mut files)?),
            code::SET_VRING_ERR => Self::SetVringErr(ring_file(&mut fields, &mut files)?),
            code::GET_PROTOCOL_FEATURES => Self::GetProtocolFeatures,
            code::SET_PROTOCOL_FEATURES => Self::SetProtocolFeatures(fields.u64()?),
            code::GET_QUEUE_NUM => Self::GetQueueNum,
            code::SET_VRING_ENABLE => Self::SetVringEnable(fields.ring_state()?),
            code::SET_BACKEND_REQ_FD => Self::SetBackendReqFd(files.one()?),
            code::GET_CONFIG => {
                let range = fields.config_range()?;
                // The front-end sends the room for the answer along.
                fields.rest(range.bytes)?;
                Self::GetConfig(range)
            }
            code::SET_CONFIG => {
                let range = fields.config_range()?;
                Self::SetConfig(range, fields.rest(range.bytes)?.to_vec())
            }
            code::GET_INFLIGHT_FD => Self::GetInflightFd(fields.tracking()?),
            code::SET_INFLIGHT_FD => Self::SetInflightFd(fields.tracking()?, files.one()?),
            code::RESET_DEVICE => Self::ResetDevice,
            code::GET_MAX_MEM_SLOTS => Self::GetMaxMemSlots,
            code::ADD_MEM_REG => Self::AddMemReg(fields.single_region()?, files.one()?),
            code::REM_MEM_REG => {
                // The protocol asks to accept one for the sake of older front-ends.
                files.0.truncate(files.0.len().saturating_sub(1));
                Self::RemMemReg(fields.single_region()?)
            }
            _ => return Err(Malformed::Unknown),
        };
        fields.end()?;
        files.end()?;
        Ok(request)
    }
}

fn memory_table(
    fields: &mut Fields<'_>,
    files: &mut Files,
) -> Result<Vec<(RegionSpec, OwnedFd)>, Malformed> {
    let count = fields.u32()?;
    fields.u32()?;
    let specs = (0..count)
        .map(|_| fields.region())
        .collect::<Result<Vec<_>, _>>()?;
    if files.0.len() != specs.len() {
        return Err(Malformed::Files(files.0.len()));
    }
    Ok(specs.into_iter().zip(files.0.drain(..)).collect())
}

fn ring_file(fields: &mut Fields<'_>, files: &mut Files) -> Result<RingFile, Malformed> {
    const INDEX: u64 = 0xff;
    /// There is no descriptor.
    const NO_FILE: u64 = 1 << 8;
    let value = fields.u64()?;
    let file = match value & NO_FILE {
        0 => Some(files.one()?),
        _ => None,
    };
    Ok(RingFile {
        index: (value & INDEX) as u32,
        file,
    })
}

/// The descriptors of a message that were not taken yet.
struct Files(Vec<OwnedFd>);

impl Files {
    fn one(&mut self) -> Result<OwnedFd, Malformed> {
        match self.0.len() {
            1 => self.0.pop().ok_or(Malformed::Files(0)),
            count => Err(Malformed::Files(count)),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(Malformed::Files(count)),
        }
    }
}

/// The bytes of a message that were not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], Malformed> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_ne_bytes)
    }

    fn ring_state(&mut self) -> Result<RingState, Malformed> {
        Ok(RingState {
            index: self.u32()?,
            number: self.u32()?,
        })
    }

    fn ring_addresses(&mut self) -> Result<RingAddresses, Malformed> {
        let addresses = RingAddresses {
            index: self.u32()?,
            flags: self.u32()?,
            desc: self.u64()?,
            used: self.u64()?,
            avail: self.u64()?,
        };
        // Where the used ring is in guest memory, for the log, in which all rings are.
        self.u64()?;
        Ok(addresses)
    }

    fn region(&mut self) -> Result<RegionSpec, Malformed> {
        Ok(RegionSpec {
            guest: self.u64()?,
            bytes: self.u64()?,
            user: self.u64()?,
            offset: self.u64()?,
        })
    }

    fn single_region(&mut self) -> Result<RegionSpec, Malformed> {
        self.u64()?;
        self.region()
    }

    fn config_range(&mut self) -> Result<ConfigRange, Malformed> {
        Ok(ConfigRange {
            offset: self.u32()?,
            bytes: self.u32()?,
            flags: self.u32()?,
        })
    }

    fn tracking(&mut self) -> Result<TrackingSpec, Malformed> {
        let spec = TrackingSpec {
            bytes: self.u64()?,
            offset: self.u64()?,
            queues: self.u16()?,
            entries: self.u16()?,
        };
        // Front-ends send the structure as C has it, with the padding at its end.
        self.u32()?;
        Ok(spec)
    }

    /// Takes all that is left, which must be `bytes` long.
    fn rest(&mut self, bytes: u32) -> Result<&[u8], Malformed> {
        let rest = std::mem::take(&mut self.0);
        match usize::try_from(bytes) {
            Ok(bytes) if bytes == rest.len() => Ok(rest),
            _ => Err(Malformed::Length),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        match self.0 {
            [] => Ok(()),
            _ => Err(Malformed::Length),
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// It was done. Told only to a front-end that asks.
    Done,
    /// A number.
    Number(u64),
    /// A number of a ring.
    Ring(RingState),
    /// The log that was taken. QEMU takes any answer for one, and the crate `vhost` this.
    Log(LogSpec),
    /// Memory for notes of what is in flight, in a file.
    Tracking(TrackingSpec, OwnedFd),
    /// A part of the configuration space; without bytes when there is no such part.
    Config(ConfigRange, Vec<u8>),
}

impl Reply {
    /// Encodes the answer to the request with this number.
    pub fn encode(&self, code: u32) -> Vec<u8> {
        let payload = match self {
            Self::Done => 0u64.to_ne_bytes().to_vec(),
            Self::Number(number) => number.to_ne_bytes().to_vec(),
            Self::Ring(state) => [state.index, state.number].map(u32::to_ne_bytes).concat(),
            Self::Log(log) => [log.bytes, log.offset].map(u64::to_ne_bytes).concat(),
            Self::Tracking(spec, _) => {
                let place = [spec.bytes, spec.offset].map(u64::to_ne_bytes).concat();
                let of_queues = [spec.queues, spec.entries, 0, 0].map(u16::to_ne_bytes);
                [place, of_queues.concat()].concat()
            }
            Self::Config(range, bytes) => {
                let head = [range.offset, range.bytes, range.flags].map(u32::to_ne_bytes);
                [&head.concat()[..], bytes].concat()
            }
        };
        let head = header(code, VERSION | REPLY, payload.len() as u32);
        [&head[..], &payload].concat()
    }

    /// Returns the file descriptor that goes with the answer.
    pub fn file(&self) -> Option<&OwnedFd> {
        match self {
            Self::Tracking(_, file) => Some(file),
            _ => None,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Commands, decoded once from the number and the argument of an ioctl.
//!
//! Decoding reads and judges the argument alone. What depends on the state of the device is judged
//! where the command is executed, but for one thing: as in C vhost, a command that a served queue
//! does not take is EBUSY before its argument is looked at.

use super::{
    user_argument::UserArgument,
    vdpa_command::VdpaCommand, //
};
use crate::{
    device::Device,
    memory::MemoryRegion,
    queue::ready::MAX_QUEUES,
    sys::{
        block_file::BlockFile,
        errno::{
            enobufs,
            eopnotsupp, //
        },
        eventfd::EventFile,
        signal::Signal, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    config::Queues,
    features::Features,
    queue::{
        Parts,
        QueueSize, //
    },
    request::ID_BYTES,
    uapi::*, //
};

/// A command that anyone with the file may give.
pub(super) enum FileCommand {
    GetFeatures,
    GetBackendFeatures,
    GetInfo,
    GetConfig(BlockFile, Queues, ConfigHeader),
    Vdpa(VdpaCommand),
    SetForkFromOwner,
    GetForkFromOwner,
    SetOwner,
}

impl FileCommand {
    /// Decodes a command; `None` when it is none of these.
    ///
    /// # Errors
    ///
    /// EFAULT, and those of the argument.
    pub(super) fn decode(number: u32, arg: UserArgument) -> Result<Option<Self>> {
        Ok(Some(match number {
            VHOST_GET_FEATURES => Self::GetFeatures,
            VHOST_GET_BACKEND_FEATURES => Self::GetBackendFeatures,
            VHOST_BLK_GET_INFO => Self::GetInfo,
            VHOST_BLK_GET_CONFIG => Self::decode_get_config(arg)?,
            VHOST_BLK_VDPA_ADD
            | VHOST_BLK_VDPA_DEL
            | VHOST_BLK_VDPA_GET
            | VHOST_BLK_VDPA_GET_STATS => Self::Vdpa(VdpaCommand::decode(number, arg)?),
            // Its argument is read after the owner is looked at, as in C vhost.
            VHOST_SET_FORK_FROM_OWNER => Self::SetForkFromOwner,
            VHOST_GET_FORK_FROM_OWNER => Self::GetForkFromOwner,
            VHOST_SET_OWNER => Self::SetOwner,
            _ => return Ok(None),
        }))
    }

    fn decode_get_config(arg: UserArgument) -> Result<Self> {
        let asked = ConfigHeader::from_bytes(&arg.read()?);
        let count = u16::try_from(asked.queues).map_err(|_| EINVAL)?;
        let size = QueueSize::new(asked.queue_size).ok_or(EINVAL)?;
        if count == 0 || usize::from(count) > MAX_QUEUES || asked.reserved != 0 {
            return Err(EINVAL);
        }
        let queues = Queues {
            count,
            size: size.get(),
        };
        let disk = BlockFile::from_fd(asked.fd)?;
        Ok(Self::GetConfig(disk, queues, asked))
    }
}

/// A command that only the owner may give.
pub(super) enum OwnerCommand {
    ResetOwner,
    SetFeatures(Features),
    /// There are none to set.
    SetBackendFeatures,
    SetMemTable(KVec<MemoryRegion>),
    SetLogBase(HostAddr),
    SetMemoryPinned(bool),
    Attach(BlockFile),
    Detach,
    SetSerial([u8; ID_BYTES]),
    SetWriteback(bool),
    SetConfigCall(Option<Arc<Signal>>),
    GetStats,
    NewWorker,
    FreeWorker {
        worker: usize,
    },
    Vring {
        index: usize,
        command: VringCommand,
    },
}

/// A command about one queue.
pub(super) enum VringCommand {
    SetNum(QueueSize),
    /// The parts of the ring, and where its used ring is in guest memory, for the log.
    SetAddr(Parts<HostAddr>, Option<GuestAddr>),
    SetBase(u32),
    GetBase,
    SetKick(Option<Arc<EventFile>>),
    SetCall(Option<Arc<Signal>>),
    SetErr(Option<Arc<Signal>>),
    SetBusyloopTimeout(u32),
    GetBusyloopTimeout,
    AttachWorker(usize),
    GetWorker,
}

/// Returns whether a number is a command of the owner.
pub(super) fn is_owner_command(number: u32) -> bool {
    matches!(
        number,
        VHOST_RESET_OWNER
            | VHOST_SET_FEATURES
            | VHOST_SET_BACKEND_FEATURES
            | VHOST_SET_MEM_TABLE
            | VHOST_SET_LOG_BASE
            | VHOST_BLK_SET_MEMORY_PINNED
            | VHOST_BLK_SET_BACKEND
            | VHOST_BLK_SET_SERIAL
            | VHOST_BLK_SET_WRITEBACK
            | VHOST_BLK_SET_CONFIG_CALL
            | VHOST_BLK_GET_STATS
    ) || is_worker_command(number)
        || is_vring_command(number)
}

/// Returns whether a number is a command about workers. Without an owner those have an errno of
/// their own.
pub(super) fn is_worker_command(number: u32) -> bool {
    matches!(
        number,
        VHOST_NEW_WORKER | VHOST_FREE_WORKER | VHOST_ATTACH_VRING_WORKER | VHOST_GET_VRING_WORKER
    )
}

fn is_vring_command(number: u32) -> bool {
    matches!(
        number,
        VHOST_SET_VRING_NUM
            | VHOST_SET_VRING_ADDR
            | VHOST_SET_VRING_BASE
            | VHOST_GET_VRING_BASE
            | VHOST_SET_VRING_KICK
            | VHOST_SET_VRING_CALL
            | VHOST_SET_VRING_ERR
            | VHOST_SET_VRING_BUSYLOOP_TIMEOUT
            | VHOST_GET_VRING_BUSYLOOP_TIMEOUT
            | VHOST_ATTACH_VRING_WORKER
            | VHOST_GET_VRING_WORKER
    )
}

impl OwnerCommand {
    /// Decodes a command for a device of the current process.
    ///
    /// # Errors
    ///
    /// ENOTTY when there is no such command; EFAULT; those of the argument.
    pub(super) fn decode(number: u32, arg: UserArgument, device: &Device) -> Result<Self> {
        Ok(match number {
            VHOST_RESET_OWNER => Self::ResetOwner,
            VHOST_SET_FEATURES => Self::SetFeatures(read_features(arg, Features::VHOST)?),
            VHOST_SET_BACKEND_FEATURES => {
                read_features(arg, Features::default())?;
                Self::SetBackendFeatures
            }
            VHOST_SET_MEM_TABLE => Self::SetMemTable(arg.read_regions()?),
            VHOST_SET_LOG_BASE => Self::SetLogBase(HostAddr(u64::from_ne_bytes(arg.read()?))),
            VHOST_BLK_SET_MEMORY_PINNED => Self::SetMemoryPinned(read_switch(arg)?),
            VHOST_BLK_SET_BACKEND => Self::decode_backend(arg, device)?,
            VHOST_BLK_SET_SERIAL => Self::SetSerial(arg.read()?),
            VHOST_BLK_SET_WRITEBACK => Self::SetWriteback(read_switch(arg)?),
            VHOST_BLK_SET_CONFIG_CALL => {
                let fd = i32::from_ne_bytes(arg.read()?);
                Self::SetConfigCall(eventfd(fd, Signal::from_fd)?)
            }
            VHOST_BLK_GET_STATS => Self::GetStats,
            VHOST_NEW_WORKER => Self::NewWorker,
            VHOST_FREE_WORKER => Self::FreeWorker {
                worker: WorkerState::from_bytes(&arg.read()?).worker_id as usize,
            },
            _ if is_vring_command(number) => {
                // As in C vhost, a bad index comes before anything else about the argument.
                let index = u32::from_ne_bytes(arg.read()?) as usize;
                if index >= MAX_QUEUES {
                    return Err(enobufs());
                }
                Self::Vring {
                    index,
                    command: VringCommand::decode(number, arg, device)?,
                }
            }
            _ => return Err(ENOTTY),
        })
    }

    fn decode_backend(arg: UserArgument, device: &Device) -> Result<Self> {
        let file = VringFile::from_bytes(&arg.read()?);
        // The disk serves the device, not one queue; what was deployed passes 0.
        if file.index != 0 {
            return Err(enobufs());
        }
        if file.fd == FD_UNBIND {
            return Ok(Self::Detach);
        }
        device.check_detached()?;
        Ok(Self::Attach(BlockFile::from_fd(file.fd)?))
    }
}

impl VringCommand {
    fn decode(number: u32, arg: UserArgument, device: &Device) -> Result<Self> {
        Ok(match number {
            VHOST_SET_VRING_NUM => {
                device.check_detached()?;
                let state = VringState::from_bytes(&arg.read()?);
                Self::SetNum(QueueSize::new(state.num).ok_or(EINVAL)?)
            }
            VHOST_SET_VRING_ADDR => {
                let addr = VringAddr::from_bytes(&arg.read()?);
                if addr.flags & !(1 << VRING_F_LOG) != 0 {
                    return Err(eopnotsupp());
                }
                let is_logged = addr.flags != 0;
                let addresses = Parts {
                    desc: addr.desc_user_addr,
                    driver: addr.avail_user_addr,
                    device: addr.used_user_addr,
                };
                // Checked once more when a disk is attached: the format is not fixed before.
                if !device.format().aligned(addresses) {
                    return Err(EINVAL);
                }
                let log = is_logged.then_some(GuestAddr(addr.log_guest_addr));
                Self::SetAddr(addresses.map(HostAddr), log)
            }
            VHOST_SET_VRING_BASE => {
                device.check_detached()?;
                let state = VringState::from_bytes(&arg.read()?);
                if !device.format().takes_base(state.num) {
                    return Err(EINVAL);
                }
                Self::SetBase(state.num)
            }
            VHOST_GET_VRING_BASE => Self::GetBase,
            VHOST_SET_VRING_KICK => Self::SetKick(eventfd(read_fd(arg)?, EventFile::from_fd)?),
            VHOST_SET_VRING_CALL => Self::SetCall(eventfd(read_fd(arg)?, Signal::from_fd)?),
            VHOST_SET_VRING_ERR => Self::SetErr(eventfd(read_fd(arg)?, Signal::from_fd)?),
            VHOST_SET_VRING_BUSYLOOP_TIMEOUT => {
                Self::SetBusyloopTimeout(VringState::from_bytes(&arg.read()?).num)
            }
            VHOST_GET_VRING_BUSYLOOP_TIMEOUT => Self::GetBusyloopTimeout,
            VHOST_ATTACH_VRING_WORKER => {
                Self::AttachWorker(VringWorker::from_bytes(&arg.read()?).worker_id as usize)
            }
            VHOST_GET_VRING_WORKER => Self::GetWorker,
            _ => return Err(ENOTTY),
        })
    }
}

fn read_features(arg: UserArgument, offered: Features) -> Result<Features> {
    let features = Features(u64::from_ne_bytes(arg.read()?));
    if features.within(offered) {
        Ok(features)
    } else {
        Err(eopnotsupp())
    }
}

fn read_switch(arg: UserArgument) -> Result<bool> {
    match u32::from_ne_bytes(arg.read()?) {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

/// Reads the descriptor in an argument about a queue.
fn read_fd(arg: UserArgument) -> Result<i32> {
    Ok(VringFile::from_bytes(&arg.read()?).fd)
}

/// Opens the eventfd that a descriptor names, if it does not say to have none.
fn eventfd<T>(fd: i32, open: impl FnOnce(i32) -> Result<T>) -> Result<Option<Arc<T>>> {
    if fd == FD_UNBIND {
        return Ok(None);
    }
    Ok(Some(Arc::new(open(fd)?, GFP_KERNEL_ACCOUNT)?))
}

// SPDX-License-Identifier: GPL-2.0

//! The ioctls of `/dev/vhost-blk-rs`; docs/uapi.md describes them.
//!
//! Their meanings and errnos are those of C vhost, or stricter. The whole number of a command is
//! matched: what differs only in its size or direction is another command.

use crate::{
    device::{
        Device,
        Owned, //
    },
    memory::{
        read_argument,
        read_table,
        write_result, //
    },
    pool::MAX_QUEUES,
    sys::{
        block_file::BlockFile,
        errno::{
            enobufs,
            eopnotsupp, //
        },
        eventfd::{
            EventFile,
            EventSignal, //
        },
        lock::lock_killable, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::{
    addr::HostAddr,
    config::{
        Queues,
        CONFIG_BYTES, //
    },
    features::Features,
    queue::{
        Parts,
        QueueSize,
        MAX_QUEUE_SIZE, //
    },
    ring::Format,
    table::MAX_REGIONS,
    uapi::*, //
};

/// Version of the interface, told by VHOST_BLK_GET_INFO.
const VERSION: u32 = 3;

/// Executes a command.
///
/// # Errors
///
/// ENOTTY when there is no such command, EPERM when the current process is not the owner, EINTR
/// when it is being killed, and those of the command.
pub(crate) fn dispatch(device: &Device, command: u32, arg: usize) -> Result<isize> {
    match command {
        VHOST_GET_FEATURES => write_result(arg, &Features::SUPPORTED.0.to_ne_bytes())?,
        VHOST_GET_BACKEND_FEATURES => write_result(arg, &0u64.to_ne_bytes())?,
        VHOST_BLK_GET_INFO => write_result(arg, &info().to_bytes())?,
        VHOST_BLK_GET_CONFIG => get_config(arg)?,
        VHOST_SET_OWNER => set_owner(device)?,
        VHOST_RESET_OWNER => reset_owner(device)?,
        _ => {
            let command = OwnerCommand::from_number(command).ok_or(ENOTTY)?;
            let mut guard = lock_killable(&device.owned)?;
            let owned = (*guard)
                .as_mut()
                .filter(|owned| owned.is_current())
                .ok_or(EPERM)?;
            command.execute(owned, arg)?;
        }
    }
    Ok(0)
}

fn info() -> Info {
    Info {
        version: VERSION,
        max_queues: MAX_QUEUES as u32,
        max_queue_size: u32::from(MAX_QUEUE_SIZE),
        max_mem_regions: MAX_REGIONS as u32,
    }
}

fn set_owner(device: &Device) -> Result {
    let mut owned = lock_killable(&device.owned)?;
    if owned.is_some() {
        return Err(EBUSY);
    }
    *owned = Some(Owned::new()?);
    Ok(())
}

fn reset_owner(device: &Device) -> Result {
    let mut owned = lock_killable(&device.owned)?;
    match owned.as_ref() {
        Some(current) if current.is_current() => (),
        _ => return Err(EPERM),
    }
    // Under the lock: whoever comes next finds nothing of it.
    *owned = None;
    Ok(())
}

/// What only the owner may ask for.
enum OwnerCommand {
    SetFeatures,
    SetBackendFeatures,
    SetMemTable,
    SetBackend,
    SetSerial,
    SetWriteback,
    SetConfigCall,
    GetStats,
    Vring(VringCommand),
}

/// What is about one queue.
enum VringCommand {
    SetNum,
    SetAddr,
    SetBase,
    GetBase,
    SetKick,
    SetCall,
    SetErr,
}

impl OwnerCommand {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            VHOST_SET_FEATURES => Self::SetFeatures,
            VHOST_SET_BACKEND_FEATURES => Self::SetBackendFeatures,
            VHOST_SET_MEM_TABLE => Self::SetMemTable,
            VHOST_BLK_SET_BACKEND => Self::SetBackend,
            VHOST_BLK_SET_SERIAL => Self::SetSerial,
            VHOST_BLK_SET_WRITEBACK => Self::SetWriteback,
            VHOST_BLK_SET_CONFIG_CALL => Self::SetConfigCall,
            VHOST_BLK_GET_STATS => Self::GetStats,
            VHOST_SET_VRING_NUM => Self::Vring(VringCommand::SetNum),
            VHOST_SET_VRING_ADDR => Self::Vring(VringCommand::SetAddr),
            VHOST_SET_VRING_BASE => Self::Vring(VringCommand::SetBase),
            VHOST_GET_VRING_BASE => Self::Vring(VringCommand::GetBase),
            VHOST_SET_VRING_KICK => Self::Vring(VringCommand::SetKick),
            VHOST_SET_VRING_CALL => Self::Vring(VringCommand::SetCall),
            VHOST_SET_VRING_ERR => Self::Vring(VringCommand::SetErr),
            _ => return None,
        })
    }

    fn execute(self, owned: &mut Owned, arg: usize) -> Result {
        match self {
            Self::SetFeatures => {
                owned.features = read_features(owned, arg, Features::SUPPORTED)?;
                owned.writeback = None;
                Ok(())
            }
            // There are none to set.
            Self::SetBackendFeatures => read_features(owned, arg, Features::default()).map(|_| ()),
            Self::SetMemTable => set_mem_table(owned, arg),
            Self::SetBackend => set_backend(owned, arg),
            Self::SetSerial => {
                let serial = read_argument(arg)?;
                owned.for_each_served(|server| server.set_id(serial))?;
                owned.serial = Some(serial);
                Ok(())
            }
            Self::SetWriteback => set_writeback(owned, arg),
            Self::SetConfigCall => {
                let fd = i32::from_ne_bytes(read_argument(arg)?);
                owned.set_config_call(eventfd(fd, EventSignal::from_fd)?)
            }
            Self::GetStats => write_result(arg, &owned.stats()?.to_bytes()),
            Self::Vring(command) => {
                // As C vhost: a bad index comes before anything else about the argument.
                let index = u32::from_ne_bytes(read_argument(arg)?);
                owned.ring(index)?;
                command.execute(owned, index, arg)
            }
        }
    }
}

fn read_features(owned: &Owned, arg: usize, offered: Features) -> Result<Features> {
    let features = Features(u64::from_ne_bytes(read_argument(arg)?));
    if !features.within(offered) {
        return Err(eopnotsupp());
    }
    owned.check_detached()?;
    Ok(features)
}

fn set_writeback(owned: &mut Owned, arg: usize) -> Result {
    let writeback = match u32::from_ne_bytes(read_argument(arg)?) {
        0 => false,
        1 => true,
        _ => return Err(EINVAL),
    };
    owned.for_each_served(|server| server.set_durable(!writeback))?;
    owned.writeback = Some(writeback);
    Ok(())
}

/// Tells the configuration space for a disk, attached or not.
fn get_config(arg: usize) -> Result {
    let asked = ConfigHeader::from_bytes(&read_argument(arg)?);
    let count = u16::try_from(asked.queues).map_err(|_| EINVAL)?;
    let size = QueueSize::new(asked.queue_size).ok_or(EINVAL)?;
    if count == 0 || usize::from(count) > MAX_QUEUES {
        return Err(EINVAL);
    }
    let queues = Queues {
        count,
        size: size.get(),
    };
    let limits = BlockFile::from_fd(asked.fd)?.limits();
    let told = ConfigHeader {
        size: CONFIG_BYTES as u32,
        features: limits.features(&queues).0,
        ..asked
    };
    let at = arg.checked_add(ConfigHeader::BYTES).ok_or(EFAULT)?;
    write_result(at, &limits.config(&queues))?;
    write_result(arg, &told.to_bytes())
}

fn set_mem_table(owned: &mut Owned, arg: usize) -> Result {
    let table = Arc::new(read_table(arg)?, GFP_KERNEL_ACCOUNT)?;
    owned.for_each_served(|server| server.set_table(table.clone()))?;
    owned.table = Some(table);
    Ok(())
}

fn set_backend(owned: &mut Owned, arg: usize) -> Result {
    let file = VringFile::from_bytes(&read_argument(arg)?);
    // The disk serves the device, not one queue; what was deployed passes 0.
    if file.index != 0 {
        return Err(enobufs());
    }
    if file.fd == FD_UNBIND {
        return owned.detach();
    }
    owned.check_detached()?;
    owned.attach(BlockFile::from_fd(file.fd)?)
}

/// The eventfd that a descriptor names, if it does not say to have none.
fn eventfd<T>(fd: i32, open: impl FnOnce(i32) -> Result<T>) -> Result<Option<Arc<T>>> {
    if fd == FD_UNBIND {
        return Ok(None);
    }
    Ok(Some(Arc::new(open(fd)?, GFP_KERNEL_ACCOUNT)?))
}

/// The descriptor in an argument about a queue.
fn vring_fd(arg: usize) -> Result<i32> {
    Ok(VringFile::from_bytes(&read_argument(arg)?).fd)
}

impl VringCommand {
    fn execute(self, owned: &mut Owned, index: u32, arg: usize) -> Result {
        match self {
            Self::SetNum | Self::SetAddr | Self::SetBase => {
                owned.check_detached()?;
                self.set_geometry(owned, index, arg)
            }
            Self::GetBase => {
                let num = match owned.with_served(index, |server| server.base())? {
                    Some(base) => base,
                    None => {
                        let initial = Format::of(owned.features).initial_base();
                        owned.ring(index)?.base.unwrap_or(initial)
                    }
                };
                let state = VringState { index, num };
                write_result(arg, &state.to_bytes())
            }
            Self::SetKick => {
                let kick = eventfd(vring_fd(arg)?, EventFile::from_fd)?;
                if let Some(attached) = &mut owned.attached {
                    attached.set_kick(index as usize, kick.as_ref())?;
                }
                owned.ring(index)?.kick = kick;
                Ok(())
            }
            Self::SetCall => {
                let call = eventfd(vring_fd(arg)?, EventSignal::from_fd)?;
                if let Some(attached) = &owned.attached {
                    attached.set_call(index as usize, call.as_ref());
                }
                owned.ring(index)?.call = call;
                Ok(())
            }
            Self::SetErr => {
                let err = eventfd(vring_fd(arg)?, EventSignal::from_fd)?;
                owned.with_served(index, |server| server.set_err(err.clone()))?;
                owned.ring(index)?.err = err;
                Ok(())
            }
        }
    }

    fn set_geometry(self, owned: &mut Owned, index: u32, arg: usize) -> Result {
        match self {
            Self::SetNum => {
                let state = VringState::from_bytes(&read_argument(arg)?);
                owned.ring(index)?.size = Some(QueueSize::new(state.num).ok_or(EINVAL)?);
            }
            Self::SetAddr => {
                let addr = VringAddr::from_bytes(&read_argument(arg)?);
                // Also the log flag: logging is not offered.
                if addr.flags != 0 {
                    return Err(eopnotsupp());
                }
                let addresses = Parts {
                    desc: addr.desc_user_addr,
                    driver: addr.avail_user_addr,
                    device: addr.used_user_addr,
                };
                // Checked once more when a disk is attached: the format is not fixed before.
                if !Format::of(owned.features).aligned(addresses) {
                    return Err(EINVAL);
                }
                owned.ring(index)?.addresses = Some(addresses.map(HostAddr));
            }
            _ => {
                let state = VringState::from_bytes(&read_argument(arg)?);
                if !Format::of(owned.features).takes_base(state.num) {
                    return Err(EINVAL);
                }
                owned.ring(index)?.base = Some(state.num);
            }
        }
        Ok(())
    }
}

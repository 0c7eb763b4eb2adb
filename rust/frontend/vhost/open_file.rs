// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/vhost-blk-rs`: who owns it, and its ioctls.

use super::{
    command::{
        is_owner_command,
        is_worker_command,
        FileCommand,
        OwnerCommand, //
    },
    execute::{
        execute,
        Answer, //
    },
    user_argument::UserArgument,
};
use crate::{
    device::{
        disk::config_limits,
        Device, //
    },
    frontend::{
        default_threads,
        thread_kind, //
    },
    queue::ready::MAX_QUEUES,
    sys::{
        block_file::BlockFile,
        char_device::{
            CharDevice,
            OpenedFile, //
        },
        lock::lock_killable,
        worker_thread::ThreadKind, //
    },
};
use core::pin::Pin;
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};
use vblk_core::{
    config::Queues,
    features::Features,
    queue::MAX_QUEUE_SIZE,
    table::MAX_REGIONS,
    uapi::{
        ConfigHeader,
        Info,
        CONFIG_ROOM,
        FORK_OWNER_KTHREAD,
        FORK_OWNER_TASK, //
    },
};

/// Version of the interface, told by VHOST_BLK_GET_INFO.
const VERSION: u32 = 6;

/// An open file.
#[pin_data]
pub(crate) struct OpenFile {
    #[pin]
    state: Mutex<State>,
}

struct State {
    /// The kind of worker threads of the next owner.
    threads: ThreadKind,
    /// `None` while no process owns the device.
    device: Option<Device>,
}

impl CharDevice for OpenFile {
    const NAME: &'static CStr = c"vhost-blk-rs";

    fn open() -> Result<Pin<KBox<Self>>> {
        let threads = default_threads();
        KBox::pin_init(
            pin_init!(Self {
                state <- new_mutex!(State { threads, device: None }, "OpenFile::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(&self, file: OpenedFile<'_>, number: u32, arg: usize) -> Result<isize> {
        let arg = UserArgument(arg);
        if is_owner_command(number) {
            self.owner_command(number, arg)?;
        } else {
            let command = FileCommand::decode(number, arg)?.ok_or(ENOTTY)?;
            self.file_command(command, arg, file)?;
        }
        Ok(0)
    }
}

impl OpenFile {
    fn file_command(
        &self,
        command: FileCommand,
        arg: UserArgument,
        file: OpenedFile<'_>,
    ) -> Result {
        match command {
            FileCommand::GetFeatures => arg.write(&Features::VHOST.0.to_ne_bytes()),
            FileCommand::GetBackendFeatures => arg.write(&0u64.to_ne_bytes()),
            FileCommand::GetInfo => arg.write(&info().to_bytes()),
            FileCommand::GetConfig(disk, queues, asked) => get_config(&disk, &queues, asked, arg),
            FileCommand::Vdpa(command) => command.execute(arg, file),
            FileCommand::SetForkFromOwner => {
                let mut state = lock_killable(&self.state)?;
                if state.device.is_some() {
                    return Err(EBUSY);
                }
                let [value] = arg.read()?;
                state.threads = thread_kind(value).ok_or(EINVAL)?;
                Ok(())
            }
            FileCommand::GetForkFromOwner => {
                let value = match lock_killable(&self.state)?.threads {
                    ThreadKind::Kthread => FORK_OWNER_KTHREAD,
                    ThreadKind::VhostTask => FORK_OWNER_TASK,
                };
                arg.write(&[value])
            }
            FileCommand::SetOwner => {
                let mut state = lock_killable(&self.state)?;
                if state.device.is_some() {
                    return Err(EBUSY);
                }
                state.device = Some(Device::new(state.threads)?);
                Ok(())
            }
        }
    }

    /// Decodes and executes a command of the owner. EPERM comes before the argument is read.
    fn owner_command(&self, number: u32, arg: UserArgument) -> Result {
        let mut state = lock_killable(&self.state)?;
        let device = match &mut state.device {
            // As in C vhost.
            None if is_worker_command(number) => return Err(EINVAL),
            None => return Err(EPERM),
            Some(device) if !device.is_owner_current() => return Err(EPERM),
            Some(device) => device,
        };
        let command = OwnerCommand::decode(number, arg, device)?;
        match execute(command, device)? {
            Answer::None => Ok(()),
            Answer::Released => {
                // Under the lock: the next owner finds nothing of it.
                state.device = None;
                state.threads = default_threads();
                Ok(())
            }
            Answer::Stats(stats) => arg.write(&stats.to_bytes()),
            Answer::Vring(vring) => arg.write(&vring.to_bytes()),
            Answer::Worker(worker) => arg.write(&worker.to_bytes()),
            Answer::VringWorker(worker) => arg.write(&worker.to_bytes()),
        }
    }
}

fn info() -> Info {
    Info {
        version: VERSION,
        max_queues: MAX_QUEUES as u32,
        max_queue_size: u32::from(MAX_QUEUE_SIZE),
        max_mem_regions: MAX_REGIONS as u32,
        has_vdpa: cfg!(CONFIG_VHOST_BLK_RS_VDPA).into(),
        ..Info::default()
    }
}

/// Tells the configuration space for a disk, attached or not.
fn get_config(disk: &BlockFile, queues: &Queues, asked: ConfigHeader, arg: UserArgument) -> Result {
    let limits = config_limits(disk);
    let config = limits.config(queues);
    let told = ConfigHeader {
        size: config.len() as u32,
        features: limits.features(queues).0,
        ..asked
    };
    let mut room = [0; CONFIG_ROOM];
    for (to, from) in room.iter_mut().zip(config) {
        *to = from;
    }
    arg.skip(ConfigHeader::BYTES)?.write(&room)?;
    arg.write(&told.to_bytes())
}

// SPDX-License-Identifier: GPL-2.0

//! Executes the commands of an owner on its device.

use super::command::{
    OwnerCommand,
    VringCommand, //
};
use crate::{
    device::{
        disk::config_limits,
        Device, //
    },
    memory::DeviceMemory, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use vblk_core::uapi::{
    Stats,
    VringState,
    VringWorker,
    WorkerState, //
};

/// The result of a command, for its argument.
pub(super) enum Answer {
    None,
    /// The device has no owner any more.
    Released,
    Stats(Stats),
    Vring(VringState),
    Worker(WorkerState),
    VringWorker(VringWorker),
}

/// Executes a command.
///
/// # Errors
///
/// Those of the command; EINTR when the current task is being killed.
pub(super) fn execute(command: OwnerCommand, device: &mut Device) -> Result<Answer> {
    match command {
        OwnerCommand::ResetOwner => {
            device.detach()?;
            return Ok(Answer::Released);
        }
        OwnerCommand::SetFeatures(features) => device.set_features(features)?,
        OwnerCommand::SetBackendFeatures => device.check_detached()?,
        OwnerCommand::SetMemTable(regions) => {
            let memory = DeviceMemory::new(&regions, device.pins_memory())?;
            device.set_memory(memory, regions)?;
        }
        OwnerCommand::SetLogBase(base) => device.set_log_base(base)?,
        OwnerCommand::SetMemoryPinned(is_pinned) => device.set_memory_pinned(is_pinned)?,
        OwnerCommand::Attach(disk) => {
            let disk = Arc::new(disk, GFP_KERNEL_ACCOUNT)?;
            // It is asked for after this.
            let told = config_limits(&disk);
            device.attach(disk, told)?;
        }
        OwnerCommand::Detach => device.detach()?,
        OwnerCommand::SetSerial(serial) => device.set_serial(serial)?,
        OwnerCommand::SetWriteback(writeback) => device.set_writeback(writeback)?,
        OwnerCommand::SetConfigCall(call) => device.set_config_call(call)?,
        OwnerCommand::GetStats => return Ok(Answer::Stats(device.stats()?)),
        OwnerCommand::NewWorker => {
            let worker_id = device.workers().create()? as u32;
            return Ok(Answer::Worker(WorkerState { worker_id }));
        }
        OwnerCommand::FreeWorker { worker } => device.free_worker(worker)?,
        OwnerCommand::Vring { index, command } => return execute_vring(index, command, device),
    }
    Ok(Answer::None)
}

fn execute_vring(index: usize, command: VringCommand, device: &mut Device) -> Result<Answer> {
    match command {
        VringCommand::SetNum(size) => device.vring(index)?.size = Some(size),
        VringCommand::SetAddr(addresses, log) => device.set_vring_addr(index, addresses, log)?,
        VringCommand::SetBase(base) => device.vring(index)?.base = Some(base),
        VringCommand::GetBase => {
            return Ok(Answer::Vring(VringState {
                index: index as u32,
                num: device.base(index)?,
            }));
        }
        VringCommand::SetKick(kick) => device.set_kick(index, kick)?,
        VringCommand::SetCall(call) => device.set_call(index, call)?,
        VringCommand::SetErr(err) => device.set_err(index, err)?,
        VringCommand::SetBusyloopTimeout(us) => device.set_poll_limit(index, us)?,
        VringCommand::GetBusyloopTimeout => {
            return Ok(Answer::Vring(VringState {
                index: index as u32,
                num: device.vring(index)?.poll_us,
            }));
        }
        VringCommand::AttachWorker(worker) => device.set_vring_worker(index, worker)?,
        VringCommand::GetWorker => {
            return Ok(Answer::VringWorker(VringWorker {
                index: index as u32,
                worker_id: device.vring(index)?.worker as u32,
            }));
        }
    }
    Ok(Answer::None)
}

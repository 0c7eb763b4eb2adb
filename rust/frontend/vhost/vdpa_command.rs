// SPDX-License-Identifier: GPL-2.0

//! The commands about vDPA devices, which need no owner.

use super::user_argument::UserArgument;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use crate::frontend::vdpa;
use crate::sys::char_device::OpenedFile;
#[cfg(not(CONFIG_VHOST_BLK_RS_VDPA))]
use crate::sys::errno::eopnotsupp;
use kernel::prelude::*;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use kernel::str::CString;
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use vblk_core::uapi::{
    VdpaAdd,
    VdpaInfo,
    VdpaName,
    VdpaStats,
    VHOST_BLK_VDPA_ADD,
    VHOST_BLK_VDPA_DEL,
    VHOST_BLK_VDPA_GET,
    VHOST_BLK_VDPA_GET_STATS, //
};

/// A command about vDPA devices.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(super) enum VdpaCommand {
    Add(CString, vdpa::Params),
    Delete(VdpaName),
    Get(VdpaInfo),
    GetStats(VdpaStats),
}

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
impl VdpaCommand {
    /// Decodes a command.
    ///
    /// # Errors
    ///
    /// ENOTTY when there is no such command; EPERM when only an administrator may give it, before
    /// its argument is read; EFAULT; those of the argument.
    pub(super) fn decode(number: u32, arg: UserArgument) -> Result<Self> {
        Ok(match number {
            VHOST_BLK_VDPA_ADD => {
                vdpa::check_admin()?;
                let (name, params) = vdpa::decode_add(&VdpaAdd::from_bytes(&arg.read()?))?;
                Self::Add(name, params)
            }
            VHOST_BLK_VDPA_DEL => {
                vdpa::check_admin()?;
                Self::Delete(VdpaName::from_bytes(&arg.read()?))
            }
            VHOST_BLK_VDPA_GET => Self::Get(VdpaInfo::from_bytes(&arg.read()?)),
            VHOST_BLK_VDPA_GET_STATS => Self::GetStats(VdpaStats::from_bytes(&arg.read()?)),
            _ => return Err(ENOTTY),
        })
    }

    /// Executes the command, which came by `file`.
    ///
    /// # Errors
    ///
    /// Those of the command.
    pub(super) fn execute(self, arg: UserArgument, file: OpenedFile<'_>) -> Result {
        match self {
            Self::Add(name, params) => vdpa::add(&name, params, file),
            Self::Delete(name) => vdpa::delete(&name),
            Self::Get(asked) => arg.write(&vdpa::info(&asked)?.to_bytes()),
            Self::GetStats(asked) => arg.write(&vdpa::stats(&asked)?.to_bytes()),
        }
    }
}

/// There are none.
#[cfg(not(CONFIG_VHOST_BLK_RS_VDPA))]
pub(super) enum VdpaCommand {}

#[cfg(not(CONFIG_VHOST_BLK_RS_VDPA))]
impl VdpaCommand {
    /// Refuses a command.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP.
    pub(super) fn decode(_number: u32, _arg: UserArgument) -> Result<Self> {
        Err(eopnotsupp())
    }

    /// There is none to execute.
    pub(super) fn execute(self, _arg: UserArgument, _file: OpenedFile<'_>) -> Result {
        match self {}
    }
}

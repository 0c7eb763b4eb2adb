// SPDX-License-Identifier: GPL-2.0

//! What most tests need: `use crate::prelude::*`.

pub(crate) use crate::{
    context::{tests, Context, Outcome, Test, PATIENCE},
    disk::{Disk, Mode},
    sys::Errno,
    vm::{Answer, Setup, Vm, IOERR, OK},
};
pub(crate) use vblk_core::{
    addr::GuestAddr,
    testing::{BlockRequest, DriverMemory},
};

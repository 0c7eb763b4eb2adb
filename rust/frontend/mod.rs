// SPDX-License-Identifier: GPL-2.0

//! The interfaces that user space has.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) mod vdpa;
pub(crate) mod vhost;

use crate::sys::worker_thread::ThreadKind;
use vblk_core::uapi::{
    FORK_OWNER_KTHREAD,
    FORK_OWNER_TASK, //
};

/// Returns the kind of threads that a value of VHOST_SET_FORK_FROM_OWNER stands for.
fn thread_kind(value: u8) -> Option<ThreadKind> {
    match value {
        FORK_OWNER_KTHREAD => Some(ThreadKind::Kthread),
        FORK_OWNER_TASK => Some(ThreadKind::VhostTask),
        _ => None,
    }
}

/// Returns the kind of worker threads that the module's parameter asks for.
fn default_threads() -> ThreadKind {
    let parameter = *crate::module_parameters::fork_from_owner_default.value();
    thread_kind(parameter).unwrap_or(ThreadKind::VhostTask)
}

// SPDX-License-Identifier: GPL-2.0

//! Tells the owner when the configuration space of its disk has changed.
//!
//! The block layer tells user space of a new capacity, by a uevent, and has no such event for a
//! holder in the kernel. So a work item looks about once a second, as the block layer itself does
//! for disks whose media change. There is none unless changes are to be told.

use super::disk::config_limits;
use crate::sys::{
    block_file::BlockFile,
    periodic::{
        Periodic,
        Tick, //
    },
    signal::Signal, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};
use vblk_core::config::Limits;

/// Remembers what the owner was told of a disk that is attached.
#[pin_data]
pub(crate) struct ConfigNotifier {
    file: Arc<BlockFile>,
    #[pin]
    state: Mutex<State>,
}

struct State {
    call: Option<Arc<Signal>>,
    /// The limits that the owner knows: those when the eventfd was last signalled, if it was.
    told: Limits,
}

impl ConfigNotifier {
    /// Creates the notifier for an owner that was told of these limits.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(file: Arc<BlockFile>, told: Limits) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                file,
                state <- new_mutex!(State { call: None, told }, "ConfigNotifier::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Exchanges the eventfd. What changed while there was none is told at once. The result looks
    /// for changes as long as it lives.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    pub(crate) fn set_call(
        self: &Arc<Self>,
        call: Option<Arc<Signal>>,
    ) -> Result<Option<Pin<KBox<Periodic<Self>>>>> {
        let looking = match call {
            Some(_) => Some(Periodic::new(self.clone())?),
            None => None,
        };
        self.state.lock().call = call;
        self.look();
        Ok(looking)
    }

    /// Looks for a change, and signals it. May sleep.
    fn look(&self) {
        // Signals under the lock: nothing comes any more when the eventfd was exchanged. No other
        // path takes it.
        let state = &mut *self.state.lock();
        let Some(call) = &state.call else {
            return;
        };
        let now = config_limits(&self.file);
        if now != state.told {
            state.told = now;
            call.signal();
        }
    }
}

impl Tick for ConfigNotifier {
    fn tick(&self) {
        self.look();
    }
}

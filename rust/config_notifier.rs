// SPDX-License-Identifier: GPL-2.0

//! Tells the owner when the configuration space of its disk has changed.
//!
//! The block layer tells user space of a new capacity, by a uevent, and nobody in the kernel: the
//! operations of a holder know no such event, and who opened the disk for us is its holder anyway.
//! So somebody has to look. A look costs nothing while there are requests: a driver that reads or
//! writes sectors which went away is refused, and that is when the worker looks. For a disk that has
//! grown, and for a guest that is idle, a work item looks about once a second, as the block layer
//! itself does for disks whose media change. There is none unless somebody wants to be told.

use crate::sys::{
    block_file::BlockFile,
    eventfd::EventSignal,
    periodic::{
        Periodic,
        Tick, //
    },
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

/// Knows what the owner was told of a disk that is attached.
#[pin_data]
pub(crate) struct ConfigNotifier {
    file: Arc<BlockFile>,
    #[pin]
    state: Mutex<State>,
}

struct State {
    call: Option<Arc<EventSignal>>,
    /// When the disk was attached, or the eventfd was last signalled.
    told: Limits,
}

impl ConfigNotifier {
    /// Takes what the disk is now for known.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(file: Arc<BlockFile>) -> Result<Arc<Self>> {
        let told = file.limits();
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
        call: Option<Arc<EventSignal>>,
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
    pub(crate) fn look(&self) {
        // Signals under the lock: nothing comes any more when the eventfd was exchanged.
        let state = &mut *self.state.lock();
        let Some(call) = &state.call else {
            return;
        };
        let now = self.file.limits();
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

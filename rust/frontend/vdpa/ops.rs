// SPDX-License-Identifier: GPL-2.0

//! What the driver of a vDPA device does with it.

use super::{
    state::status,
    vdpa_blk::VdpaBlk, //
};
use crate::{
    frontend::default_threads,
    sys::{
        eventfd::Wake,
        mapped_pages::MappedPages,
        signal::Signal,
        vdpa_ops::{
            User,
            VdpaOps, //
        },
        worker_thread::ThreadKind, //
    },
};
use kernel::prelude::*;
use vblk_core::{
    addr::GuestAddr,
    config::{
        CONFIG_BYTES,
        CONFIG_WCE, //
    },
    features::{
        bit,
        Features, //
    },
    queue::{
        Parts,
        QueueSize, //
    },
    ring::Format,
};

impl VdpaOps for VdpaBlk {
    fn set_vq_address(&self, index: usize, parts: [GuestAddr; 3]) -> Result {
        let [desc, driver, device] = parts;
        let parts = Parts {
            desc,
            driver,
            device,
        };
        let state = &mut *self.state.lock();
        state.check_stopped(index)?;
        if !state.device.format().aligned(parts.map(|at| at.0)) {
            return Err(EINVAL);
        }
        state.vring(index)?.addresses = Some(parts);
        Ok(())
    }

    fn set_vq_num(&self, index: usize, num: u32) {
        let state = &mut *self.state.lock();
        if state.check_stopped(index).is_err() {
            return;
        }
        let size = QueueSize::new(num).filter(|size| size.get() <= self.queues.size);
        if let Ok(vring) = state.device.vring(index) {
            vring.size = size;
        }
    }

    fn kick_vq(&self, index: usize) {
        if let Some(Some(target)) = self.kicks.lock().get(index) {
            target.wake();
        }
    }

    fn set_vq_call(&self, index: usize, call: Result<Option<Signal>>) {
        let state = &mut *self.state.lock();
        let shared = state.share(call);
        let _ = state.device.set_call(index, shared);
    }

    fn set_vq_ready(&self, index: usize, is_ready: bool, user: User) {
        let state = &mut *self.state.lock();
        let is_running = state.is_running();
        let Ok(vring) = state.vring(index) else {
            return;
        };
        let was_ready = core::mem::replace(&mut vring.is_ready, is_ready);
        if was_ready == is_ready {
            return;
        }
        if !is_ready {
            self.stop(state, index);
            if let User::Host(_) = user {
                let _ = state.device.set_call(index, None);
            }
        } else if is_running && self.start(state, index).is_err() {
            self.fail(state);
        }
    }

    fn is_vq_ready(&self, index: usize) -> bool {
        self.state
            .lock()
            .vring(index)
            .is_ok_and(|vring| vring.is_ready)
    }

    fn set_vq_base(&self, index: usize, base: u32, user: User) -> Result {
        let state = &mut *self.state.lock();
        state.check_stopped(index)?;
        if !state.device.format().takes_base(base) {
            return Err(EINVAL);
        }
        state.device.vring(index)?.base = Some(base);
        match user {
            User::Vmm => Ok(()),
            User::Host(_) => self.prepare(state, index, user),
        }
    }

    fn vq_base(&self, index: usize) -> Result<u32> {
        self.state.lock().device.base(index)
    }

    fn max_vq_num(&self) -> u16 {
        self.queues.size
    }

    fn is_packed(&self) -> bool {
        self.state.lock().device.format() == Format::Packed
    }

    fn device_features(&self) -> u64 {
        self.offered.0
    }

    fn set_driver_features(&self, features: u64) -> Result {
        let features = Features(features);
        // What is mapped is the only memory that there is, and the layout is that of virtio 1.
        let are_enough = features.has(bit::VERSION_1) && features.has(bit::ACCESS_PLATFORM);
        if !features.within(self.offered) || !are_enough {
            return Err(EINVAL);
        }
        self.state.lock().device.set_features(features)
    }

    fn driver_features(&self) -> u64 {
        self.state.lock().device.features().0
    }

    fn set_config_call(&self, call: Result<Option<Signal>>) {
        let state = &mut *self.state.lock();
        let call = state.share(call);
        let mut result = state.device.set_config_call(call.clone());
        // A queue that stops changes the status, which is told in the same way.
        for index in 0..state.vrings.len() {
            result = result.and(state.device.set_err(index, call.clone()));
        }
        if result.is_err() {
            state.need_reset();
        }
    }

    fn status(&self) -> u8 {
        let state = &mut *self.state.lock();
        state.note_stopped();
        state.status
    }

    fn set_status(&self, status: u8, user: User) {
        let state = &mut *self.state.lock();
        let new = status & !state.status;
        if let (true, User::Host(_)) = (new & status::FAILED != 0, &user) {
            // The host's driver could not begin: it has let go of all that it set up. It may be tried
            // again, and Linux resets nothing before that.
            self.clear(state);
            return;
        }
        let is_thread = default_threads() == ThreadKind::VhostTask;
        if state.status == 0 && is_thread && matches!(user, User::Vmm) {
            // A VMM does this when it finds the device, most often in its main thread. DRIVER_OK comes
            // in that of a virtual CPU, whose CPUs, policy and cgroup are not for the worker. If there
            // can't be one now, that is told then.
            let _ = self.provide_worker(state, &user);
        }
        let mut accepted = status;
        if new & status::FEATURES_OK != 0 && !state.device.features().has(bit::VERSION_1) {
            accepted &= !status::FEATURES_OK;
        }
        state.status = accepted | state.status & status::NEEDS_RESET;
        if new & status::DRIVER_OK != 0 {
            let attached = self.provide_attachment(state, user);
            if attached.and_then(|()| self.run(state)).is_err() {
                self.fail(state);
            }
        }
    }

    fn reset(&self) {
        let state = &mut *self.state.lock();
        self.clear(state);
        self.dismiss_worker(state);
    }

    fn suspend(&self) -> Result {
        let state = &mut *self.state.lock();
        if state.device.is_attached() {
            self.forget_kicks(state);
            state.note_stopped();
            state.device.detach()?;
            state.is_suspended = true;
        }
        Ok(())
    }

    fn resume(&self) -> Result {
        let state = &mut *self.state.lock();
        if !state.is_suspended {
            return Ok(());
        }
        state.is_suspended = false;
        let attached = state.device.attach(self.disk.clone(), state.told);
        let result = attached.and_then(|()| self.run(state));
        result.inspect_err(|_| self.fail(state))
    }

    fn config_size(&self) -> usize {
        CONFIG_BYTES
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        let state = &mut *self.state.lock();
        state.look_at(&self.disk);
        let mut space = state.told.config(&self.queues);
        if let Some(wce) = space.get_mut(CONFIG_WCE) {
            *wce = state.device.writeback().unwrap_or(true).into();
        }
        for (to, from) in to.iter_mut().zip(space.iter().skip(offset)) {
            *to = *from;
        }
    }

    fn write_config(&self, offset: usize, from: &[u8]) {
        let state = &mut *self.state.lock();
        // A VMM may write the whole space for one field that its guest wrote.
        let wce = CONFIG_WCE
            .checked_sub(offset)
            .and_then(|place| from.get(place));
        if let (Some(value), true) = (wce, state.device.features().has(bit::BLK_CONFIG_WCE)) {
            let _ = state.device.set_writeback(*value != 0);
        }
    }

    fn config_generation(&self) -> u32 {
        let state = &mut *self.state.lock();
        state.look_at(&self.disk);
        state.generation
    }

    fn map(&self, start: GuestAddr, pages: MappedPages) -> Result {
        // Queues find it when they look for chains that came since.
        self.iotlb.map(start, pages)
    }

    fn unmap(&self, first: GuestAddr, last: GuestAddr) {
        let state = &mut *self.state.lock();
        for index in 0..state.vrings.len() {
            if state.device.has_ring_in(index, first, last) {
                self.stop(state, index);
                if let Ok(vring) = state.vring(index) {
                    vring.is_ready = false;
                }
                state.need_reset();
            }
        }
        let unmapped = self.iotlb.unmap(first, last);
        if state.device.release_unmapped(&unmapped).is_err() {
            self.fail(state);
        }
        self.dismiss_worker(state);
    }
}

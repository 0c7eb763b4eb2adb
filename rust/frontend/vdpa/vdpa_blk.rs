// SPDX-License-Identifier: GPL-2.0

//! A vDPA device: its status, and what its driver does with it.

use super::state::{
    status,
    State,
    Vring, //
};
use crate::{
    device::{
        attachment::KickTarget,
        disk::config_limits,
        vring::RingAddresses,
        worker::Workers,
        Device, //
    },
    frontend::default_threads,
    memory::{
        DeviceMemory,
        Iotlb,
        PinnedTable, //
    },
    sys::{
        block_file::BlockFile,
        errno::enobufs,
        eventfd::Wake,
        lock::IrqLock,
        mapped_pages::MappedPages,
        signal::Signal,
        vdpa_ops::{
            User,
            VdpaOps, //
        },
        worker_thread::ThreadKind, //
    },
};
use kernel::{
    c_str, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        Arc,
        Mutex, //
    },
};
use vblk_core::{
    addr::GuestAddr,
    config::{
        Queues,
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
    request::ID_BYTES,
    ring::Format,
    uapi::{
        Stats,
        VdpaInfo,
        VDPA_PACKED, //
    },
};

/// Setup of a [`VdpaBlk`].
pub(crate) struct Params {
    pub(super) disk: BlockFile,
    pub(super) queues: Queues,
    /// [`VDPA_PACKED`] and its kin.
    pub(super) flags: u32,
    /// The answer to GET_ID.
    pub(super) serial: [u8; ID_BYTES],
}

/// A virtio-blk device on the vDPA bus.
#[pin_data]
pub(super) struct VdpaBlk {
    disk: Arc<BlockFile>,
    queues: Queues,
    flags: u32,
    serial: [u8; ID_BYTES],
    /// The features on offer, as the disk was when the device was made.
    offered: Features,
    iotlb: Arc<Iotlb>,
    /// Taken before the locks of workers and of [`Iotlb`].
    #[pin]
    state: Mutex<State>,
    /// What kicks the queues that are served. Taken in any context, inside every other lock.
    #[pin]
    kicks: IrqLock<KVec<Option<KickTarget>>>,
}

impl VdpaBlk {
    /// Creates the device, without a driver.
    pub(super) fn new(params: Params) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let Params {
                disk,
                queues,
                flags,
                serial,
            } = params;
            let count = usize::from(queues.count);
            let told = config_limits(&disk);
            let mut offered = told.features(&queues).0 | Features::TRANSPORT.0;
            if flags & VDPA_PACKED != 0 {
                offered |= 1 << bit::RING_PACKED;
            }
            let mut kicks = KVec::with_capacity(count, GFP_KERNEL)?;
            for _ in 0..count {
                kicks.push(None, GFP_KERNEL)?;
            }
            let mut device = Device::without_owner();
            device.set_serial(serial)?;
            let state = State {
                device,
                status: 0,
                vrings: KVec::from_elem(Vring::default(), count, GFP_KERNEL)?,
                is_suspended: false,
                told,
                generation: 0,
            };
            let disk = Arc::new(disk, GFP_KERNEL)?;
            let iotlb = Iotlb::new()?;
            Ok(try_pin_init!(Self {
                disk,
                queues,
                flags,
                serial,
                offered: Features(offered),
                iotlb,
                state <- new_mutex!(state, "VdpaBlk::state"),
                kicks <- IrqLock::new(kicks, c_str!("VdpaBlk::kicks"), static_lock_class!()),
            }? Error))
        })
    }

    /// Returns what the device is, but for its name and place.
    pub(super) fn info(&self) -> VdpaInfo {
        let (major, minor) = self.disk.numbers();
        VdpaInfo {
            flags: self.flags,
            major,
            minor,
            queues: self.queues.count.into(),
            queue_size: self.queues.size.into(),
            status: self.state.lock().status.into(),
            read_only: self.disk.geometry().read_only.into(),
            serial: self.serial,
            ..VdpaInfo::default()
        }
    }

    /// Returns what was counted on a queue since the device was made.
    ///
    /// # Errors
    ///
    /// ENOBUFS when there is no such queue; ENOMEM; EINTR when the current task is being killed.
    pub(super) fn stats(&self, index: usize) -> Result<Stats> {
        if index >= self.queues.count.into() {
            return Err(enobufs());
        }
        self.state.lock().device.queue_stats(index)
    }

    /// Exchanges what kicks a queue.
    fn set_kick(&self, index: usize, target: Option<KickTarget>) {
        let old = match self.kicks.lock().get_mut(index) {
            Some(slot) => core::mem::replace(slot, target),
            None => target,
        };
        // Outside the lock: it may be the last reference to a queue.
        drop(old);
    }

    /// Has the device a worker, of the current process if a VMM uses it.
    ///
    /// # Errors
    ///
    /// EBUSY while a disk is attached; those of [`Workers::new`].
    fn provide_worker(&self, state: &mut State, user: &User) -> Result {
        let workers = match (user, default_threads()) {
            (User::Host(_), _) => Workers::new(ThreadKind::Kthread, None)?,
            (User::Vmm, ThreadKind::VhostTask) => {
                if state.device.workers().are_of_current_process() {
                    return Ok(());
                }
                Workers::new(ThreadKind::VhostTask, None)?
            }
            (User::Vmm, ThreadKind::Kthread) => {
                let mm = kernel::current!().mm().map(Into::into);
                Workers::new(ThreadKind::Kthread, mm)?
            }
        };
        state.device.set_workers(workers)
    }

    /// Lets a worker go when the VMM that it waits for seems to have gone.
    fn dismiss_worker(&self, state: &mut State) {
        if state.status == 0 && self.iotlb.is_empty() {
            let _ = state.device.set_workers(Workers::none());
        }
    }

    /// Begins to serve, when the driver is ready.
    ///
    /// # Errors
    ///
    /// EINVAL when no features were negotiated; those of threads, of memory and of the disk.
    fn begin(&self, state: &mut State, user: User) -> Result {
        if state.status & status::FEATURES_OK == 0 {
            return Err(EINVAL);
        }
        self.provide_worker(state, &user)?;
        let memory = match user {
            User::Vmm => DeviceMemory::Mapped(self.iotlb.clone(), self.iotlb.table()?),
            User::Host(host) => {
                DeviceMemory::Pinned(Arc::new(PinnedTable::of_host(&host)?, GFP_KERNEL)?)
            }
        };
        state.device.begin(memory)?;
        self.run(state)
    }

    /// Attaches the disk and serves the queues that are ready.
    fn run(&self, state: &mut State) -> Result {
        state.device.attach(self.disk.clone())?;
        for index in 0..state.vrings.len() {
            if state.vring(index)?.is_ready {
                self.start(state, index)?;
            }
        }
        Ok(())
    }

    fn start(&self, state: &mut State, index: usize) -> Result {
        let addresses = state.vring(index)?.addresses.ok_or(EINVAL)?;
        let target = state
            .device
            .start_queue(index, RingAddresses::Guest(addresses))?;
        self.set_kick(index, Some(target));
        // A kick may have come while there was nothing to kick yet.
        self.kick_vq(index);
        Ok(())
    }

    fn stop(&self, state: &mut State, index: usize) {
        self.set_kick(index, None);
        state.device.stop_queue(index);
    }

    fn forget_kicks(&self) {
        for index in 0..usize::from(self.queues.count) {
            self.set_kick(index, None);
        }
    }

    /// Stops all: the driver must reset the device.
    fn fail(&self, state: &mut State) {
        self.forget_kicks();
        state.device.halt();
        state.need_reset();
    }
}

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

    fn set_vq_call(&self, index: usize, call: Option<Signal>) {
        let state = &mut *self.state.lock();
        let shared = state.share(call);
        let _ = state.device.set_call(index, shared);
    }

    fn set_vq_ready(&self, index: usize, is_ready: bool) {
        let state = &mut *self.state.lock();
        let is_attached = state.device.is_attached();
        let Ok(vring) = state.vring(index) else {
            return;
        };
        let was_ready = core::mem::replace(&mut vring.is_ready, is_ready);
        if !is_attached || was_ready == is_ready {
            return;
        }
        if !is_ready {
            self.stop(state, index);
        } else if self.start(state, index).is_err() {
            self.fail(state);
        }
    }

    fn is_vq_ready(&self, index: usize) -> bool {
        self.state
            .lock()
            .vring(index)
            .is_ok_and(|vring| vring.is_ready)
    }

    fn set_vq_base(&self, index: usize, base: u32) -> Result {
        let state = &mut *self.state.lock();
        state.check_stopped(index)?;
        if !state.device.format().takes_base(base) {
            return Err(EINVAL);
        }
        state.device.vring(index)?.base = Some(base);
        Ok(())
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

    fn set_config_call(&self, call: Option<Signal>) {
        let state = &mut *self.state.lock();
        let call = state.share(call);
        let _ = state.device.set_config_call(call.clone());
        // A queue that stops changes the status, which is told in the same way.
        for index in 0..state.vrings.len() {
            let _ = state.device.set_err(index, call.clone());
        }
    }

    fn status(&self) -> u8 {
        let state = &mut *self.state.lock();
        if state
            .device
            .stats()
            .is_ok_and(|stats| stats.stopped_queues > 0)
        {
            state.status |= status::NEEDS_RESET;
        }
        state.status
    }

    fn set_status(&self, status: u8, user: User) {
        let state = &mut *self.state.lock();
        let new = status & !state.status;
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
        if new & status::DRIVER_OK != 0 && self.begin(state, user).is_err() {
            self.fail(state);
        }
    }

    fn reset(&self) {
        let state = &mut *self.state.lock();
        self.forget_kicks();
        state.device.reset();
        state.status = 0;
        state.is_suspended = false;
        for vring in &mut state.vrings {
            *vring = Vring::default();
        }
        self.dismiss_worker(state);
    }

    fn suspend(&self) -> Result {
        let state = &mut *self.state.lock();
        if state.device.is_attached() {
            self.forget_kicks();
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
        self.run(state).inspect_err(|_| self.fail(state))
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

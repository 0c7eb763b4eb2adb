// SPDX-License-Identifier: GPL-2.0

//! A vDPA device: how it is made, and begins and stops to serve.

use super::state::{
    status,
    State,
    Vring, //
};
use crate::{
    device::{
        attachment::KickTarget,
        disk::config_limits,
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
        lock::{
            lock_killable,
            IrqLock, //
        },
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
    config::Queues,
    features::{
        bit,
        Features, //
    },
    request::ID_BYTES,
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
    /// Microseconds for which workers look at an empty ring.
    pub(super) poll_us: u32,
}

/// A virtio-blk device on the vDPA bus.
#[pin_data]
pub(super) struct VdpaBlk {
    pub(super) disk: Arc<BlockFile>,
    pub(super) queues: Queues,
    flags: u32,
    serial: [u8; ID_BYTES],
    poll_us: u32,
    /// The features on offer, as the disk was when the device was made.
    pub(super) offered: Features,
    pub(super) iotlb: Arc<Iotlb>,
    /// Taken before the locks of workers and of [`Iotlb`].
    #[pin]
    pub(super) state: Mutex<State>,
    /// What kicks the queues that are served. Taken in any context, inside every other lock.
    #[pin]
    pub(super) kicks: IrqLock<KVec<Option<KickTarget>>>,
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
                poll_us,
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
            let mut device = Device::without_owner(count)?;
            device.set_serial(serial)?;
            for index in 0..count {
                device.set_poll_limit(index, poll_us)?;
            }
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
                poll_us,
                offered: Features(offered),
                iotlb,
                state <- new_mutex!(state, "VdpaBlk::state"),
                kicks <- IrqLock::new(kicks, c_str!("VdpaBlk::kicks"), static_lock_class!()),
            }? Error))
        })
    }

    /// Returns what the device is, but for its name and place.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(super) fn info(&self) -> Result<VdpaInfo> {
        let (major, minor) = self.disk.numbers();
        Ok(VdpaInfo {
            flags: self.flags,
            major,
            minor,
            queues: self.queues.count.into(),
            queue_size: self.queues.size.into(),
            status: lock_killable(&self.state)?.status.into(),
            read_only: self.disk.geometry().read_only.into(),
            serial: self.serial,
            poll_us: self.poll_us,
            ..VdpaInfo::default()
        })
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
        lock_killable(&self.state)?.device.queue_stats(index)
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
    pub(super) fn provide_worker(&self, state: &mut State, user: &User) -> Result {
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
    pub(super) fn dismiss_worker(&self, state: &mut State) {
        if state.status == 0 && self.iotlb.is_empty() {
            let _ = state.device.set_workers(Workers::none());
        }
    }

    /// Attaches the disk, which serves no queue yet.
    ///
    /// # Errors
    ///
    /// EINVAL when no features were negotiated; those of threads, of memory and of the disk.
    fn attach(&self, state: &mut State, user: User) -> Result {
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
        state.device.attach(self.disk.clone(), state.told)
    }

    /// Attaches the disk, unless it is.
    ///
    /// # Errors
    ///
    /// Those of [`Self::attach`].
    pub(super) fn provide_attachment(&self, state: &mut State, user: User) -> Result {
        if state.device.is_attached() {
            return Ok(());
        }
        self.attach(state, user)
    }

    /// Has all that it takes to serve a queue of the host's driver. After DRIVER_OK that driver is not
    /// told of a failure (virtio_blk knows no NEEDS_RESET), and would wait for its first answer for ever.
    ///
    /// # Errors
    ///
    /// ENOMEM when there was none for the driver's callback; those of [`Self::attach`] and of
    /// [`Device::start_queue`].
    pub(super) fn prepare(&self, state: &mut State, index: usize, user: User) -> Result {
        if state.status & status::NEEDS_RESET != 0 {
            return Err(ENOMEM);
        }
        let target = self
            .provide_attachment(state, user)
            .and_then(|()| state.serve(index))
            .inspect_err(|_| self.halt(state))?;
        state.vring(index)?.prepared = Some(target);
        Ok(())
    }

    /// Serves the queues that are ready.
    pub(super) fn run(&self, state: &mut State) -> Result {
        for index in 0..state.vrings.len() {
            if state.vring(index)?.is_ready {
                self.start(state, index)?;
            }
        }
        Ok(())
    }

    pub(super) fn start(&self, state: &mut State, index: usize) -> Result {
        let target = match state.vring(index)?.prepared.take() {
            Some(target) => target,
            None => state.serve(index)?,
        };
        self.set_kick(index, Some(target));
        // Requests may have come before, and a kick while there was nothing to kick.
        self.kick_vq(index);
        Ok(())
    }

    pub(super) fn stop(&self, state: &mut State, index: usize) {
        self.forget_kick(state, index);
        state.note_stopped();
        state.device.stop_queue(index);
    }

    fn forget_kick(&self, state: &mut State, index: usize) {
        self.set_kick(index, None);
        if let Ok(vring) = state.vring(index) {
            vring.prepared = None;
        }
    }

    pub(super) fn forget_kicks(&self, state: &mut State) {
        for index in 0..state.vrings.len() {
            self.forget_kick(state, index);
        }
    }

    /// Stops all, and forgets all that a driver set up.
    pub(super) fn clear(&self, state: &mut State) {
        self.forget_kicks(state);
        state.device.reset();
        state.status = 0;
        state.is_suspended = false;
        for vring in &mut state.vrings {
            *vring = Vring::default();
        }
    }

    /// Stops all at once.
    fn halt(&self, state: &mut State) {
        self.forget_kicks(state);
        state.device.halt();
    }

    /// Stops all: the driver must reset the device.
    pub(super) fn fail(&self, state: &mut State) {
        self.halt(state);
        state.need_reset();
    }
}

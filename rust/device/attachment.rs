// SPDX-License-Identifier: GPL-2.0

//! An attached disk, and the queues that are served meanwhile.

use super::{
    config_notifier::ConfigNotifier,
    log::Log,
    vring::{
        RingAddresses,
        VringConfig, //
    },
    worker::Workers, //
};
use crate::{
    memory::DeviceMemory,
    queue::{
        context::Rules,
        used_side::{
            Ring,
            UsedSide, //
        },
        virtqueue::{
            Serve,
            VirtqueueParams, //
        },
    },
    sys::{
        block_file::BlockFile,
        eventfd::{
            EventFile,
            EventWatch,
            Wake, //
        },
        mapped_range::{
            Access,
            MappedRange, //
        },
        periodic::Periodic,
        signal::Signal,
        task::wait_for_completions, //
    },
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use vblk_core::{
    config::Limits,
    features::{
        bit,
        Features, //
    },
    queue::{
        Part,
        QueueSize, //
    },
    ring::Format,
    uapi::Stats, //
};

/// The properties that the queues of a device have in common.
pub(crate) struct AttachParams<'a> {
    pub(crate) workers: &'a Workers,
    pub(crate) owner: Option<&'a ARef<MmWithUser>>,
    pub(crate) features: Features,
    pub(crate) memory: &'a DeviceMemory,
    pub(crate) rules: Rules,
    /// Where what is written to guest memory is logged, if it is.
    pub(crate) log: Option<&'a Log>,
    /// Signalled when the configuration space has changed.
    pub(crate) config_call: Option<&'a Arc<Signal>>,
}

/// Kicks a queue, when its kick eventfd is signalled or when told to.
#[derive(Clone)]
pub(crate) struct KickTarget(Arc<UsedSide>);

impl Wake for KickTarget {
    #[inline]
    fn wake(&self) {
        self.0.kick();
    }
}

/// A queue that is served.
struct ServedQueue {
    index: usize,
    used: Arc<UsedSide>,
    watch: Option<Pin<KBox<EventWatch<KickTarget>>>>,
    /// The worker's half, once the worker has let go of it.
    stopped: Option<KBox<dyn Serve>>,
}

impl ServedQueue {
    fn watch(&self, kick: &Arc<EventFile>) -> Result<Pin<KBox<EventWatch<KickTarget>>>> {
        EventWatch::new(kick.clone(), KickTarget(self.used.clone()))
    }
}

/// A disk that is attached, from [`Self::new`] to [`Self::end`].
pub(crate) struct Attachment {
    disk: Arc<BlockFile>,
    notifier: Arc<ConfigNotifier>,
    /// There while changes of the configuration space are to be told.
    looking: Option<Pin<KBox<Periodic<ConfigNotifier>>>>,
    queues: KVec<ServedQueue>,
}

impl Attachment {
    /// Begins to serve all queues that were configured, on a disk whose content the host's page cache
    /// does not hold any more, and of which the owner was told these limits.
    ///
    /// # Errors
    ///
    /// EIO when the page cache can't be written back; those of [`Self::start_queue`]. Nothing is
    /// served then.
    pub(crate) fn new(
        params: &AttachParams<'_>,
        disk: Arc<BlockFile>,
        told: Limits,
        vrings: &mut [VringConfig],
    ) -> Result<Self> {
        disk.drop_cache()?;
        let notifier = ConfigNotifier::new(disk.clone(), told)?;
        let mut attachment = Self {
            disk,
            looking: notifier.set_call(params.config_call.cloned())?,
            notifier,
            queues: KVec::new(),
        };
        match attachment.start(params, vrings) {
            Ok(()) => Ok(attachment),
            Err(error) => {
                if error == EINTR {
                    // What a killed process still waits for must not wait for the process.
                    params.workers.give_up();
                }
                params
                    .workers
                    .take_queues_patiently(|index, queue| attachment.stopped(index, queue));
                // The rings may be tried again, from where they are now.
                attachment.stop(true, vrings);
                Err(error)
            }
        }
    }

    fn start(&mut self, params: &AttachParams<'_>, vrings: &[VringConfig]) -> Result {
        for (index, vring) in vrings.iter().enumerate() {
            if vring.is_configured() {
                self.start_queue(params, index, vring)?;
            }
        }
        for queue in &self.queues {
            // Requests may have come before anyone listened.
            queue.used.wake_worker();
        }
        Ok(())
    }

    /// Begins to serve a queue, as soon as its worker is woken.
    ///
    /// # Errors
    ///
    /// EINVAL when it is not configured, or its base is not in its ring; EFAULT when the ring is not
    /// accessible; ENOMEM; EINTR when the current task is being killed.
    fn start_queue(
        &mut self,
        params: &AttachParams<'_>,
        index: usize,
        vring: &VringConfig,
    ) -> Result {
        let size = vring.size.ok_or(EINVAL)?;
        let addresses = vring.addresses.ok_or(EINVAL)?;
        let worker = params.workers.get(vring.worker)?;
        let format = Format::of(params.features);
        let ring = map_ring(params, format, size, addresses)?;
        let base = vring.base.unwrap_or(format.initial_base());
        let base = ring.base(base).ok_or(EINVAL)?;
        let event_idx = params.features.has(bit::RING_EVENT_IDX);
        let used = UsedSide::new(
            worker.waker(index)?,
            ring.clone(),
            base,
            event_idx,
            vring.call.clone(),
        )?;
        let mut queue = VirtqueueParams {
            ring,
            base,
            event_idx,
            used: used.clone(),
            disk: self.disk.clone(),
            memory: params.memory,
            rules: params.rules,
            err: vring.err.clone(),
            poll_us: vring.poll_us,
        }
        .build()?;
        if let Some(log) = params.log {
            queue.set_log(Some(log.of_ring(vring, format)));
        }
        let mut served = ServedQueue {
            index,
            used,
            watch: None,
            stopped: None,
        };
        if let Some(kick) = &vring.kick {
            served.watch = Some(served.watch(kick)?);
        }
        self.queues.push(served, GFP_KERNEL_ACCOUNT)?;
        worker.insert(index, queue)
    }

    /// Begins to serve one more queue, as soon as it is kicked by what is returned.
    ///
    /// # Errors
    ///
    /// Those of [`Self::start_queue`]; the queue is not served then.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(super) fn add_queue(
        &mut self,
        params: &AttachParams<'_>,
        index: usize,
        vring: &VringConfig,
    ) -> Result<KickTarget> {
        let before = self.queues.len();
        if let Err(error) = self.start_queue(params, index, vring) {
            self.queues.truncate(before);
            return Err(error);
        }
        let queue = self.queues.last().ok_or(EINVAL)?;
        Ok(KickTarget(queue.used.clone()))
    }

    /// Ends the service of one queue, whose worker has let go of `half`. `vring` learns where it ended
    /// and what was counted.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(super) fn remove_queue(
        &mut self,
        index: usize,
        half: KBox<dyn Serve>,
        vring: &mut VringConfig,
    ) {
        let place = self.queues.iter().position(|it| it.index == index);
        let queue = place.and_then(|place| self.queues.remove(place).ok());
        end_queue(half, true, vring);
        wait_for_completions();
        drop(queue);
    }

    /// Takes a queue that its worker does not serve any more.
    pub(crate) fn stopped(&mut self, index: usize, queue: KBox<dyn Serve>) {
        if let Some(served) = self.queues.iter_mut().find(|it| it.index == index) {
            served.stopped = Some(queue);
        }
    }

    /// Ends the service of all queues, which their workers have let go of, when all I/O has ended.
    /// `vrings` learn where it ended and what was counted, and forget the addresses of the rings.
    pub(crate) fn end(self, is_owner: bool, vrings: &mut [VringConfig]) {
        self.stop(is_owner, vrings);
        for vring in vrings {
            vring.addresses = None;
            vring.log = None;
        }
    }

    fn stop(mut self, is_owner: bool, vrings: &mut [VringConfig]) {
        for queue in &mut self.queues {
            queue.watch = None;
        }
        for queue in &mut self.queues {
            if let (Some(half), Some(vring)) = (queue.stopped.take(), vrings.get_mut(queue.index)) {
                end_queue(half, is_owner, vring);
            }
        }
        // The last completions may still be on their way out of our code.
        wait_for_completions();
        drop(self.queues);
        // What buffered readers saw meanwhile may be older than what the guest wrote.
        let _ = self.disk.drop_cache();
    }

    /// Sleeps until no request uses guest memory that was replaced.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn wait_for_earlier(&self) -> Result {
        self.queues
            .iter()
            .try_for_each(|queue| queue.used.wait_for_earlier())
    }

    /// Exchanges the kick eventfd of a queue.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn set_kick(&mut self, index: usize, kick: Option<&Arc<EventFile>>) -> Result {
        if let Some(queue) = self.queues.iter_mut().find(|it| it.index == index) {
            queue.watch = match kick {
                Some(kick) => Some(queue.watch(kick)?),
                None => None,
            };
        }
        Ok(())
    }

    /// Exchanges the call eventfd of a queue. The old one is not signalled any more afterwards.
    pub(crate) fn set_call(&self, index: usize, call: Option<Arc<Signal>>) {
        if let Some(queue) = self.queues.iter().find(|it| it.index == index) {
            queue.used.set_call(call);
        }
    }

    /// Exchanges the eventfd that tells of a changed configuration space.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    pub(crate) fn set_config_call(&mut self, call: Option<Arc<Signal>>) -> Result {
        self.looking = self.notifier.set_call(call)?;
        Ok(())
    }
}

/// Ends all that was begun on a queue that its worker has let go of. `vring` learns where it ended and
/// what was counted.
fn end_queue(mut half: KBox<dyn Serve>, is_owner: bool, vring: &mut VringConfig) {
    half.drain(is_owner);
    let mut counted = Stats::default();
    half.add_stats(&mut counted);
    // It is stopped no more: the next attachment begins anew.
    counted.stopped_queues = 0;
    vring.past += &counted;
    vring.base = Some(half.base());
}

/// Maps a ring.
///
/// # Errors
///
/// EINVAL when a part is not aligned; EFAULT when it is not accessible; ENOMEM.
fn map_ring(
    params: &AttachParams<'_>,
    format: Format,
    size: QueueSize,
    addresses: RingAddresses,
) -> Result<Arc<Ring>> {
    let access = |part: &Part| {
        if part.written {
            Access::Write
        } else {
            Access::Read
        }
    };
    let parts = format.parts(size);
    let parts = match addresses {
        RingAddresses::Owner(addresses) => {
            let owner = params.owner.ok_or(EFAULT)?;
            parts.zip(addresses).try_map(|(part, at)| {
                let align = part.align as usize;
                MappedRange::new(owner.clone(), at, part.bytes, align, access(&part))
            })?
        }
        #[cfg(not(CONFIG_VHOST_BLK_RS_VDPA))]
        RingAddresses::Guest(_) => return Err(EFAULT),
        #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
        RingAddresses::Guest(addresses) => {
            let table = params.memory.pinned_table().ok_or(EFAULT)?;
            parts.zip(addresses).try_map(|(part, at)| {
                table.map(at, part.bytes, part.align as usize, access(&part))
            })?
        }
    };
    Ok(Arc::new(
        Ring::new(format, size, parts),
        GFP_KERNEL_ACCOUNT,
    )?)
}

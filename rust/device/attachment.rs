// SPDX-License-Identifier: GPL-2.0

//! An attached disk, and the queues that are served meanwhile.

use super::{
    config_notifier::ConfigNotifier,
    vring::VringConfig,
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
            EventSignal,
            EventWatch,
            Wake, //
        },
        mapped_range::{
            Access,
            MappedRange, //
        },
        periodic::Periodic,
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
    addr::HostAddr,
    features::{
        bit,
        Features, //
    },
    queue::{
        Part,
        Parts,
        QueueSize, //
    },
    ring::{
        Base,
        Format, //
    },
    uapi::Stats, //
};

/// The properties that the queues of a device have in common.
pub(crate) struct AttachParams<'a> {
    pub(crate) workers: &'a Workers,
    pub(crate) mm: &'a ARef<MmWithUser>,
    pub(crate) features: Features,
    pub(crate) memory: &'a DeviceMemory,
    pub(crate) rules: Rules,
    /// Signalled when the configuration space has changed.
    pub(crate) config_call: Option<&'a Arc<EventSignal>>,
}

/// Kicks a queue when its kick eventfd is signalled.
struct KickTarget(Arc<UsedSide>);

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
    /// does not hold any more.
    ///
    /// # Errors
    ///
    /// EINVAL when no queue is configured, or a base is not in its ring; EFAULT when a ring is not
    /// accessible; EIO when the page cache can't be written back; ENOMEM; EINTR when the current task
    /// is being killed. Nothing is served then.
    pub(crate) fn new(
        params: &AttachParams<'_>,
        disk: BlockFile,
        vrings: &mut [VringConfig],
        stats: &mut Stats,
    ) -> Result<Self> {
        disk.drop_cache()?;
        let disk = Arc::new(disk, GFP_KERNEL_ACCOUNT)?;
        let notifier = ConfigNotifier::new(disk.clone())?;
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
                attachment.stop(true, stats, |index, base| set_base(vrings, index, base));
                Err(error)
            }
        }
    }

    fn start(&mut self, params: &AttachParams<'_>, vrings: &[VringConfig]) -> Result {
        for (index, vring) in vrings.iter().enumerate() {
            if let (Some(size), Some(addresses)) = (vring.size, vring.addresses) {
                self.start_queue(params, index, vring, size, addresses)?;
            }
        }
        if self.queues.is_empty() {
            return Err(EINVAL);
        }
        for queue in &self.queues {
            // Requests may have come before anyone listened.
            queue.used.wake_worker();
        }
        Ok(())
    }

    fn start_queue(
        &mut self,
        params: &AttachParams<'_>,
        index: usize,
        vring: &VringConfig,
        size: QueueSize,
        addresses: Parts<HostAddr>,
    ) -> Result {
        let worker = params.workers.get(vring.worker)?;
        let format = Format::of(params.features);
        let base = vring.base.unwrap_or(format.initial_base());
        let base = Base::decode(format, size, base).ok_or(EINVAL)?;
        let ring = map_ring(params, format, size, addresses)?;
        let event_idx = params.features.has(bit::RING_EVENT_IDX);
        let used = UsedSide::new(
            worker.waker(index)?,
            ring.clone(),
            base,
            event_idx,
            vring.call.clone(),
        )?;
        let queue = VirtqueueParams {
            ring,
            base,
            event_idx,
            used: used.clone(),
            disk: self.disk.clone(),
            memory: params.memory,
            rules: params.rules,
            err: vring.err.clone(),
        }
        .build()?;
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

    /// Takes a queue that its worker does not serve any more.
    pub(crate) fn stopped(&mut self, index: usize, queue: KBox<dyn Serve>) {
        if let Some(served) = self.queues.iter_mut().find(|it| it.index == index) {
            served.stopped = Some(queue);
        }
    }

    /// Ends the service of all queues, which their workers have let go of, when all I/O has ended.
    /// `vrings` learn where it ended, and `stats` what was counted.
    pub(crate) fn end(self, is_owner: bool, vrings: &mut [VringConfig], stats: &mut Stats) {
        self.stop(is_owner, stats, |index, base| set_base(vrings, index, base));
        for vring in vrings {
            vring.addresses = None;
        }
    }

    fn stop(
        mut self,
        is_owner: bool,
        stats: &mut Stats,
        mut ended: impl FnMut(usize, u32), //
    ) {
        for queue in &mut self.queues {
            queue.watch = None;
        }
        for queue in &mut self.queues {
            if let Some(half) = &mut queue.stopped {
                half.drain(is_owner);
                let mut counted = Stats::default();
                half.add_stats(&mut counted);
                // It is stopped no more: the next attachment begins anew.
                counted.stopped_queues = 0;
                *stats += &counted;
                ended(queue.index, half.base());
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
    pub(crate) fn set_call(&self, index: usize, call: Option<Arc<EventSignal>>) {
        if let Some(queue) = self.queues.iter().find(|it| it.index == index) {
            queue.used.set_call(call);
        }
    }

    /// Exchanges the eventfd that tells of a changed configuration space.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    pub(crate) fn set_config_call(&mut self, call: Option<Arc<EventSignal>>) -> Result {
        self.looking = self.notifier.set_call(call)?;
        Ok(())
    }
}

/// Notes where the service of a queue ended.
fn set_base(vrings: &mut [VringConfig], index: usize, base: u32) {
    if let Some(vring) = vrings.get_mut(index) {
        vring.base = Some(base);
    }
}

/// Maps a ring of the owner.
///
/// # Errors
///
/// EINVAL when a part is not aligned; EFAULT when it is not accessible; ENOMEM.
fn map_ring(
    params: &AttachParams<'_>,
    format: Format,
    size: QueueSize,
    addresses: Parts<HostAddr>,
) -> Result<Arc<Ring>> {
    let map = |addr, part: Part| {
        let access = if part.written {
            Access::Write
        } else {
            Access::Read
        };
        let align = part.align as usize;
        MappedRange::new(params.mm.clone(), addr, part.bytes, align, access)
    };
    let parts = format.parts(size);
    let parts = Parts {
        desc: map(addresses.desc, parts.desc)?,
        driver: map(addresses.driver, parts.driver)?,
        device: map(addresses.device, parts.device)?,
    };
    Ok(Arc::new(
        Ring::new(format, size, parts),
        GFP_KERNEL_ACCOUNT,
    )?)
}

// SPDX-License-Identifier: GPL-2.0

//! Queues: configured by ioctls, then served while a disk is attached.
//!
//! What would change the geometry of a ring is a field of [`RingSetup`], which nobody looks at
//! while the queue is served. What may change meanwhile is a method of [`Attached`].

use crate::{
    completion::{
        Completion,
        Ring, //
    },
    config_notifier::ConfigNotifier,
    executor::{
        Executor,
        Rules, //
    },
    memory::Table,
    pool::{
        Kick,
        Pool, //
    },
    server::Server,
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
        thread::Worker, //
    },
    units::{
        most_units,
        Units, //
    },
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    str::CString,
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
    request::ID_BYTES,
    ring::{
        Base,
        Format, //
    },
    uapi::Stats, //
};

/// What ioctls said about a queue.
#[derive(Default)]
pub(crate) struct RingSetup {
    pub(crate) size: Option<QueueSize>,
    /// Where the parts of the ring lie in the owner.
    pub(crate) addresses: Option<Parts<HostAddr>>,
    /// Where to begin, in the encoding of vhost, unless with a new ring. Not kept up to date while
    /// the queue is served.
    pub(crate) base: Option<u32>,
    pub(crate) kick: Option<Arc<EventFile>>,
    pub(crate) call: Option<Arc<EventSignal>>,
    pub(crate) err: Option<Arc<EventSignal>>,
}

/// What the queues of a device have in common.
pub(crate) struct Common<'a> {
    pub(crate) worker: &'a Worker<Pool>,
    pub(crate) mm: &'a ARef<MmWithUser>,
    pub(crate) features: Features,
    pub(crate) table: &'a Arc<Table>,
    pub(crate) rules: Rules,
    /// Instead of the disk's own.
    pub(crate) serial: Option<[u8; ID_BYTES]>,
    /// To signal when the configuration space has changed.
    pub(crate) config_call: Option<&'a Arc<EventSignal>>,
}

/// A queue that is served.
struct Served {
    index: usize,
    completion: Arc<Completion>,
    kick: Kick,
    watch: Option<Pin<KBox<EventWatch<Kick>>>>,
}

/// The queues that are served, from [`Self::new`] to [`Self::end`].
pub(crate) struct Attached {
    file: Arc<BlockFile>,
    notifier: Arc<ConfigNotifier>,
    /// While somebody wants to be told of changes.
    looking: Option<Pin<KBox<Periodic<ConfigNotifier>>>>,
    queues: KVec<Served>,
}

impl Attached {
    /// Begins to serve all queues that were set up.
    ///
    /// # Errors
    ///
    /// EINVAL when there is none, or a base is not in its ring; EFAULT when a ring is not
    /// accessible; ENOMEM; EINTR when the
    /// current task is being killed. Nothing is served then.
    pub(crate) fn new(
        common: &Common<'_>,
        file: BlockFile,
        rings: &mut [RingSetup],
        stats: &mut Stats,
    ) -> Result<Self> {
        let file = Arc::new(file, GFP_KERNEL_ACCOUNT)?;
        let notifier = ConfigNotifier::new(file.clone())?;
        let mut attached = Self {
            file,
            looking: notifier.set_call(common.config_call.cloned())?,
            notifier,
            queues: KVec::new(),
        };
        let mut started = Ok(());
        for (index, ring) in rings.iter().enumerate() {
            let (Some(size), Some(addresses)) = (ring.size, ring.addresses) else {
                continue;
            };
            started = attached.start(common, index, ring, size, addresses);
            if started.is_err() {
                break;
            }
        }
        if started.is_ok() && attached.queues.is_empty() {
            started = Err(EINVAL);
        }
        match started {
            Ok(()) => {
                for queue in &attached.queues {
                    // Requests may have come before anybody listened.
                    queue.kick.wake();
                }
                Ok(attached)
            }
            Err(error) => {
                if error == EINTR {
                    // What a killed process still waits for must not wait for the process.
                    common.worker.give_up();
                }
                let servers = common.worker.work().take_all_patiently();
                attached.end(servers, true, rings, stats);
                Err(error)
            }
        }
    }

    fn start(
        &mut self,
        common: &Common<'_>,
        index: usize,
        setup: &RingSetup,
        size: QueueSize,
        addresses: Parts<HostAddr>,
    ) -> Result {
        let format = Format::of(common.features);
        let base = setup.base.unwrap_or(format.initial_base());
        let base = Base::decode(format, size, base).ok_or(EINVAL)?;
        let map = |addr, part: Part| {
            let access = if part.written {
                Access::Write
            } else {
                Access::Read
            };
            let align = part.align as usize;
            MappedRange::new(common.mm.clone(), addr, part.bytes, align, access)
        };
        let parts = format.parts(size);
        let parts = Parts {
            desc: map(addresses.desc, parts.desc)?,
            driver: map(addresses.driver, parts.driver)?,
            device: map(addresses.device, parts.device)?,
        };
        let ring = Arc::new(Ring::new(format, size, parts), GFP_KERNEL_ACCOUNT)?;
        let event_idx = common.features.has(bit::RING_EVENT_IDX);
        let kick = Kick::new(common.worker.work().clone(), common.worker.task(), index);
        let completion = Completion::new(
            kick.clone(),
            ring.clone(),
            base,
            event_idx,
            setup.call.clone(),
            most_units(size),
        )?;
        // From here on the completion refers to itself through the memory for its I/Os, and the
        // list below sees to it that it is closed.
        self.queues.push(
            Served {
                index,
                completion: completion.clone(),
                kick: kick.clone(),
                watch: None,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let executor = Executor::new(
            completion.clone(),
            self.file.clone(),
            self.notifier.clone(),
            common.table.clone(),
            Units::new(size, completion, self.file.clone())?,
            common.serial.unwrap_or_else(|| default_id(&self.file)),
            common.rules,
        )?;
        let server = Server::new(
            ring,
            base,
            event_idx,
            common.features.has(bit::RING_INDIRECT_DESC),
            executor,
            setup.err.clone(),
        )?;
        common.worker.work().insert(index, server)?;
        if let (Some(file), Some(queue)) = (&setup.kick, self.queues.last_mut()) {
            queue.watch = Some(EventWatch::new(file.clone(), kick)?);
        }
        Ok(())
    }

    /// Ends the service of `servers`, which were taken from the pool, when all I/O that was
    /// submitted is done. `rings` learn where it ended, and `stats` what was counted.
    ///
    /// Some answers can only be written by the owner: they are if the current process `is_owner`.
    /// They don't matter otherwise, since nobody can attach a disk to these rings again.
    pub(crate) fn end(
        mut self,
        mut servers: KVec<Option<Server>>,
        is_owner: bool,
        rings: &mut [RingSetup],
        stats: &mut Stats,
    ) {
        for queue in &mut self.queues {
            queue.watch = None;
        }
        for queue in &self.queues {
            let mut server = servers.get_mut(queue.index).and_then(Option::take);
            if let (Some(server), true) = (&mut server, is_owner) {
                server.finish();
            }
            let submitted = server.as_ref().map_or(0, Server::submitted);
            queue.completion.wait(submitted);
            if let (Some(server), true) = (&server, is_owner) {
                server.answer_late();
            }
            let base = server.as_ref().map(Server::base);
            add(stats, &queue.completion.close());
            if let Some(server) = server {
                server.add_stats(stats);
                if let Some(ring) = rings.get_mut(queue.index) {
                    ring.base = base;
                }
            }
        }
    }

    /// Does something with each queue while the worker does not.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn for_each(&self, worker: &Worker<Pool>, mut f: impl FnMut(&mut Server)) -> Result {
        for queue in &self.queues {
            worker.work().with(queue.index, &mut f)?;
        }
        Ok(())
    }

    /// Exchanges the kick eventfd of a queue.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn set_kick(&mut self, index: usize, file: Option<&Arc<EventFile>>) -> Result {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.index == index) else {
            return Ok(());
        };
        queue.watch = match file {
            Some(file) => Some(EventWatch::new(file.clone(), queue.kick.clone())?),
            None => None,
        };
        Ok(())
    }

    /// Exchanges the call eventfd of a queue.
    pub(crate) fn set_call(&self, index: usize, call: Option<&Arc<EventSignal>>) {
        if let Some(queue) = self.queues.iter().find(|queue| queue.index == index) {
            queue.completion.set_call(call.cloned());
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

    /// Adds what was counted so far.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn add_stats(&self, worker: &Worker<Pool>, stats: &mut Stats) -> Result {
        for queue in &self.queues {
            add(stats, &queue.completion.stats());
        }
        self.for_each(worker, |server| server.add_stats(stats))
    }
}

fn add(sum: &mut Stats, stats: &Stats) {
    sum.requests += stats.requests;
    sum.bytes_read += stats.bytes_read;
    sum.bytes_written += stats.bytes_written;
    sum.flushes += stats.flushes;
    sum.interrupts += stats.interrupts;
    sum.io_errors += stats.io_errors;
    sum.kicks += stats.kicks;
    sum.malformed += stats.malformed;
}

/// What GET_ID answers unless told otherwise: the same for a disk whenever it is attached.
fn default_id(file: &BlockFile) -> [u8; ID_BYTES] {
    let (major, minor) = file.number();
    let mut id = [0; ID_BYTES];
    // At most "vhost-blk-4095:1048575", cut after 20 bytes.
    if let Ok(text) = CString::try_from_fmt(fmt!("vhost-blk-{major}:{minor}")) {
        id.iter_mut()
            .zip(text.to_bytes())
            .for_each(|(to, from)| *to = *from);
    }
    id
}

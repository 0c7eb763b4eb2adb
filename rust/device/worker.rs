// SPDX-License-Identifier: GPL-2.0

//! The threads that serve the queues of a device.

#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use crate::sys::task::main_thread;
use crate::{
    queue::{
        ready::{
            ReadyQueues,
            VqWaker,
            MAX_QUEUES, //
        },
        virtqueue::Serve, //
    },
    sys::{
        lock::lock_killable,
        task::others_want_cpu,
        worker_thread::{
            ThreadKind,
            Work,
            WorkerThread, //
        },
    },
};
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
use kernel::task::Task;
use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
};
use vblk_core::drain::{
    Next,
    Polled, //
};

/// Workers that a device can have: more than queues are of no use.
const MAX_WORKERS: usize = MAX_QUEUES;

/// The queues of a worker, by their index.
type Queues = KVec<Option<KBox<dyn Serve>>>;

/// What a worker does.
#[pin_data]
struct VqWork {
    ready: Arc<ReadyQueues>,
    /// Queues whose rings the worker looks at, since their drivers don't kick.
    polled: ReadyQueues,
    /// Held while a queue is served: with it, none is.
    #[pin]
    queues: Mutex<Queues>,
}

impl Work for VqWork {
    #[inline]
    fn is_pending(&self) -> bool {
        self.ready.any() || self.polled.any()
    }

    #[inline]
    fn run(&self) {
        self.ready.take(|index| {
            // Taken for each queue: an ioctl waits for one of them at most.
            let mut queues = self.queues.lock();
            if let Some(Some(queue)) = queues.get_mut(index) {
                match queue.handle_kick() {
                    Next::Soon => self.ready.mark_again(index),
                    Next::Poll => self.polled.mark_again(index),
                    Next::Kick | Next::Completion | Next::Never => (),
                }
            }
        });
        if self.polled.any() {
            self.poll();
        }
    }
}

impl VqWork {
    /// Looks once at each ring that is polled. The thread looks between two calls whether it is to end.
    #[inline(never)]
    fn poll(&self) {
        core::hint::spin_loop();
        let goes_on = !others_want_cpu();
        self.polled.take(|index| {
            let mut queues = self.queues.lock();
            // One that is not there any more is not polled any more.
            if let Some(Some(queue)) = queues.get_mut(index) {
                match queue.poll(goes_on) {
                    Polled::Found => self.ready.mark_again(index),
                    Polled::Nothing => self.polled.mark_again(index),
                    Polled::Over => (),
                }
            }
        });
    }
}

/// A thread that serves some queues of a device.
pub(crate) struct VqWorker {
    thread: WorkerThread<VqWork>,
}

impl VqWorker {
    fn spawn(kind: ThreadKind, mm: Option<ARef<MmWithUser>>) -> Result<Self> {
        let ready = Arc::new(ReadyQueues::new(), GFP_KERNEL_ACCOUNT)?;
        let work = Arc::pin_init(
            pin_init!(VqWork {
                ready,
                polled: ReadyQueues::new(),
                queues <- new_mutex!(KVec::new(), "VqWork::queues"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self {
            thread: WorkerThread::spawn(kind, work, mm)?,
        })
    }

    /// Returns the waker for a queue of this worker.
    ///
    /// # Errors
    ///
    /// EAGAIN when the thread has not started.
    pub(crate) fn waker(&self, queue: usize) -> Result<VqWaker> {
        let ready = self.thread.work().ready.clone();
        Ok(VqWaker::new(ready, self.thread.task()?, queue))
    }

    /// Begins to serve a queue.
    ///
    /// # Errors
    ///
    /// ENOMEM; EINTR when the current task is being killed.
    pub(crate) fn insert(&self, index: usize, queue: KBox<dyn Serve>) -> Result {
        let mut queues = lock_killable(&self.thread.work().queues)?;
        while queues.len() <= index {
            queues.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        *queues.get_mut(index).ok_or(EINVAL)? = Some(queue);
        Ok(())
    }
}

/// The workers of a device, by their ids.
pub(crate) struct Workers {
    kind: ThreadKind,
    /// The address space that kernel threads work in, if any.
    mm: Option<ARef<MmWithUser>>,
    /// The main thread of the process that they were made for.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    process: ARef<Task>,
    workers: KVec<Option<VqWorker>>,
}

impl Workers {
    /// Creates no worker.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn none() -> Self {
        Self {
            kind: ThreadKind::Kthread,
            mm: None,
            process: main_thread(),
            workers: KVec::new(),
        }
    }

    /// Returns whether there are some, and they are threads of the current process.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn are_of_current_process(&self) -> bool {
        self.kind == ThreadKind::VhostTask && self.process.as_ptr() == main_thread().as_ptr()
    }

    /// Creates the first worker of a device, for the current process, whose address space is `mm`; a
    /// kernel thread without one works for the system. Its id is 0.
    ///
    /// # Errors
    ///
    /// ENOMEM; EAGAIN when the process may not have one more thread; EINTR when it is being killed.
    pub(crate) fn new(kind: ThreadKind, mm: Option<ARef<MmWithUser>>) -> Result<Self> {
        let mut workers = Self {
            kind,
            mm,
            #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
            process: main_thread(),
            workers: KVec::new(),
        };
        workers.spawn()?;
        Ok(workers)
    }

    fn spawn(&mut self) -> Result<usize> {
        let free = self.workers.iter().position(Option::is_none);
        let id = free.unwrap_or(self.workers.len());
        if id >= MAX_WORKERS {
            return Err(ENOMEM);
        }
        if free.is_none() {
            self.workers.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        let slot = self.workers.get_mut(id).ok_or(ENOMEM)?;
        *slot = Some(VqWorker::spawn(self.kind, self.mm.clone())?);
        Ok(id)
    }

    /// Creates one more worker. Returns its id.
    ///
    /// # Errors
    ///
    /// EFAULT when workers are kernel threads, which no limit of the process counts, as in C vhost;
    /// those of [`Self::new`].
    pub(crate) fn create(&mut self) -> Result<usize> {
        match self.kind {
            ThreadKind::Kthread => Err(EFAULT),
            ThreadKind::VhostTask => self.spawn(),
        }
    }

    /// Returns a worker.
    ///
    /// # Errors
    ///
    /// ENODEV when there is none with this id.
    pub(crate) fn get(&self, id: usize) -> Result<&VqWorker> {
        self.workers.get(id).and_then(Option::as_ref).ok_or(ENODEV)
    }

    /// Stops a worker that has no queues.
    pub(super) fn free(&mut self, id: usize) {
        if let Some(slot) = self.workers.get_mut(id) {
            *slot = None;
        }
    }

    fn all(&self) -> impl Iterator<Item = &VqWorker> {
        self.workers.iter().flatten()
    }

    /// Applies `f` to each queue that is served, while its worker does not serve it. Takes the lock
    /// of each worker once.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed; some queues may have been visited.
    pub(crate) fn for_each_queue(&self, mut f: impl FnMut(&mut dyn Serve)) -> Result {
        self.for_each_queue_by_index(|_, queue| f(queue))
    }

    /// Applies `f` to each queue that is served, with its index, as [`Self::for_each_queue`] does.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed; some queues may have been visited.
    pub(crate) fn for_each_queue_by_index(
        &self,
        mut f: impl FnMut(usize, &mut dyn Serve),
    ) -> Result {
        for worker in self.all() {
            let mut queues = lock_killable(&worker.thread.work().queues)?;
            for (index, queue) in queues.iter_mut().enumerate() {
                if let Some(queue) = queue {
                    f(index, &mut **queue);
                }
            }
        }
        Ok(())
    }

    /// Applies `f` to a queue of a worker, if it is served, while the worker does not.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn with_queue<R>(
        &self,
        worker: usize,
        index: usize,
        f: impl FnOnce(&mut dyn Serve) -> R,
    ) -> Result<Option<R>> {
        let Ok(worker) = self.get(worker) else {
            return Ok(None);
        };
        let mut queues = lock_killable(&worker.thread.work().queues)?;
        Ok(queues
            .get_mut(index)
            .and_then(Option::as_mut)
            .map(|queue| f(&mut **queue)))
    }

    /// Takes a queue from its worker, which does not touch it any more.
    #[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
    pub(crate) fn take_queue(&self, worker: usize, index: usize) -> Option<KBox<dyn Serve>> {
        let worker = self.get(worker).ok()?;
        let mut queues = worker.thread.work().queues.lock();
        queues.get_mut(index)?.take()
    }

    /// Takes all queues from their workers, which do not touch them any more.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed: serving a queue takes as long as the owner's
    /// memory lets it. Some queues may have been taken.
    pub(crate) fn take_queues(&self, mut f: impl FnMut(usize, KBox<dyn Serve>)) -> Result {
        for worker in self.all() {
            let queues = core::mem::take(&mut *lock_killable(&worker.thread.work().queues)?);
            each_with_index(queues, &mut f);
        }
        Ok(())
    }

    /// Takes all queues from their workers, however long it takes.
    pub(crate) fn take_queues_patiently(&self, mut f: impl FnMut(usize, KBox<dyn Serve>)) {
        for worker in self.all() {
            let queues = core::mem::take(&mut *worker.thread.work().queues.lock());
            each_with_index(queues, &mut f);
        }
    }

    /// Has workers stop waiting for memory of the process.
    pub(crate) fn give_up(&self) {
        self.all().for_each(|worker| worker.thread.give_up());
    }
}

fn each_with_index(queues: Queues, f: &mut impl FnMut(usize, KBox<dyn Serve>)) {
    for (index, queue) in queues.into_iter().enumerate() {
        if let Some(queue) = queue {
            f(index, queue);
        }
    }
}

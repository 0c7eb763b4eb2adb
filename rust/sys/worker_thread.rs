// SPDX-License-Identifier: GPL-2.0

//! Threads that work for a process, at its expense.
//!
//! A vhost task is a thread of the process, which user space does not see run: it has the cgroups,
//! limits, credentials and CPUs of the process, and goes when that is killed. A kernel thread only
//! borrows the address space and joins the cgroups; it is for hosts whose tools expect one.

use super::{
    bindings as helpers,
    task::{
        current_task,
        give_way,
        set_state, //
    }, //
};
use core::{
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    mm::MmWithUser,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Completion,
        SetOnce, //
    },
    task::Task, //
};

/// The work of a [`WorkerThread`].
pub(crate) trait Work: Send + Sync + 'static {
    /// Returns whether there is something to do. Must not sleep.
    ///
    /// The code that gives the worker something to do makes this true first, then wakes the task.
    fn is_pending(&self) -> bool;

    /// Does a bounded amount of it. May sleep, and may access the memory of the process.
    fn run(&self);
}

/// The kind of a [`WorkerThread`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// A thread of the process.
    VhostTask,
    /// A thread of the kernel.
    Kthread,
}

/// State that the thread and its creator share.
#[pin_data]
struct Context<W> {
    work: Arc<W>,
    /// The address space that a kernel thread works in and for, if any.
    mm: Option<ARef<MmWithUser>>,
    /// The task that made the thread.
    creator: ARef<Task>,
    /// The thread, once it has started.
    task: SetOnce<ARef<Task>>,
    /// An errno, if the thread could not start.
    error: Atomic<i32>,
    #[pin]
    started: Completion,
}

impl<W> Context<W> {
    /// Tells the creator that the thread runs, or why it can't.
    fn start(&self, result: Result) {
        if let Err(error) = result {
            // Relaxed: the completion orders it.
            self.error.store(error.to_errno(), Relaxed);
        }
        self.task.populate(current_task());
        self.started.complete_all();
    }
}

/// How to stop the thread.
enum Thread {
    VhostTask(NonNull<helpers::vhost_task>),
    Kthread(ARef<Task>),
}

/// A running thread. When this is dropped, it stops as soon as it has done what it is about.
///
/// # Invariants
///
/// `thread` runs on `context`, and is stopped by `drop` only.
pub(crate) struct WorkerThread<W: Work> {
    thread: Thread,
    context: Pin<KBox<Context<W>>>,
}

// SAFETY: Threads may be stopped by any task; the rest is `Send`.
unsafe impl<W: Work> Send for WorkerThread<W> {}
// SAFETY: A shared reference only reads the context.
unsafe impl<W: Work> Sync for WorkerThread<W> {}

impl<W: Work> WorkerThread<W> {
    /// Starts a thread called `vhost-<pid>` after the current task, for the current process, whose
    /// address space is `mm`. Without one a kernel thread works for the system.
    ///
    /// # Errors
    ///
    /// ENOMEM; EAGAIN when the process may not have one more thread (RLIMIT_NPROC, pids.max); EINTR
    /// when the current task is being killed; those of joining a cgroup.
    pub(crate) fn spawn(
        kind: ThreadKind,
        work: Arc<W>,
        mm: Option<ARef<MmWithUser>>,
    ) -> Result<Self> {
        let context = KBox::pin_init(
            pin_init!(Context {
                work,
                mm,
                creator: current_task(),
                task: SetOnce::new(),
                error: Atomic::new(0),
                started <- Completion::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let name = CString::try_from_fmt(fmt!("vhost-{}", kernel::current!().pid()))?;
        let data = core::ptr::from_ref(&*context).cast_mut().cast();
        let thread = match kind {
            ThreadKind::VhostTask => Self::start_task(data, &name)?,
            ThreadKind::Kthread => Self::start_kthread(data, &name)?,
        };
        // INVARIANT: this value's drop is the one place that stops it.
        let worker = Self { thread, context };
        worker.context.started.wait_for_completion();
        // Relaxed: the completion orders it.
        to_result(worker.context.error.load(Relaxed))?;
        Ok(worker)
    }

    fn start_task(data: *mut c_void, name: &CStr) -> Result<Thread> {
        // SAFETY: Both functions fit a pointer to a `Context<W>`, which outlives the thread: it is
        // freed after `vhost_task_stop`. The name is copied.
        let task = from_err_ptr(unsafe {
            helpers::vhost_task_create(
                Some(run_task::<W>),
                Some(task_killed::<W>),
                data,
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: Created just now.
        unsafe { helpers::vhost_task_start(task) };
        NonNull::new(task).map(Thread::VhostTask).ok_or(ENOMEM)
    }

    fn start_kthread(data: *mut c_void, name: &CStr) -> Result<Thread> {
        // SAFETY: `run_kthread::<W>` fits a pointer to a `Context<W>`, which outlives the thread: it
        // is freed after `kthread_stop`. The format takes one string.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(run_kthread::<W>),
                data,
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        // SAFETY: A new kernel thread exists until it is stopped or leaves its function, and it was
        // not even started. `Task` is a transparent wrapper.
        let task: ARef<Task> = unsafe { &*task.cast::<Task>() }.into();
        task.wake_up();
        Ok(Thread::Kthread(task))
    }

    /// Has a kernel thread stop waiting for memory of the process: a page fault handler in user space
    /// may be gone, or wait for us. There is no way back. A vhost task hears of it when its process
    /// is killed.
    pub(crate) fn give_up(&self) {
        if let Thread::Kthread(task) = &self.thread {
            // SAFETY: The task is alive. The thread asked for the signal.
            unsafe { helpers::vblk_kill(task.as_ptr()) };
        }
    }

    /// Returns the thread, to wake it.
    ///
    /// # Errors
    ///
    /// EAGAIN before it has started.
    pub(crate) fn task(&self) -> Result<ARef<Task>> {
        self.context.task.as_ref().cloned().ok_or(EAGAIN)
    }

    /// Returns the work.
    pub(crate) fn work(&self) -> &Arc<W> {
        &self.context.work
    }
}

impl<W: Work> Drop for WorkerThread<W> {
    /// Sleeps until the thread has ended.
    fn drop(&mut self) {
        match &self.thread {
            // SAFETY: Not stopped before, by the type invariant. When this returns, the thread does
            // not use its context any more.
            Thread::VhostTask(task) => unsafe { helpers::vhost_task_stop(task.as_ptr()) },
            // SAFETY: As above, and we hold a reference.
            Thread::Kthread(task) => unsafe {
                bindings::kthread_stop(task.as_ptr());
            },
        }
    }
}

/// Runs a vhost task once; `false` sends it to sleep. Its state says already that it sleeps, and
/// the barrier before that pairs with the one of `wake_up_process`: either this sees the work, or
/// the waker sees the state and undoes it.
///
/// # Safety
///
/// `data` points to a [`Context<W>`] that lives until the task has been stopped.
unsafe extern "C" fn run_task<W: Work>(data: *mut c_void) -> bool {
    // SAFETY: As the caller promised.
    let context = unsafe { &*data.cast::<Context<W>>() };
    if context.task.as_ref().is_none() {
        set_state(bindings::TASK_RUNNING);
        context.start(Ok(()));
        return true;
    }
    if !context.work.is_pending() {
        return false;
    }
    set_state(bindings::TASK_RUNNING);
    context.work.run();
    give_way();
    true
}

/// Hears that a vhost task was killed: it runs no more.
///
/// # Safety
///
/// As for [`run_task`]; called in the task.
unsafe extern "C" fn task_killed<W: Work>(data: *mut c_void) {
    // SAFETY: As the caller promised.
    let context = unsafe { &*data.cast::<Context<W>>() };
    if context.task.as_ref().is_none() {
        context.start(Err(EINTR));
    }
}

/// # Safety
///
/// `data` points to a [`Context<W>`] that lives until this returns, in a kernel thread.
unsafe extern "C" fn run_kthread<W: Work>(data: *mut c_void) -> c_int {
    // SAFETY: As the caller promised.
    let context = unsafe { &*data.cast::<Context<W>>() };
    let mut joined = Ok(());
    let mut charged = None;
    if let Some(mm) = &context.mm {
        // From inside, after the thread got its first affinity: joining sets that of the cpuset.
        // SAFETY: The creator waits for us, and so is alive.
        joined = to_result(unsafe { helpers::vblk_join_cgroups(context.creator.as_ptr()) });
        // SAFETY: This is a kernel thread that uses no mm yet; `context` keeps the mm in use.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        // SAFETY: The mm is in use. Ended below, before the thread ends.
        charged = Some(unsafe { helpers::vblk_charge_owner_of(mm.as_raw()) });
    } else {
        // The host's own disk: what it writes to have memory freed would wait in our ring.
        // SAFETY: Concerns the current task alone.
        unsafe { helpers::vblk_forbid_io_for_memory() };
    }
    // SAFETY: Concerns the current task alone. See `WorkerThread::give_up`.
    unsafe { helpers::vblk_allow_kill() };
    context.start(joined);
    loop {
        if context.work.is_pending() {
            context.work.run();
            give_way();
            continue;
        }
        // The barrier in here pairs with the one of `wake_up_process`, as in `run_task`.
        set_state(bindings::TASK_IDLE);
        // SAFETY: This is a kernel thread.
        if unsafe { bindings::kthread_should_stop() } {
            break;
        }
        if context.work.is_pending() {
            set_state(bindings::TASK_RUNNING);
        } else {
            // SAFETY: May sleep: no lock is held.
            unsafe { bindings::schedule() };
        }
    }
    set_state(bindings::TASK_RUNNING);
    if let (Some(mm), Some(charged)) = (&context.mm, charged) {
        // SAFETY: Pairs with `vblk_charge_owner_of` above.
        unsafe { helpers::vblk_charge_nobody(charged) };
        // SAFETY: Pairs with `kthread_use_mm` above.
        unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
    }
    0
}

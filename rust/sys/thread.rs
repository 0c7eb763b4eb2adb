// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that work on behalf of a process: in its address space and its cgroups, and at its
//! expense.

use super::bindings as helpers;
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
    sync::{
        aref::ARef,
        Arc, //
    },
    task::Task, //
};

/// What a [`Worker`] does.
pub(crate) trait Work: Send + Sync + 'static {
    /// Whether there is something to do. Must not sleep.
    ///
    /// Whoever gives the worker something to do makes this true first and wakes the task then.
    fn pending(&self) -> bool;

    /// Does a bounded amount of it. May sleep, and may access the memory of the process.
    fn run(&self);
}

/// What the thread uses.
struct Context<W> {
    work: Arc<W>,
    mm: ARef<MmWithUser>,
}

/// A running kernel thread. When this is dropped, it stops as soon as nothing is
/// [pending](Work::pending), which whoever drops it must have seen to.
///
/// # Invariants
///
/// `task` runs [`main`] on `context` and is stopped by `drop` only.
pub(crate) struct Worker<W: Work> {
    task: ARef<Task>,
    context: KBox<Context<W>>,
}

impl<W: Work> Worker<W> {
    /// Starts a thread called `vhost-blk-<pid>` after the current task, in its cgroups and in its
    /// address space `mm`.
    ///
    /// # Errors
    ///
    /// ENOMEM, EINTR when the current task is being killed, and those of joining a cgroup.
    pub(crate) fn spawn(work: Arc<W>, mm: ARef<MmWithUser>) -> Result<Self> {
        let context = KBox::new(Context { work, mm }, GFP_KERNEL)?;
        let current = kernel::current!();
        // SAFETY: `main::<W>` fits a pointer to a `Context<W>`, which outlives the thread: it is
        // freed after `kthread_stop`, on each path below. The format takes one int.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(main::<W>),
                (&raw const *context).cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"vhost-blk-%d".as_char_ptr(),
                current.pid(),
            )
        })?;
        // SAFETY: A new kernel thread exists until it is stopped or leaves `main`, and it was not
        // even started. `Task` is a transparent wrapper.
        let task: ARef<Task> = unsafe { &*task.cast::<Task>() }.into();
        // INVARIANT: this value's drop is the one place that stops it.
        let worker = Self { task, context };
        // SAFETY: Both tasks are alive.
        to_result(unsafe { helpers::vblk_join_cgroups(current.as_ptr(), worker.task.as_ptr()) })?;
        worker.task.wake_up();
        Ok(worker)
    }

    /// Makes the thread give up what takes long, see [`gives_up`], and makes its accesses to the
    /// process's memory fail where they would wait for somebody: a page fault handler in user space
    /// may be gone, or wait for us. There is no way back.
    pub(crate) fn give_up(&self) {
        // SAFETY: The task is alive. The thread asked for the signal, and looks at it in
        // `gives_up` and where the kernel waits for memory.
        unsafe { helpers::vblk_kill(self.task.as_ptr()) };
    }

    /// The thread, to wake it.
    pub(crate) fn task(&self) -> ARef<Task> {
        self.task.clone()
    }

    /// What it works on.
    pub(crate) fn work(&self) -> &Arc<W> {
        &self.context.work
    }
}

impl<W: Work> Drop for Worker<W> {
    fn drop(&mut self) {
        // SAFETY: `task` is a kernel thread that was not stopped before, by the type invariant,
        // and we hold a reference. When this returns it has left `main` or never enters it.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
    }
}

/// # Safety
///
/// `context` points to a [`Context<W>`] that lives until this returns, in a kernel thread.
unsafe extern "C" fn main<W: Work>(context: *mut c_void) -> c_int {
    // SAFETY: As the caller promised.
    let context = unsafe { &*context.cast::<Context<W>>() };
    let mm = context.mm.as_raw();
    // SAFETY: This is a kernel thread that uses no mm yet; `context` keeps the mm in use.
    unsafe { bindings::kthread_use_mm(mm) };
    // SAFETY: The mm is in use. Ended below, before the thread ends.
    let charged = unsafe { helpers::vblk_charge_owner_of(mm) };
    // SAFETY: Concerns the current task alone. See `Worker::give_up`.
    unsafe { helpers::vblk_allow_kill() };
    loop {
        if context.work.pending() {
            context.work.run();
            give_way();
            continue;
        }
        // The barrier in here pairs with those of `wake_up_process`: either we see the work below
        // or the waker sees our state and undoes it.
        set_state(bindings::TASK_IDLE);
        // SAFETY: This is a kernel thread.
        if unsafe { bindings::kthread_should_stop() } {
            break;
        }
        if context.work.pending() {
            set_state(bindings::TASK_RUNNING);
        } else {
            // SAFETY: May sleep: no lock is held.
            unsafe { bindings::schedule() };
        }
    }
    set_state(bindings::TASK_RUNNING);
    // SAFETY: Pairs with `vblk_charge_owner_of` above.
    unsafe { helpers::vblk_charge_nobody(charged) };
    // SAFETY: Pairs with `kthread_use_mm` above.
    unsafe { bindings::kthread_unuse_mm(mm) };
    0
}

/// Whether the current thread is a worker that was told to give up, or is being killed: nobody
/// waits for its work any more, but for its end.
pub(crate) fn gives_up() -> bool {
    // SAFETY: Concerns the current task alone.
    unsafe { helpers::vblk_killed() }
}

/// Lets others have the CPU if they wait for it. May sleep.
pub(crate) fn give_way() {
    // SAFETY: Callers may sleep, and so hold no spinlock.
    unsafe { helpers::vblk_cond_resched() };
}

fn set_state(state: u32) {
    // SAFETY: The state is one of the current task's own to choose from.
    unsafe { helpers::vblk_set_state(state) };
}

/// Sleeps until `ready` returns something.
///
/// `ready` must not sleep. Whoever makes it succeed wakes the task afterwards.
pub(crate) fn sleep_until<R>(mut ready: impl FnMut() -> Option<R>) -> R {
    loop {
        // Pairs as in `main`.
        set_state(bindings::TASK_UNINTERRUPTIBLE);
        let result = ready();
        if let Some(result) = result {
            set_state(bindings::TASK_RUNNING);
            return result;
        }
        // SAFETY: May sleep: `ready` returned, and callers of this function may sleep.
        unsafe { bindings::schedule() };
    }
}

/// Whether the current process may have the real-time class of I/O priorities, by the rule of
/// `ioprio_set`.
pub(crate) fn may_use_realtime_io() -> bool {
    // SAFETY: Concerns the current task alone; may sleep, as callers may. In this order, so that no
    // security module complains about what is not needed.
    unsafe {
        bindings::capable(bindings::CAP_SYS_ADMIN as c_int)
            || bindings::capable(bindings::CAP_SYS_NICE as c_int)
    }
}

/// The current task, to wake it later.
pub(crate) fn current_task() -> ARef<Task> {
    let task: &Task = kernel::current!();
    task.into()
}

/// Whether this runs in that task, and in no interrupt on top of it.
pub(crate) fn runs_in(task: &Task) -> bool {
    // SAFETY: The task is alive; only its address is compared.
    unsafe { helpers::vblk_is_current_task(task.as_ptr()) }
}

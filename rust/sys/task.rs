// SPDX-License-Identifier: GPL-2.0

//! The current task: sleeping, giving way, giving up.

use super::bindings as helpers;
use kernel::{
    bindings,
    ffi::c_int,
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

/// Returns the current task, to wake it later.
pub(crate) fn current_task() -> ARef<Task> {
    let task: &Task = kernel::current!();
    task.into()
}

/// Returns the main thread of the current process, by which it is told from others.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) fn main_thread() -> ARef<Task> {
    kernel::current!().group_leader().into()
}

/// Returns whether this code runs in that task, and in no interrupt on top of it.
#[inline]
pub(crate) fn runs_in(task: &Task) -> bool {
    // SAFETY: The task is alive; only its address is compared.
    unsafe { helpers::vblk_is_current_task(task.as_ptr()) }
}

/// Returns whether the current task is being killed: what takes long is not waited for any more.
#[inline]
pub(crate) fn gives_up() -> bool {
    // SAFETY: Concerns the current task alone.
    unsafe { helpers::vblk_killed() }
}

/// Lets other tasks have the CPU if they wait for it. May sleep.
#[inline]
pub(crate) fn give_way() {
    // SAFETY: Callers may sleep, and so hold no spinlock.
    unsafe { helpers::vblk_cond_resched() };
}

/// Returns whether another task waits for this CPU.
pub(crate) fn others_want_cpu() -> bool {
    // SAFETY: Callers are tasks, and so may be moved to another CPU: then it is answered for one of them.
    unsafe { helpers::vblk_others_want_cpu() }
}

/// Calls `f` without being preempted, so that others need not wait for its end.
#[inline]
pub(crate) fn without_preemption<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Undone just below.
    unsafe { helpers::vblk_preempt_disable() };
    let result = f();
    // SAFETY: Disabled just above.
    unsafe { helpers::vblk_preempt_enable() };
    result
}

pub(super) fn set_state(state: u32) {
    // SAFETY: The state is one of the current task's own to choose from.
    unsafe { helpers::vblk_set_state(state) };
}

/// Sleeps until `ready` returns `true`. `ready` must not sleep; the code that makes it true wakes
/// the task afterwards.
pub(crate) fn sleep_until(mut ready: impl FnMut() -> bool) {
    while !sleep_once(bindings::TASK_UNINTERRUPTIBLE, &mut ready) {}
}

/// Sleeps until `ready` returns `true`, as [`sleep_until`], or until the task is being killed.
///
/// # Errors
///
/// EINTR when the task is being killed.
pub(crate) fn sleep_until_killed(mut ready: impl FnMut() -> bool) -> Result {
    while !sleep_once(bindings::TASK_KILLABLE, &mut ready) {
        if gives_up() {
            return Err(EINTR);
        }
    }
    Ok(())
}

/// Sleeps until the next wake-up unless `ready`. Returns whether it was.
fn sleep_once(state: u32, ready: &mut impl FnMut() -> bool) -> bool {
    // The barrier in here pairs with the one of `wake_up_process`: either this task sees what its
    // waker did before, or the waker sees the state and undoes it.
    set_state(state);
    if ready() {
        set_state(bindings::TASK_RUNNING);
        return true;
    }
    // SAFETY: Callers may sleep.
    unsafe { bindings::schedule() };
    false
}

/// Waits until all RCU read-side sections that are running now have ended: every completion of an
/// I/O among them. Sleeps, for a short time.
pub(crate) fn wait_for_completions() {
    // SAFETY: Callers may sleep, and are in no read-side section.
    unsafe { bindings::synchronize_rcu_expedited() };
}

/// Returns whether the current task is an administrator of the system: CAP_SYS_ADMIN.
#[cfg(CONFIG_VHOST_BLK_RS_VDPA)]
pub(crate) fn is_admin() -> bool {
    // SAFETY: Concerns the current task alone.
    unsafe { helpers::vblk_is_admin() }
}

/// Returns whether the current process may have the real-time class of I/O priorities, by the rule
/// of `ioprio_set`. No refusal is audited: nothing was asked for.
pub(crate) fn may_use_realtime_io() -> bool {
    // SAFETY: Concerns the current task alone.
    unsafe {
        helpers::vblk_has_capability_noaudit(bindings::CAP_SYS_ADMIN as c_int)
            || helpers::vblk_has_capability_noaudit(bindings::CAP_SYS_NICE as c_int)
    }
}

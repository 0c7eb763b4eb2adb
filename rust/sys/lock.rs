// SPDX-License-Identifier: GPL-2.0

//! Two ways to lock that `kernel::sync` lacks: a spinlock that disables interrupts on its CPU while
//! held, for what is shared with completion in interrupt context; and taking a mutex unless the
//! task is killed meanwhile.

use super::bindings as helpers;
use kernel::{
    bindings,
    error::{
        to_result,
        Result, //
    },
    ffi::{
        c_char,
        c_ulong, //
    },
    sync::{
        lock::{
            mutex::MutexBackend,
            Backend,
            Guard,
            Lock, //
        },
        Mutex, //
    },
};

/// Takes a mutex, or gives up when the current task is being killed.
///
/// # Errors
///
/// EINTR.
pub(crate) fn lock_killable<T>(lock: &Mutex<T>) -> Result<Guard<'_, T, MutexBackend>> {
    let state = core::ptr::from_ref(lock).cast_mut().cast();
    // SAFETY: A `Mutex` was initialised by its constructor, and begins with its C mutex, which
    // `Opaque` allows to be changed through a shared reference.
    to_result(unsafe { helpers::vblk_mutex_lock_killable(state) })?;
    // SAFETY: Taken just now.
    Ok(unsafe { Guard::new(lock, ()) })
}

/// The lock of [`IrqLock`].
pub(crate) struct IrqSave;

/// Data under a spinlock that may be taken in any context.
pub(crate) type IrqLock<T> = Lock<T, IrqSave>;

// SAFETY: `spinlock_t` gives mutual exclusion, also against interrupts of the same CPU, which stay
// off until `unlock` restores the state that `lock` returned.
unsafe impl Backend for IrqSave {
    type State = bindings::spinlock_t;
    type GuardState = c_ulong;

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: `ptr` is valid for writes, `name` and `key` are valid for ever, as the caller
        // promised.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller promised that the lock was initialised.
        unsafe { helpers::vblk_lock_irqsave(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        let mut flags = 0;
        // SAFETY: The caller promised that the lock was initialised; `flags` is a local.
        unsafe { helpers::vblk_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: The caller owns the lock, and `flags` is what taking it returned.
        unsafe { helpers::vblk_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Without lockdep it is a call of an empty function.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: The caller promised that the lock was initialised.
            unsafe { bindings::spin_assert_is_held(ptr) }
        }
    }
}

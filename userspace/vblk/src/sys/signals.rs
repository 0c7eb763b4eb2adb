// SPDX-License-Identifier: GPL-2.0

//! Signals as something to wait for among other events.

use std::{
    io,
    mem::{size_of, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Signals that would end the process, which reads them here instead.
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks `signals`, and those in `ignored`, in this thread and all that it will start.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn block(signals: &[libc::c_int], ignored: &[libc::c_int]) -> io::Result<Self> {
        let read = set_of(signals);
        let mut blocked = read;
        for &signal in ignored {
            // SAFETY: `blocked` is an initialised set.
            unsafe { libc::sigaddset(&mut blocked, signal) };
        }
        // SAFETY: `blocked` is an initialised set, and no old set is asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: `read` is an initialised set.
        let fd = unsafe { libc::signalfd(-1, &read, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: The descriptor was just opened, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The number of the next signal, if one came.
    pub fn next(&self) -> Option<libc::c_int> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: There is room for `size` bytes at the pointer.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: The structure is made of integers, and was zeroes before.
        let info = unsafe { info.assume_init() };
        (read == size as isize)
            .then_some(info.ssi_signo)
            .and_then(|number| number.try_into().ok())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Stops this process as SIGTSTP would have done it, until it gets SIGCONT.
pub fn stop_self() {
    // SAFETY: raise takes no pointer.
    unsafe { libc::raise(libc::SIGSTOP) };
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: `set` is an initialised set.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

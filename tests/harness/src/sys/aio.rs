// SPDX-License-Identifier: GPL-2.0

//! Linux AIO by its system calls, to measure what raw asynchronous I/O costs.

use super::{check, map::Mapping, Errno};
use std::{
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// `struct iocb` on a little-endian machine.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// One block to move between a file and a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Set when it goes to the file.
    pub write: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the buffer.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
    /// Comes back with the completion.
    pub tag: u64,
}

/// An AIO context over one file and one buffer.
///
/// # Invariants
///
/// A queue of asynchronous transfers, all in `buffer`, which is borrowed for as long as they may
/// run: until `drop`, where `io_destroy` waits for them.
pub struct Aio<'a> {
    context: libc::c_ulong,
    file: BorrowedFd<'a>,
    buffer: &'a Mapping,
    /// Submitted and completed entries, kept so that the measured loop allocates nothing.
    iocbs: Vec<Iocb>,
    events: Vec<IoEvent>,
    not_send: PhantomData<*const ()>,
}

impl<'a> Aio<'a> {
    /// A context for up to `depth` transfers at once.
    pub fn new(file: &'a impl AsFd, buffer: &'a Mapping, depth: usize) -> Result<Self, Errno> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is a valid place for the result and is 0, as it must be.
        check(unsafe { libc::syscall(libc::SYS_io_setup, depth, &mut context) })?;
        Ok(Self {
            context,
            file: file.as_fd(),
            buffer,
            iocbs: vec![Iocb::default(); depth],
            events: vec![IoEvent::default(); depth],
            not_send: PhantomData,
        })
    }

    /// Starts some transfers with one call.
    ///
    /// # Panics
    ///
    /// If there are more than the depth, one lies outside the buffer, or not all were taken.
    pub fn submit(&mut self, transfers: &[Transfer]) -> Result<(), Errno> {
        let mut pointers = [std::ptr::null_mut::<Iocb>(); 64];
        for ((transfer, iocb), pointer) in transfers.iter().zip(&mut self.iocbs).zip(&mut pointers)
        {
            let end = transfer.at.checked_add(transfer.len);
            assert!(end.is_some_and(|end| end <= self.buffer.len()));
            *iocb = Iocb {
                data: transfer.tag,
                opcode: if transfer.write {
                    IOCB_CMD_PWRITE
                } else {
                    IOCB_CMD_PREAD
                },
                fildes: self.file.as_raw_fd() as u32,
                buf: self.buffer.addr() + transfer.at as u64,
                nbytes: transfer.len as u64,
                offset: transfer.offset,
                ..Iocb::default()
            };
            *pointer = iocb;
        }
        assert!(transfers.len() <= self.iocbs.len().min(pointers.len()));
        let count = transfers.len();
        // SAFETY: `pointers` holds `count` valid iocbs, which the kernel copies during the call.
        // INVARIANT: their buffers were checked above to lie in `buffer`.
        let taken = check(unsafe {
            libc::syscall(libc::SYS_io_submit, self.context, count, pointers.as_ptr())
        })?;
        assert_eq!(taken as usize, count, "io_submit took only some");
        Ok(())
    }

    /// Waits for at least one completion and tells the tag and result of each.
    pub fn wait(&mut self, mut done: impl FnMut(u64, i64)) -> Result<usize, Errno> {
        // SAFETY: `events` has room for as many events as are asked for.
        let count = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                1,
                self.events.len(),
                self.events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        })? as usize;
        for event in &self.events[..count] {
            done(event.data, event.res);
        }
        Ok(count)
    }
}

impl Drop for Aio<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits for what is still running.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Properties of a block device or a file.

use super::check;
use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
};
use vmm_sys_util::{ioctl::ioctl_with_mut_ref, ioctl_io_nr, ioctl_ior_nr};

/// Alignment of direct reads and writes of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlign {
    /// Addresses in memory.
    pub memory: u32,
    /// Positions and lengths in the file.
    pub offset: u32,
}

const BLK: u32 = 0x12;
ioctl_ior_nr!(BLKGETSIZE64, BLK, 114, libc::size_t);
ioctl_io_nr!(BLKSSZGET, BLK, 104);
ioctl_io_nr!(BLKPBSZGET, BLK, 123);
ioctl_io_nr!(BLKROGET, BLK, 94);

/// Length of a block device in bytes.
pub fn size(file: &File) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    // SAFETY: BLKGETSIZE64 stores 64 bits at its argument, which is a valid `u64`.
    check(unsafe { ioctl_with_mut_ref(file, BLKGETSIZE64(), &mut bytes) })?;
    Ok(bytes)
}

/// Logical block size of a block device in bytes.
pub fn logical_block_size(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET stores an `int` at its argument, which is a valid `c_int`.
    check(unsafe { ioctl_with_mut_ref(file, BLKSSZGET(), &mut bytes) })?;
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Physical block size of a block device in bytes.
pub fn physical_block_size(file: &File) -> io::Result<u32> {
    let mut bytes: libc::c_uint = 0;
    // SAFETY: BLKPBSZGET stores an `unsigned int` at its argument, which is a valid `c_uint`.
    check(unsafe { ioctl_with_mut_ref(file, BLKPBSZGET(), &mut bytes) })?;
    Ok(bytes)
}

/// Returns whether a block device refuses writes.
pub fn is_read_only(file: &File) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    // SAFETY: BLKROGET stores an `int` at its argument, which is a valid `c_int`.
    check(unsafe { ioctl_with_mut_ref(file, BLKROGET(), &mut value) })?;
    Ok(value != 0)
}

/// Returns the alignment of direct I/O on `file`; `None` when the kernel does not tell (before
/// Linux 6.1, or a filesystem that can't do direct I/O).
pub fn direct_align(file: &File) -> Option<DirectAlign> {
    // SAFETY: `statx` is made of integers, for which zeroes are valid.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: The path is an empty C string, the descriptor is open for as long as `file` lives,
    // and `answer` is a `statx` that the kernel may write.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut answer,
        )
    };
    let told = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    (told && answer.stx_dio_offset_align != 0).then_some(DirectAlign {
        memory: answer.stx_dio_mem_align,
        offset: answer.stx_dio_offset_align,
    })
}

/// Returns whether a direct read of `unit` bytes works at a position and to memory that are a
/// multiple of `unit`, a power of two up to 2048, and of nothing larger.
pub fn takes_direct_io(file: &File, unit: u32) -> bool {
    #[repr(C, align(4096))]
    struct Page([u8; 4096]);

    let mut page = Page([0; 4096]);
    let unit = (unit as usize).min(2048);
    let buffer = &mut page.0[unit..2 * unit];
    let read = file.read_at(buffer, unit as u64);
    !read.is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL))
}

/// Lets I/O on a file go through the page cache from now on.
pub fn leave_direct_io(file: &File) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument, and the descriptor is open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    check(flags)?;
    // SAFETY: F_SETFL takes an `int`, and the descriptor is open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) })
}

/// Returns whether the file system can punch holes into a file. It is tried far behind the end of
/// the file, where nothing is.
pub fn can_punch_holes(file: &File) -> bool {
    const MIB: i64 = 1 << 20;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let end = file.metadata().map_or(0, |metadata| metadata.len());
    let at = i64::try_from(end.next_multiple_of(MIB as u64)).unwrap_or(0);
    if at == 0 {
        return false;
    }
    // SAFETY: fallocate takes an open descriptor and no pointer.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, at, MIB) };
    !check(result).is_err_and(|e| matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)))
}

/// Locks a whole file until it is closed, against others that lock it; does not wait.
pub fn try_lock(file: &File, exclusive: bool) -> io::Result<()> {
    let how = if exclusive {
        libc::LOCK_EX
    } else {
        libc::LOCK_SH
    };
    // SAFETY: flock takes an open descriptor and no pointer.
    check(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) })
}

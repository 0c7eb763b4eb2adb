// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel reads and writes behind our back.
//!
//! Two rules make every `unsafe` block below sound. A mapping is only reached through atomics, in
//! words or bytes, so that a concurrent change by the kernel is a value and never undefined
//! behaviour; and every access is checked against the length of the mapping first.

use super::{check, Errno};
use std::{
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering::Relaxed},
};

/// Permitted use of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Neither by us nor by the kernel for us.
    None,
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    fn prot(self) -> i32 {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// A run of memory, unmapped when dropped.
///
/// # Invariants
///
/// `start` is the page-aligned beginning of `len` bytes that were mapped by us and stay mapped
/// as long as the value lives. They are readable and writable unless [`Mapping::protect`] was
/// called, whose callers do not touch the range themselves from then on.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: all accesses are atomic, and the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh zeroes, private to this process.
    pub fn anonymous(len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Maps the beginning of a file, shared with its other users.
    pub fn shared(file: BorrowedFd<'_>, len: usize) -> Result<Self, Errno> {
        Self::map(len, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(len: usize, flags: i32, fd: i32) -> Result<Self, Errno> {
        let prot = Access::ReadWrite.prot();
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::EFAULT)?;
        // INVARIANT: mmap succeeded, with `len` bytes for reading and writing.
        Ok(Self { start, len })
    }

    /// Returns its start in this process.
    pub fn addr(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Returns its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns all of it, for a client that takes slices. A device that is given its address may
    /// change it, as with any buffer of a client.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes are mapped, for reading and writing, for as long as `self` lives, which
        // is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Changes what may be done with a page-aligned part. The harness must not touch the part
    /// itself any more if it takes rights away.
    pub fn protect(&self, offset: usize, len: usize, access: Access) -> Result<(), Errno> {
        let start = self.at::<u8>(offset, len);
        // SAFETY: the range lies in our mapping. Losing access to it can end the process with
        // SIGSEGV if a caller breaks the rule above, but breaks no memory.
        let ret = unsafe { libc::mprotect(start.cast(), len, access.prot()) };
        check(ret.into()).map(drop)
    }

    /// Gives up a page-aligned part for fresh zeroes at the same address.
    pub fn replace(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let start = self.at::<u8>(offset, len);
        let prot = Access::ReadWrite.prot();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the range lies in our mapping, which is reached through atomics alone: that it
        // suddenly holds other values is one more change behind our back.
        let start = unsafe { libc::mmap(start.cast(), len, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(())
    }

    /// Unmaps a page-aligned part while `f` runs, and maps fresh zeroes there afterwards.
    /// `f` must not touch the part, nor map anything that could come to lie there.
    pub fn without<R>(&self, offset: usize, len: usize, f: impl FnOnce() -> R) -> Result<R, Errno> {
        let start = self.at::<u8>(offset, len).cast();
        // SAFETY: the range lies in our mapping; touching it meanwhile can end the process with
        // SIGSEGV, but breaks no memory. The guard gives it back, also when `f` panics.
        check(unsafe { libc::munmap(start, len) }.into())?;
        let hole = Hole { start, len };
        let result = f();
        drop(hole);
        Ok(result)
    }

    /// Asks for huge pages in a part.
    pub fn advise_huge(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let start = self.at::<u8>(offset, len);
        // SAFETY: the range lies in our mapping, whose content this does not change.
        let ret = unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        check(ret.into()).map(drop)
    }

    /// Gives the pages of a part back. In private memory it is zeroes again, and needs new ones.
    pub fn discard(&self, offset: usize, len: usize) -> Result<(), Errno> {
        let start = self.at::<u8>(offset, len);
        // SAFETY: the range lies in our mapping, whose content may change behind our back.
        let ret = unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
        check(ret.into()).map(drop)
    }

    /// A pointer to `count` values of `T` at `offset`.
    ///
    /// # Panics
    ///
    /// If they do not lie in the mapping or are not aligned: a mistake of the test.
    fn at<T>(&self, offset: usize, count: usize) -> *mut T {
        let bytes = count * size_of::<T>();
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.len);
        assert!(
            fits,
            "{bytes} bytes at {offset:#x} of a mapping of {:#x}",
            self.len
        );
        assert_eq!(offset % align_of::<T>(), 0, "misaligned offset {offset:#x}");
        // SAFETY: `offset` is at most `len`, so the result points into or just behind the mapping.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    fn atomics<T>(&self, offset: usize, count: usize) -> &[T] {
        let start = self.at::<T>(offset, count).cast_const();
        // SAFETY: `at` checked bounds and alignment, and the mapping lives as long as `self`. This
        // private function is only used with atomic integers, for which every bit pattern is a
        // value and shared references allow concurrent writes.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    /// The 16 bits at `offset`.
    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        &self.atomics(offset, 1)[0]
    }

    /// The 32 bits at `offset`.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        &self.atomics(offset, 1)[0]
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let (head, words, tail) = self.split(offset, to.len());
        let (to_head, rest) = to.split_at_mut(head.len());
        let (to_words, to_tail) = rest.split_at_mut(words.len() * 8);
        for (to, from) in to_head.iter_mut().zip(head) {
            *to = from.load(Relaxed);
        }
        for (to, from) in to_words.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.load(Relaxed).to_ne_bytes());
        }
        for (to, from) in to_tail.iter_mut().zip(tail) {
            *to = from.load(Relaxed);
        }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let (head, words, tail) = self.split(offset, from.len());
        let (from_head, rest) = from.split_at(head.len());
        let (from_words, from_tail) = rest.split_at(words.len() * 8);
        for (to, from) in head.iter().zip(from_head) {
            to.store(*from, Relaxed);
        }
        for (to, from) in words.iter().zip(from_words.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(from);
            to.store(u64::from_ne_bytes(word), Relaxed);
        }
        for (to, from) in tail.iter().zip(from_tail) {
            to.store(*from, Relaxed);
        }
    }

    /// Sets bytes.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let (head, words, tail) = self.split(offset, len);
        let word = u64::from_ne_bytes([value; 8]);
        words.iter().for_each(|to| to.store(word, Relaxed));
        head.iter()
            .chain(tail)
            .for_each(|to| to.store(value, Relaxed));
    }

    /// A range as bytes up to the first whole word, words, and the bytes behind them.
    fn split(&self, offset: usize, len: usize) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
        let head = (offset.next_multiple_of(8) - offset).min(len);
        let words = (len - head) / 8;
        let tail = len - head - words * 8;
        (
            self.atomics(offset, head),
            if words == 0 {
                &[]
            } else {
                self.atomics(offset + head, words)
            },
            self.atomics(offset + len - tail, tail),
        )
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours by the invariant, and all references into it borrow `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A part of a mapping that is not mapped.
struct Hole {
    start: *mut libc::c_void,
    len: usize,
}

impl Drop for Hole {
    fn drop(&mut self) {
        let prot = Access::ReadWrite.prot();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: replaces nothing.
        let start = unsafe { libc::mmap(self.start, self.len, prot, flags, -1, 0) };
        if start != self.start {
            // Another mapping lies there, which this one would replace.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_any_alignment() {
        let map = Mapping::anonymous(4096).unwrap();
        let data: Vec<u8> = (1..=64).collect();
        for offset in 0..16 {
            for len in 0..=64 {
                map.fill(0, 4096, 0);
                map.write(offset, &data[..len]);
                let mut all = [0; 96];
                map.read(0, &mut all);
                assert_eq!(all[offset..offset + len], data[..len]);
                assert!(all[..offset].iter().all(|byte| *byte == 0));
                assert!(all[offset + len..].iter().all(|byte| *byte == 0));
                let mut back = vec![0; len];
                map.read(offset, &mut back);
                assert_eq!(back, data[..len]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "of a mapping of 0x1000")]
    fn an_access_beyond_the_end_panics() {
        Mapping::anonymous(4096).unwrap().u16(4096);
    }
}

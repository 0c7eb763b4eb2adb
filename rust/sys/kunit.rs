// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of mechanisms that only a kernel can show: they run when the module is loaded, on
//! kernel threads with an address space of their own. `scripts/test-kunit` loads it.

use super::{
    bindings as helpers, copy_from_user, copy_to_user,
    eventfd::{
        EventFile,
        EventWatch,
        Wake, //
    },
    io_vectors::{
        IoVectors,
        PageScratch,
        SMALL_VECTORS, //
    },
    mapped_range::{
        Access,
        MappedRange, //
    },
    pin::{
        LastPage,
        PinnedByte, //
    },
    pinned_extents::{
        ExtentAddr,
        LeasedByte,
        PinnedExtents, //
    },
    signal::Signal,
    worker_thread::{
        ThreadKind,
        Work,
        WorkerThread, //
    },
};
use kernel::{
    bindings,
    error::to_result,
    macros::kunit_tests,
    mm::MmWithUser,
    page::PAGE_SIZE,
    prelude::*,
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
};
use vblk_core::{
    addr::HostAddr,
    memory::SharedMemory, //
};

const PAGE: u64 = PAGE_SIZE as u64;
const READ: u32 = helpers::VBLK_PROT_READ;
const READ_WRITE: u32 = helpers::VBLK_PROT_READ | helpers::VBLK_PROT_WRITE;

/// The descriptor of an eventfd that is not readable, and of one that is, in the process that loads
/// the module: a kernel thread has none.
const EVENTFDS: [i32; 2] = [3, 4];

struct Event {
    file: Arc<EventFile>,
    signal: Signal,
}

static EVENTS: SetOnce<[Event; 2]> = SetOnce::new();

/// Keeps the eventfds of the process that loads the module, if it has them.
pub(crate) fn take_eventfds() {
    let take = |fd| -> Result<Event> {
        Ok(Event {
            file: Arc::new(EventFile::from_fd(fd)?, GFP_KERNEL)?,
            signal: Signal::from_fd(fd)?,
        })
    };
    if let [Ok(idle), Ok(ready)] = EVENTFDS.map(take) {
        EVENTS.populate([idle, ready]);
    }
}

/// Marks the running test as skipped.
fn skip() {
    // SAFETY: Called by a test, in its thread, and so there is one.
    unsafe { (*bindings::kunit_get_current_test()).status = bindings::kunit_status_KUNIT_SKIPPED };
}

/// Maps `len` bytes of new memory at `at`, or anywhere if that is 0, in the address space of the test.
fn map(at: u64, len: u64, access: u32) -> Result<HostAddr> {
    let fixed = if at > 0 { helpers::VBLK_MAP_FIXED } else { 0 };
    let flags = helpers::VBLK_MAP_NEW | fixed;
    // SAFETY: This is a KUnit thread, and any mapping of its own address space may be asked for.
    let addr = unsafe {
        to_result(bindings::kunit_attach_mm())?;
        bindings::vm_mmap(
            core::ptr::null_mut(),
            at as usize,
            len as usize,
            access as usize,
            flags as usize,
            0,
        )
    };
    if addr >= (-(bindings::MAX_ERRNO as isize)) as usize {
        return Err(ENOMEM);
    }
    Ok(HostAddr(addr as u64))
}

fn current_mm() -> Result<ARef<MmWithUser>> {
    kernel::current!().mm().map(ARef::from).ok_or(ESRCH)
}

fn byte_at(addr: u64) -> u8 {
    let mut byte = [0xEE];
    copy_from_user(HostAddr(addr), &mut byte);
    byte[0]
}

#[kunit_tests(eventfd)]
mod eventfd_tests {
    use super::*;

    struct Count(Arc<Atomic<i32>>);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn count() -> Result<Arc<Atomic<i32>>> {
        Ok(Arc::new(Atomic::new(0), GFP_KERNEL)?)
    }

    #[test]
    fn a_signal_wakes_until_the_watch_is_dropped() -> Result {
        let Some([event, _]) = EVENTS.as_ref() else {
            skip();
            return Ok(());
        };
        let wakes = count()?;
        let watch = EventWatch::new(event.file.clone(), Count(wakes.clone()))?;
        assert_eq!(wakes.load(Relaxed), 0);
        event.signal.signal();
        assert_eq!(wakes.load(Relaxed), 1);
        event.signal.signal();
        assert_eq!(wakes.load(Relaxed), 2);
        drop(watch);
        event.signal.signal();
        assert_eq!(wakes.load(Relaxed), 2);
        Ok(())
    }

    #[test]
    fn an_eventfd_that_is_readable_wakes_at_once() -> Result {
        let Some([_, event]) = EVENTS.as_ref() else {
            skip();
            return Ok(());
        };
        let wakes = count()?;
        let watch = EventWatch::new(event.file.clone(), Count(wakes.clone()))?;
        assert_eq!(wakes.load(Relaxed), 1);
        event.signal.signal();
        assert_eq!(wakes.load(Relaxed), 2);
        drop(watch);
        Ok(())
    }
}

#[kunit_tests(mapped_range)]
mod mapped_range_tests {
    use super::*;

    fn range(addr: u64, len: usize, align: usize, access: Access) -> Result<MappedRange> {
        MappedRange::new(current_mm()?, HostAddr(addr), len, align, access)
    }

    #[test]
    fn accesses_outside_a_range_find_nothing() -> Result {
        let page = map(0, PAGE, READ_WRITE)?.0;
        assert!(copy_to_user(&[0xFF; 256], HostAddr(page)));
        let range = range(page + 64, 64, 16, Access::Write)?;
        assert_eq!(range.load_u16(62), 0xFFFF);
        assert_eq!(range.load_u64(56), u64::MAX);
        assert_eq!(range.load_u64_pair(48), [u64::MAX; 2]);
        for offset in [64, 66, 1 << 20, usize::MAX - 1] {
            assert_eq!(range.load_u16(offset), 0);
            assert_eq!(range.load_acquire_u16(offset), 0);
            range.store_u16(offset, 0x1234);
        }
        // Over the end, and not aligned.
        assert_eq!(range.load_u64(64), 0);
        assert_eq!(range.load_u64(60), 0);
        assert_eq!(range.load_u64(4), 0);
        assert_eq!(range.load_u64_pair(56), [0; 2]);
        range.store_u32(64, 0x1234);
        range.store_u32(62, 0x1234);
        assert_eq!(range.load_u16(62), 0xFFFF);
        assert_eq!(byte_at(page + 128), 0xFF);
        assert_eq!(byte_at(page + 63), 0xFF);
        Ok(())
    }

    #[test]
    fn a_range_is_the_memory_of_the_process_across_pages() -> Result {
        let pages = map(0, 3 * PAGE, READ_WRITE)?.0;
        let at = pages + PAGE - 8;
        let range = range(at, PAGE_SIZE + 16, 8, Access::Write)?;
        range.store_u16(6, 0x0201);
        range.store_u32(8, 0x0605_0403);
        range.store_u32(PAGE_SIZE + 12, 0x0A09_0807);
        for (offset, value) in [(6, 1), (7, 2), (8, 3), (11, 6), (PAGE + 15, 10)] {
            assert_eq!(byte_at(at + offset), value);
        }
        assert!(copy_to_user(&[0x77; 8], HostAddr(pages + 2 * PAGE)));
        assert_eq!(range.load_u64(PAGE_SIZE + 8), u64::from_ne_bytes([0x77; 8]));
        Ok(())
    }

    #[test]
    fn a_range_must_be_aligned_and_there() -> Result {
        let page = map(0, PAGE, READ_WRITE)?.0;
        let error = |addr, len, align| range(addr, len, align, Access::Write).err();
        assert_eq!(error(page + 8, 64, 16), Some(EINVAL));
        assert_eq!(error(page, 63, 16), Some(EINVAL));
        assert_eq!(error(page, 64, 3), Some(EINVAL));
        assert_eq!(error(page, 64, 2 * PAGE_SIZE), Some(EINVAL));
        assert_eq!(error(page, 0, 16), Some(EFAULT));
        assert_eq!(error(u64::MAX & !0xFFFF, 64, 16), Some(EFAULT));
        assert_eq!(error(0, 64, 16), Some(EFAULT));
        assert_eq!(error(page, 64, 16), None);
        Ok(())
    }

    #[test]
    fn what_is_only_read_is_not_written() -> Result {
        let page = map(0, PAGE, READ)?.0;
        let written = range(page, 64, 16, Access::Write);
        assert_eq!(written.err(), Some(EFAULT));
        let page = map(0, PAGE, READ_WRITE)?.0;
        let range = range(page, 64, 16, Access::Read)?;
        range.store_u16(0, 0x1234);
        range.store_u32(4, 0x1234);
        assert_eq!(range.load_u64(0), 0);
        assert!(copy_to_user(&[9], HostAddr(page)));
        assert_eq!(range.load_u16(0), 9);
        Ok(())
    }
}

#[kunit_tests(pin)]
mod pin_tests {
    use super::*;

    #[test]
    fn a_byte_is_written_until_it_is_released() -> Result {
        let page = map(0, PAGE, READ_WRITE)?.0;
        let mut byte = PinnedByte::new(HostAddr(page + 4095))?;
        byte.write(7);
        assert_eq!(byte_at(page + 4095), 7);
        assert!(byte.try_release());
        byte.write(8);
        assert_eq!(byte_at(page + 4095), 7);
        assert!(byte.try_release());
        let constant = map(0, PAGE, READ)?;
        assert_eq!(PinnedByte::new(constant).err(), Some(EFAULT));
        assert_eq!(PinnedByte::new(HostAddr(0)).err(), Some(EFAULT));
        Ok(())
    }

    #[test]
    fn bytes_of_one_page_share_its_pin() -> Result {
        let pages = map(0, 2 * PAGE, READ_WRITE)?.0;
        let mut last = LastPage::default();
        let mut first = last.pin(HostAddr(pages + 1))?;
        first.write(1);
        // Other pages in the same place: the pin that is shared still has the old one.
        map(pages, 2 * PAGE, READ_WRITE)?;
        let mut second = last.pin(HostAddr(pages + 2))?;
        second.write(2);
        assert_eq!(byte_at(pages + 2), 0);
        assert!(first.try_release());
        second.write(3);
        // The page behind it is another one, and after that the first one is looked up again.
        let third = last.pin(HostAddr(pages + PAGE))?;
        third.write(4);
        assert_eq!(byte_at(pages + PAGE), 4);
        let fourth = last.pin(HostAddr(pages + 2))?;
        fourth.write(5);
        assert_eq!(byte_at(pages + 2), 5);
        assert!(second.try_release());
        Ok(())
    }
}

#[kunit_tests(io_vectors)]
mod io_vectors_tests {
    use super::*;

    /// Lengths of the vectors.
    fn lengths(vectors: &mut IoVectors) -> [u32; SMALL_VECTORS] {
        let table = vectors.table();
        core::array::from_fn(|number| {
            if number < table.filled.into() {
                // SAFETY: One of the filled vectors.
                unsafe { (*table.start.add(number)).bv_len }
            } else {
                0
            }
        })
    }

    #[test]
    fn what_is_pinned_ends_with_the_room_and_is_cut_at_pages() -> Result {
        let pages = map(0, 16 * PAGE, READ_WRITE)?.0;
        let mut scratch = PageScratch::new()?;
        let mut vectors = IoVectors::new(false)?;
        vectors.begin(true);
        let at = HostAddr(pages + 512);
        let pinned = vectors.pin(at, 16 * PAGE - 512, &mut scratch)?;
        assert_eq!(pinned, SMALL_VECTORS * PAGE_SIZE - 512);
        assert_eq!(vectors.bytes() as usize, pinned);
        assert_eq!(
            lengths(&mut vectors),
            [3584, 4096, 4096, 4096, 4096, 4096, 4096, 4096]
        );
        assert!(vectors.is_aligned(511));
        assert!(!vectors.is_aligned(1023));
        assert_eq!(vectors.pin(HostAddr(pages), 512, &mut scratch)?, 0);
        Ok(())
    }

    #[test]
    fn trimming_takes_the_end_away() -> Result {
        let pages = map(0, 4 * PAGE, READ_WRITE)?.0;
        let mut scratch = PageScratch::new()?;
        let mut vectors = IoVectors::new(false)?;
        vectors.begin(true);
        assert_eq!(
            vectors.pin(HostAddr(pages + 96), 3 * PAGE, &mut scratch)?,
            12288
        );
        assert_eq!(lengths(&mut vectors), [4000, 4096, 4096, 96, 0, 0, 0, 0]);
        vectors.trim(96 + 96);
        assert_eq!(lengths(&mut vectors), [4000, 4096, 4000, 0, 0, 0, 0, 0]);
        assert_eq!(vectors.bytes(), 12288 - 192);
        vectors.trim(9000);
        assert_eq!(lengths(&mut vectors), [3096, 0, 0, 0, 0, 0, 0, 0]);
        // There is room again, and no more is taken than there is.
        assert_eq!(vectors.pin(HostAddr(pages), 8, &mut scratch)?, 8);
        vectors.trim(u32::MAX);
        assert_eq!(vectors.bytes(), 0);
        assert!(vectors.try_release());
        Ok(())
    }

    #[test]
    fn pages_of_one_folio_are_one_vector() -> Result {
        const HUGE: u64 = 2 << 20;
        // Who passes the eventfds has huge pages switched on too.
        if EVENTS.as_ref().is_none() {
            skip();
            return Ok(());
        }
        let start = map(0, 2 * HUGE, READ_WRITE)?.0.next_multiple_of(HUGE);
        assert!(copy_to_user(&[1], HostAddr(start)));
        let mut scratch = PageScratch::new()?;
        let mut vectors = IoVectors::new(true)?;
        vectors.begin(true);
        let pinned = vectors.pin(HostAddr(start + 512), 64 * 1024, &mut scratch)?;
        assert_eq!(pinned, 64 * 1024);
        assert_eq!(lengths(&mut vectors), [65536, 0, 0, 0, 0, 0, 0, 0]);
        vectors.trim(PAGE as u32 + 1);
        assert_eq!(lengths(&mut vectors), [61439, 0, 0, 0, 0, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn memory_of_others_is_not_pinned() -> Result {
        let constant = map(0, PAGE, READ)?;
        let mut scratch = PageScratch::new()?;
        let mut vectors = IoVectors::new(false)?;
        // A write only reads it.
        vectors.begin(false);
        assert_eq!(vectors.pin(constant, 512, &mut scratch)?, 512);
        vectors.begin(true);
        assert_eq!(vectors.pin(constant, 512, &mut scratch).err(), Some(EFAULT));
        assert_eq!(
            vectors.pin(HostAddr(0), 512, &mut scratch).err(),
            Some(EFAULT)
        );
        let kernel = HostAddr(u64::MAX & !0xFFFF);
        assert_eq!(vectors.pin(kernel, 512, &mut scratch).err(), Some(EFAULT));
        assert_eq!(vectors.bytes(), 0);
        Ok(())
    }
}

#[kunit_tests(pinned_extents)]
mod pinned_extents_tests {
    use super::*;

    #[test]
    fn extents_are_the_memory_of_the_process_in_order() -> Result {
        let pages = map(0, 4 * PAGE, READ_WRITE)?.0;
        let (start, len) = (pages + 100, 3 * PAGE);
        let mut extents = PinnedExtents::new(current_mm()?);
        let numbers = extents.pin(HostAddr(start), len)?;
        let mut offset = 0;
        for number in numbers.clone() {
            let (at, bytes) = (ExtentAddr::start_of(number), extents.bytes_of(number));
            assert!(bytes > 0);
            let last = ExtentAddr(at.0 + bytes - 1);
            assert!(extents.write(last, &[number as u8 + 1]));
            assert_eq!(byte_at(start + offset + bytes - 1), number as u8 + 1);
            assert!(copy_to_user(&[0x55], HostAddr(start + offset)));
            let mut found = [0];
            assert!(extents.read(at, &mut found));
            assert_eq!(found, [0x55]);
            // Nothing reaches from one into the next.
            assert!(!extents.write(last, &[0xEE; 2]));
            assert!(!extents.read(ExtentAddr(at.0 + bytes), &mut found));
            assert_eq!(byte_at(start + offset + bytes - 1), number as u8 + 1);
            offset += bytes;
        }
        assert_eq!(offset, len);
        assert_eq!(extents.bytes_of(numbers.end), 0);
        assert!(!extents.write(ExtentAddr::start_of(numbers.end), &[1]));
        assert!(!extents.write(ExtentAddr(u64::MAX), &[1]));
        Ok(())
    }

    #[test]
    fn a_leased_byte_is_in_an_extent() -> Result {
        let page = map(0, PAGE, READ_WRITE)?.0;
        let mut extents = PinnedExtents::new(current_mm()?);
        let numbers = extents.pin(HostAddr(page), 64)?;
        assert_eq!(numbers, 0..1);
        let extents = Arc::new(extents, GFP_KERNEL)?;
        let byte = LeasedByte::new(&extents, ExtentAddr(63)).ok_or(EFAULT)?;
        assert!(LeasedByte::new(&extents, ExtentAddr(64)).is_none());
        drop(extents);
        byte.write(6);
        assert_eq!(byte_at(page + 63), 6);
        Ok(())
    }

    #[test]
    fn memory_that_may_not_be_written_is_not_pinned() -> Result {
        let constant = map(0, PAGE, READ)?;
        let mut extents = PinnedExtents::new(current_mm()?);
        assert_eq!(extents.pin(constant, PAGE).err(), Some(EFAULT));
        assert_eq!(extents.pin(HostAddr(0), PAGE).err(), Some(EFAULT));
        let kernel = HostAddr(u64::MAX & !0xFFFF);
        assert_eq!(extents.pin(kernel, PAGE).err(), Some(EFAULT));
        assert_eq!(extents.bytes_of(0), 0);
        Ok(())
    }
}

#[kunit_tests(worker_thread)]
mod worker_thread_tests {
    use super::*;

    /// Counts a byte of the process up, as often as asked.
    #[pin_data]
    struct CountUp {
        byte: HostAddr,
        left: Atomic<i32>,
        #[pin]
        done: Completion,
    }

    impl Work for CountUp {
        fn is_pending(&self) -> bool {
            self.left.load(Relaxed) > 0
        }

        fn run(&self) {
            copy_to_user(&[byte_at(self.byte.0) + 1], self.byte);
            if self.left.fetch_add(-1, Relaxed) == 1 {
                self.done.complete_all();
            }
        }
    }

    // A vhost task is a thread of a process, which a kernel thread is not: the harness has both.
    #[test]
    fn a_kernel_thread_does_what_is_pending_and_stops() -> Result {
        let byte = map(0, PAGE, READ_WRITE)?;
        let work = Arc::pin_init(
            pin_init!(CountUp {
                byte,
                left: Atomic::new(0),
                done <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;
        let mm = current_mm()?;
        let worker = WorkerThread::spawn(ThreadKind::Kthread, work.clone(), Some(mm))?;
        assert_eq!(byte_at(byte.0), 0);
        work.left.store(3, Relaxed);
        worker.task()?.wake_up();
        work.done.wait_for_completion();
        drop(worker);
        // The thread is gone, and with it its share of the work.
        assert_eq!(byte_at(byte.0), 3);
        assert!(Arc::into_unique_or_drop(work).is_some());
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Requests without end from a thread of its own, while a test does something else to the device.

use crate::{
    memory::{GuestMemory, MIDDLE},
    vm::{Answer, Queue, Vm, OK},
};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use vblk_core::{
    addr::GuestAddr,
    testing::{BlockRequest, DriverMemory, UsedEntry},
};

/// Requests of a [`Load`]. Each has a slot, which it has to itself.
pub trait Traffic: Send + 'static {
    /// Number of slots: requests that are under way at once.
    const DEPTH: u64;

    /// The next request of a slot.
    fn next(&mut self, slot: u64) -> BlockRequest;

    /// Judges the answer to it. Panics if that is wrong.
    fn answered(&mut self, slot: u64, request: &BlockRequest, answer: Answer);
}

/// Reads of the beginning of the disk, each of which must succeed.
pub struct Reads {
    free: GuestAddr,
}

impl Traffic for Reads {
    const DEPTH: u64 = 16;

    fn next(&mut self, slot: u64) -> BlockRequest {
        let header = GuestAddr(self.free.0 + slot * 32);
        let data = GuestAddr(MIDDLE.guest + slot * 4096 + 512);
        BlockRequest::read(slot * 8, header, GuestAddr(header.0 + 16)).data(data, 4096)
    }

    fn answered(&mut self, _: u64, _: &BlockRequest, answer: Answer) {
        assert_eq!(answer, Answer::new(OK, 4097), "a request of the load");
    }
}

/// Places for the headers and the data of 32 requests.
pub struct Slots {
    free: GuestAddr,
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
}

impl Slots {
    /// Number of slots.
    pub const COUNT: u64 = 32;

    /// The memory of `vm` behind its rings.
    pub fn of(vm: &Vm) -> Self {
        let (free, memory) = (vm.free(), vm.memory.clone());
        Self { free, memory }
    }

    /// The data of one.
    pub fn data(slot: u64) -> GuestAddr {
        GuestAddr(MIDDLE.guest + slot * 4096)
    }

    /// A request for a block of 4096 bytes.
    pub fn request(&self, slot: u64, block: u64, write: bool) -> BlockRequest {
        let header = GuestAddr(self.free.0 + slot * 32);
        let status = GuestAddr(header.0 + 16);
        let request = match write {
            true => BlockRequest::write(block * 8, header, status),
            false => BlockRequest::read(block * 8, header, status),
        };
        request.data(Self::data(slot), 4096)
    }
}

/// A thread that keeps some requests under way on one queue.
pub struct Load<T: Traffic = Reads> {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<(Queue, T)>>,
}

impl Load {
    /// Starts [`Reads`] on `queue`, with headers and status bytes from `free` on.
    pub fn start(queue: Queue, memory: Arc<GuestMemory>, free: GuestAddr) -> Self {
        Self::of(Reads { free }, queue, memory)
    }
}

impl<T: Traffic> Load<T> {
    /// Starts such traffic on `queue`.
    pub fn of(mut traffic: T, mut queue: Queue, memory: Arc<GuestMemory>) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counter) = (stop.clone(), done.clone());
        let thread = thread::spawn(move || {
            run(&mut traffic, &mut queue, &memory, &stopped, &counter);
            (queue, traffic)
        });
        let thread = Some(thread);
        Self { stop, done, thread }
    }

    /// Returns the number of answers until now.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Waits until some more were answered.
    ///
    /// # Panics
    ///
    /// If the thread has ended: it panicked, and [`Self::finish`] tells how.
    pub fn await_progress(&self) {
        let goal = self.done() + 2 * T::DEPTH;
        while self.done() < goal {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the load stopped");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits for the requests that are under way and gives the queue back.
    ///
    /// # Panics
    ///
    /// If a request failed or was not answered.
    pub fn finish(self) -> Queue {
        self.finish_with_traffic().0
    }

    /// Does the same as [`Self::finish`], and gives the traffic back too.
    ///
    /// # Panics
    ///
    /// For the reasons of [`Self::finish`].
    pub fn finish_with_traffic(mut self) -> (Queue, T) {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<T: Traffic> Drop for Load<T> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test has failed for a reason of its own, which is told.
            drop(thread.join());
        }
    }
}

fn run<T: Traffic>(
    traffic: &mut T,
    queue: &mut Queue,
    memory: &GuestMemory,
    stop: &AtomicBool,
    done: &AtomicU64,
) {
    let mut idle: Vec<u64> = (0..T::DEPTH).collect();
    let mut flying: Vec<(u16, u64, BlockRequest)> = Vec::new();
    loop {
        while let Some(slot) = (!stop.load(Relaxed)).then(|| idle.pop()).flatten() {
            let request = traffic.next(slot);
            request.prepare(memory);
            let head = queue
                .driver
                .add(&request.buffers())
                .expect("room in the ring");
            flying.push((head, slot, request));
        }
        if flying.is_empty() {
            return;
        }
        queue.notify();
        let UsedEntry { id, len } = queue.next_used();
        let at = flying
            .iter()
            .position(|(head, ..)| u32::from(*head) == id)
            .expect("a request of ours");
        let (_, slot, request) = flying.swap_remove(at);
        let answer = Answer::new(memory.read_u8(request.status), len);
        traffic.answered(slot, &request, answer);
        idle.push(slot);
        done.fetch_add(1, Relaxed);
    }
}

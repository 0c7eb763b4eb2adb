// SPDX-License-Identifier: GPL-2.0

//! Requests without end from a thread of its own, while a test does something else to the device.

use crate::{
    memory::{
        GuestMemory,
        MIDDLE, //
    },
    vm::{
        Queue,
        OK, //
    },
};
use std::{
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering::Relaxed, //
        },
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Duration, //
};
use vblk_core::{
    addr::GuestAddr,
    testing::{
        BlockRequest,
        DriverMemory,
        UsedEntry, //
    },
};

/// A thread that keeps some requests under way on one queue.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Queue>>,
}

/// How many requests are under way at once.
const DEPTH: u64 = 16;

impl Load {
    /// Starts reads on `queue`, with headers and status bytes from `free` on. Each must succeed.
    pub fn start(queue: Queue, memory: Arc<GuestMemory>, free: GuestAddr) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counter) = (stop.clone(), done.clone());
        let thread = thread::spawn(move || run(queue, &memory, free, &stopped, &counter));
        let thread = Some(thread);
        Self { stop, done, thread }
    }

    /// How many were answered until now.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Waits until some more were answered.
    ///
    /// # Panics
    ///
    /// When the thread has ended: it panicked, and how is told by [`Self::finish`].
    pub fn await_progress(&self) {
        let goal = self.done() + 2 * DEPTH;
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
    /// When a request failed or was not answered.
    pub fn finish(mut self) -> Queue {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // The test has failed for a reason of its own, which is told.
            drop(thread.join());
        }
    }
}

fn run(
    mut queue: Queue,
    memory: &GuestMemory,
    free: GuestAddr,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Queue {
    let mut idle: Vec<BlockRequest> = (0..DEPTH).map(|slot| request(free, slot)).collect();
    let mut flying: Vec<(u16, BlockRequest)> = Vec::new();
    loop {
        while let Some(request) = (!stop.load(Relaxed)).then(|| idle.pop()).flatten() {
            request.prepare(memory);
            let head = queue
                .driver
                .add(&request.buffers())
                .expect("room in the ring");
            flying.push((head, request));
        }
        if flying.is_empty() {
            return queue;
        }
        queue.notify();
        let UsedEntry { id, len } = queue.next_used();
        let at = flying.iter().position(|(head, _)| u32::from(*head) == id);
        let (_, request) = flying.swap_remove(at.expect("a request of ours"));
        assert_eq!(
            (memory.read_u8(request.status), len),
            (OK, 4097),
            "a request of the load"
        );
        idle.push(request);
        done.fetch_add(1, Relaxed);
    }
}

fn request(free: GuestAddr, slot: u64) -> BlockRequest {
    let header = GuestAddr(free.0 + slot * 32);
    let data = GuestAddr(MIDDLE.guest + slot * 4096 + 512);
    BlockRequest::read(slot * 8, header, GuestAddr(header.0 + 16)).data(data, 4096)
}

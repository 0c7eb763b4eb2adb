// SPDX-License-Identifier: GPL-2.0

//! The thread of a disk: waits for kicks and completions, and acts on them.

use super::{
    counters::Counters,
    queue::Virtqueue,
    request::InFlight,
    submitter::{Served, Submitter},
    target::Target,
};
use crate::{
    backend::{Features, Position, QueueConfig},
    memory::Memory,
    sys::uring::Event,
};
use std::{io, sync::Arc};
use vblk_core::queue::{Popped, RingError};
use vmm_sys_util::eventfd::EventFd;

/// A disk to serve, with its queues.
pub struct Setup {
    pub target: Target,
    pub memory: Memory,
    pub features: Features,
    pub queues: Vec<QueueConfig>,
    /// Signalled when the thread is to end.
    pub stop: Arc<EventFd>,
    pub counters: Arc<Counters>,
    /// To be signalled when it ends of itself.
    pub died: EventFd,
}

/// Tells the device that the thread ends without being asked to, also by a panic.
struct ExitGuard {
    died: EventFd,
    asked: bool,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if !self.asked {
            let _ = self.died.write(1);
        }
    }
}

/// Serves the disk until told to stop. `realtime` says whether requests may have that priority.
/// Says through `begun` whether it could begin; `None` when it could not.
pub fn run(
    setup: Setup,
    realtime: bool,
    begun: impl FnOnce(io::Result<()>),
) -> Option<io::Result<Vec<Position>>> {
    let memory = setup.memory;
    let mut guard = ExitGuard {
        died: setup.died,
        asked: true,
    };
    let submitter = Submitter::new(
        &memory,
        setup.target,
        setup.features,
        setup.queues,
        setup.stop,
        &setup.counters,
        realtime,
    );
    let mut worker = match submitter {
        Ok(submitter) => Worker {
            submitter,
            counters: &setup.counters,
            stopping: false,
        },
        Err(e) => {
            begun(Err(e));
            return None;
        }
    };
    guard.asked = false;
    begun(Ok(()));
    let served = worker.serve();
    guard.asked = served.is_ok();
    let queues = &worker.submitter.queues;
    Some(served.map(|()| queues.iter().map(Virtqueue::position).collect()))
}

/// The loop of the thread: which queue is next, and what the ring reports.
struct Worker<'m> {
    submitter: Submitter<'m>,
    counters: &'m Counters,
    stopping: bool,
}

impl Worker<'_> {
    /// Turns until told to stop, and everything in flight is answered.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            for index in 0..self.submitter.queues.len() {
                self.drain(index);
            }
            self.notify()?;
            let in_flight = self.submitter.is_busy();
            let parked = self
                .submitter
                .queues
                .iter()
                .any(|queue| !queue.parked.is_empty());
            if self.stopping && !in_flight && !parked {
                return Ok(());
            }
            // A queue stays ready because its turn was over, then there is more to do at once; or
            // for want of a slot or a buffer, then there is something in flight to wait for.
            let blocked = self.submitter.is_full() || parked;
            let more = self.submitter.queues.iter().any(|queue| queue.ready);
            self.submitter.submit(!more || (blocked && in_flight))?;
            while let Some(event) = self.submitter.next_event() {
                self.handle(event);
            }
            self.notify()?;
        }
    }

    fn notify(&mut self) -> io::Result<()> {
        let counters = self.counters;
        self.submitter
            .queues
            .iter_mut()
            .try_for_each(|queue| queue.signal_used(counters))
    }

    fn handle(&mut self, event: Event<InFlight>) {
        match event {
            Event::Signalled(watch) => match self.submitter.queues.get_mut(watch) {
                Some(queue) => {
                    self.counters.kicks.add(1);
                    queue.ready = !queue.stopped;
                }
                None => self.stopping = true,
            },
            Event::Done {
                context,
                buffer,
                result,
            } => self.submitter.complete(context, buffer, result),
        }
    }

    /// Takes as much from a queue as there are slots for, but not more than it is long, so that
    /// the others have their turn.
    fn drain(&mut self, index: usize) {
        if !self.submitter.queues[index].ready {
            return;
        }
        if self.drain_ready(index).is_err() {
            let queue = &mut self.submitter.queues[index];
            queue.malformed(self.counters);
            queue.stopped = true;
            queue.ready = false;
            // Before the error eventfd, at which the device looks here.
            self.counters.stopped_queues.add(1);
        }
    }

    fn drain_ready(&mut self, index: usize) -> Result<(), RingError> {
        self.submitter.queues[index].disable_notify();
        for _ in 0..self.submitter.queues[index].size().get() {
            if self.submitter.is_full() {
                return Ok(());
            }
            let queue = &mut self.submitter.queues[index];
            let chain = match queue.parked.pop_front() {
                Some(chain) => chain,
                // Whatever else is there stays in the ring.
                None if self.stopping => {
                    queue.ready = false;
                    return Ok(());
                }
                None => match queue.pop()? {
                    Popped::Chain(head) => queue.note_taken(head),
                    Popped::OutOfRange(_) => {
                        queue.malformed(self.counters);
                        continue;
                    }
                    Popped::Empty => {
                        queue.ready = queue.enable_notify()?;
                        if queue.ready {
                            queue.disable_notify();
                            continue;
                        }
                        return Ok(());
                    }
                },
            };
            if let Served::Wait = self.submitter.serve_chain(index, chain) {
                self.submitter.queues[index].parked.push_front(chain);
                return Ok(());
            }
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The thread of a disk: waits for kicks and completions, and acts on them.

use super::{
    counters::Counters,
    memory,
    pool::Pool,
    queue::{
        Answer,
        Queue, //
    },
    request::{
        Direction,
        InFlight,
        Job,
        Next,
        Ticket, //
    },
    serve::Served,
    Target, //
};
use crate::{
    backend::{
        Features,
        Position,
        QueueConfig, //
    },
    memory::Memory,
    sys::{
        iobuf::Buffer,
        uring::{
            Event,
            Operation,
            Ring, //
        },
    },
};
use std::{
    io,
    sync::Arc, //
};
use vblk_core::{
    chain::Segment,
    features::bit,
    queue::Popped,
    ring::Impossible,
    table::{
        MemoryTable,
        Region, //
    },
};
use vmm_sys_util::eventfd::EventFd;

/// Most operations in flight. What the guest offers beyond that waits in its rings.
const MAX_SLOTS: usize = 1024;

/// What the thread is given.
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

/// Tells the owner that the thread ends without being asked to, also by a panic.
struct DeathNote {
    died: EventFd,
    asked: bool,
}

impl Drop for DeathNote {
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
    let mut note = DeathNote {
        died: setup.died,
        asked: true,
    };
    let mut worker = match Worker::new(
        &memory,
        setup.target,
        setup.features,
        setup.queues,
        setup.stop,
        &setup.counters,
        realtime,
    ) {
        Ok(worker) => worker,
        Err(e) => {
            begun(Err(e));
            return None;
        }
    };
    note.asked = false;
    begun(Ok(()));
    let served = worker.serve();
    note.asked = served.is_ok();
    Some(served.map(|()| worker.queues.iter().map(Queue::position).collect()))
}

/// Everything that the thread has.
pub(super) struct Worker<'m> {
    pub(super) memory: &'m Memory,
    pub(super) counters: &'m Counters,
    pub(super) target: Target,
    pub(super) indirect: bool,
    pub(super) realtime: bool,
    pub(super) table: MemoryTable<Vec<Region>>,
    pub(super) pool: Pool,
    ring: Ring<InFlight>,
    pub(super) queues: Vec<Queue<'m>>,
    /// Room for the buffers of one chain.
    pub(super) segments: Vec<Segment>,
    stopping: bool,
}

impl<'m> Worker<'m> {
    fn new(
        memory: &'m Memory,
        target: Target,
        features: Features,
        configs: Vec<QueueConfig>,
        stop: Arc<EventFd>,
        counters: &'m Counters,
        realtime: bool,
    ) -> io::Result<Self> {
        let mut queues = Vec::with_capacity(configs.len());
        let mut watched = Vec::with_capacity(configs.len() + 1);
        for config in configs {
            let (queue, kick) = Queue::new(memory, features, config).map_err(io::Error::other)?;
            queues.push(queue);
            watched.push(kick);
        }
        watched.push(stop);
        let entries: usize = queues.iter().map(|queue| usize::from(queue.size())).sum();
        let longest = queues.iter().map(Queue::size).max().unwrap_or(0);
        let slots = entries.clamp(1, MAX_SLOTS) as u32;
        let table =
            memory::table(memory).map_err(|e| io::Error::other(format!("memory table: {e:?}")))?;
        Ok(Self {
            memory,
            counters,
            indirect: features.has(bit::RING_INDIRECT_DESC),
            realtime,
            table,
            pool: Pool::new(memory.clone()),
            ring: Ring::new(&target.file, slots, watched)?,
            target,
            queues,
            segments: vec![Segment::default(); longest.into()],
            stopping: false,
        })
    }

    /// Turns until told to stop, and everything in flight is answered.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            for index in 0..self.queues.len() {
                self.drain(index);
            }
            self.notify()?;
            let in_flight = self.ring.in_flight() > 0;
            let parked = self.queues.iter().any(|queue| queue.parked.is_some());
            if self.stopping && !in_flight && !parked {
                return Ok(());
            }
            // A queue stays ready because its turn was over, then there is more to do at once; or
            // for want of a slot or a buffer, then there is something in flight to wait for.
            let blocked = self.ring.is_full() || parked;
            let more = self.queues.iter().any(|queue| queue.ready);
            self.ring.submit(!more || (blocked && in_flight))?;
            while let Some(event) = self.ring.next() {
                self.handle(event);
            }
            self.notify()?;
        }
    }

    fn notify(&mut self) -> io::Result<()> {
        let counters = self.counters;
        self.queues
            .iter_mut()
            .try_for_each(|queue| queue.notify(counters))
    }

    fn handle(&mut self, event: Event<InFlight>) {
        match event {
            Event::Signalled(watch) => match self.queues.get_mut(watch) {
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
            } => self.complete(context, buffer, result),
        }
    }

    /// Takes as much from a queue as there are slots for, but not more than it is long, so that
    /// the others have their turn.
    fn drain(&mut self, index: usize) {
        if !self.queues[index].ready {
            return;
        }
        if self.drain_ready(index).is_err() {
            let queue = &mut self.queues[index];
            queue.malformed(self.counters);
            queue.stopped = true;
            queue.ready = false;
        }
    }

    fn drain_ready(&mut self, index: usize) -> Result<(), Impossible> {
        self.queues[index].disable_notify();
        for _ in 0..self.queues[index].size() {
            if self.ring.is_full() {
                return Ok(());
            }
            let head = match self.queues[index].parked.take() {
                Some(head) => head,
                // Whatever else is there stays in the ring.
                None if self.stopping => {
                    self.queues[index].ready = false;
                    return Ok(());
                }
                None => match self.queues[index].pop()? {
                    Popped::Chain(head) => head,
                    Popped::OutOfRange(_) => {
                        self.queues[index].malformed(self.counters);
                        continue;
                    }
                    Popped::Empty => {
                        let queue = &mut self.queues[index];
                        queue.ready = queue.enable_notify()?;
                        if queue.ready {
                            queue.disable_notify();
                            continue;
                        }
                        return Ok(());
                    }
                },
            };
            if let Served::Wait = self.serve_chain(index, head) {
                self.queues[index].parked = Some(head);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Queues an operation; gives the request back when there is no slot.
    pub(super) fn start(
        &mut self,
        operation: Operation,
        buffer: Buffer,
        in_flight: InFlight,
    ) -> Result<(), InFlight> {
        let priority = in_flight.ticket.priority;
        let started = self.ring.start(operation, priority, buffer, in_flight);
        started.map_err(|(in_flight, buffer)| {
            self.release(&in_flight, buffer);
            in_flight
        })
    }

    fn release(&mut self, in_flight: &InFlight, buffer: Buffer) {
        if let Job::Transfer(transfer) = &in_flight.job {
            transfer.release(&mut self.pool, buffer);
        }
    }

    fn answer(&mut self, in_flight: &InFlight, answer: Answer) {
        let Ticket { queue, head, .. } = in_flight.ticket;
        self.queues[queue].answer(self.counters, head, answer);
    }

    /// Goes on with a request after the disk has done something for it.
    fn complete(&mut self, mut in_flight: InFlight, mut buffer: Buffer, result: io::Result<usize>) {
        let outcome = match &mut in_flight.job {
            Job::Flush => result.map(|_| Next::Done(0)),
            Job::Transfer(transfer) => transfer.advance(self.memory, &mut buffer, result),
            Job::Ranges(ranges) => ranges.advance(result),
        };
        let answer = match outcome {
            Ok(Next::Again(operation)) => {
                // The slot of the completion is free, so that this does not fail.
                if let Err(lost) = self.start(operation, buffer, in_flight) {
                    self.answer(&lost, lost.failed(&io::ErrorKind::OutOfMemory.into()));
                }
                return;
            }
            Ok(Next::Done(bytes)) => {
                self.count(&in_flight.job, bytes);
                in_flight.ticket.answer
            }
            Err(e) => {
                self.counters.io_errors.add(1);
                in_flight.failed(&e)
            }
        };
        self.release(&in_flight, buffer);
        self.answer(&in_flight, answer);
    }

    fn count(&self, job: &Job, bytes: u32) {
        match job {
            Job::Flush => self.counters.flushes.add(1),
            Job::Ranges(_) => {}
            Job::Transfer(transfer) => match transfer.direction() {
                Direction::Read => self.counters.bytes_read.add(bytes.into()),
                Direction::Write { .. } => self.counters.bytes_written.add(bytes.into()),
            },
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A disk as the guest sees it: the transport's registers before, a back-end behind.

use super::{
    mmio::{interrupt, Action, Transport, INTERRUPT_ACK, INTERRUPT_STATUS},
    used::UsedWatch,
};
use crate::{
    backend::{self, Backend, Features, Format, Offer, OfferSource, QueueConfig},
    devices::bus::Device,
    memory::Memory,
};
use std::sync::Arc;
use vblk_core::{
    config::{Queues, CONFIG_WCE},
    features::bit,
};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// The virtio device type of a disk.
const BLOCK: u32 = 2;

/// The queues of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtqueues {
    /// How many there are.
    pub count: u16,
    /// Most entries of each.
    pub size: u16,
    /// The driver may choose packed rings.
    pub packed: bool,
}

impl Virtqueues {
    /// The features that these queues do not have.
    fn without(&self) -> u64 {
        if self.packed {
            0
        } else {
            1 << bit::RING_PACKED
        }
    }
}

/// Is told that a back-end can't serve its disk.
pub type FailureHandler = Arc<dyn Fn(&backend::Error) + Send + Sync>;

/// Asks what to offer to the driver of a disk. Needs no lock on the disk, since the host may take
/// its time to answer.
#[derive(Clone)]
pub struct Prober {
    source: Arc<dyn OfferSource>,
    queues: Queues,
}

impl Prober {
    /// Returns what to offer now.
    ///
    /// # Errors
    ///
    /// As [`OfferSource::offer`].
    pub fn offer(&self) -> Result<Offer, backend::Error> {
        self.source.offer(self.queues)
    }
}

/// A virtio disk.
pub struct BlockDevice {
    transport: Transport,
    backend: Box<dyn Backend>,
    memory: Memory,
    prober: Prober,
    used: UsedWatch,
    /// For each queue, signalled by a kick of the guest.
    kicks: Vec<EventFd>,
    /// Signalled to interrupt the guest, for all queues and for changes of the configuration.
    call: EventFd,
    /// Signalled by the back-end for mistakes of the driver, and when a queue stops.
    err: EventFd,
    failed: FailureHandler,
}

impl BlockDevice {
    /// A disk with these queues. `failed` is told when the back-end does not start or stop.
    ///
    /// # Errors
    ///
    /// When there are no file descriptors left, and as [`OfferSource::offer`].
    pub fn new(
        backend: Box<dyn Backend>,
        memory: Memory,
        queues: Virtqueues,
        failed: FailureHandler,
    ) -> Result<Self, backend::Error> {
        let announced = Queues {
            count: queues.count,
            size: queues.size,
        };
        let prober = Prober {
            source: backend.offer_source(),
            queues: announced,
        };
        let offer = prober.offer()?;
        let ring_features = backend.ring_features() & !queues.without();
        let event = || {
            EventFd::new(EFD_NONBLOCK).map_err(|cause| backend::Error::Setup {
                step: "eventfd",
                cause,
            })
        };
        Ok(Self {
            transport: Transport::new(
                BLOCK,
                Features(ring_features | offer.features.0),
                offer.config.to_vec(),
                queues.count,
                queues.size,
            ),
            backend,
            memory,
            prober,
            used: UsedWatch::default(),
            kicks: (0..queues.count)
                .map(|_| event())
                .collect::<Result<_, _>>()?,
            call: event()?,
            err: event()?,
            failed,
        })
    }

    /// To be signalled when the guest kicks a queue, in the order of the queues.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// To interrupt the guest whenever it is signalled.
    pub fn call(&self) -> &EventFd {
        &self.call
    }

    /// Signalled when the driver has made a mistake, or a queue has stopped: then
    /// [`Self::check_queues`] is to be called.
    pub fn err(&self) -> &EventFd {
        &self.err
    }

    /// Asks what to offer to the driver, without this device.
    pub fn prober(&self) -> &Prober {
        &self.prober
    }

    /// Returns the back-end that serves the disk.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Stops serving the disk, once and for all.
    ///
    /// # Errors
    ///
    /// As [`Backend::stop`].
    pub fn stop(&mut self) -> Result<(), backend::Error> {
        self.backend.stop().map(drop)
    }

    /// Looks whether the disk has changed, in its length above all, and tells the driver.
    pub fn refresh(&mut self) {
        // A disk that does not answer is no reason to end the guest: its requests will fail.
        if let Ok(offer) = self.prober.offer() {
            self.renew(offer);
        }
    }

    /// Tells the driver what is new in `offer`.
    pub fn renew(&mut self, mut offer: Offer) {
        if let Some(writeback) = self.transport.config(CONFIG_WCE) {
            offer.config[CONFIG_WCE] = writeback;
        }
        self.transport.renew_config(&offer.config);
        self.tell_news();
    }

    /// Tells the driver that it must reset the device if a queue has stopped for good.
    pub fn check_queues(&mut self) {
        let stopped = |stats: backend::Stats| stats.stopped_queues > 0;
        if self.backend.stats().is_ok_and(stopped) {
            self.transport.fail();
            self.tell_news();
        }
    }

    /// One line with what the back-end has counted.
    pub fn summary(&self) -> String {
        backend::summary(&*self.backend)
    }

    fn tell_news(&self) {
        if self.transport.has_news() {
            let _ = self.call.write(1);
        }
    }

    /// The one thing that a driver may configure is the writeback switch, if it accepted that
    /// (virtio 1.2, 5.2.5).
    fn configure(&mut self, at: usize, value: u8) {
        if at != CONFIG_WCE || !self.transport.accepted().has(bit::BLK_CONFIG_WCE) {
            return;
        }
        let on = value & 1 != 0;
        match self.backend.set_writeback(on) {
            Ok(()) => self.transport.set_config(CONFIG_WCE, on.into()),
            Err(e) => (self.failed)(&e),
        }
    }

    fn start(&mut self) {
        let ready = self.transport.ready_queues().map(|(_, queue)| *queue);
        let format = Format::of(self.transport.accepted());
        self.used = UsedWatch::new(&self.memory, &*self.backend, format, ready.collect());
        match self.try_start() {
            // From here on the back-end says when there is something new, but not before.
            Ok(()) => self.refresh(),
            // The driver's mistake: it is told, and may reset the device.
            Err(backend::Error::Queue(_)) => {
                self.transport.fail();
                self.tell_news();
            }
            Err(e) => (self.failed)(&e),
        }
    }

    fn try_start(&mut self) -> Result<(), backend::Error> {
        let features = self.transport.accepted();
        let mut queues = Vec::new();
        for (index, registers) in self.transport.ready_queues() {
            let refused = backend::Error::Queue(index);
            let size = u16::try_from(registers.size).ok();
            let size = size.filter(|size| *size <= self.prober.queues.size);
            let size = size.ok_or(refused)?;
            let clone = |event: &EventFd| {
                event.try_clone().map_err(|cause| backend::Error::Setup {
                    step: "eventfd",
                    cause,
                })
            };
            queues.push(QueueConfig {
                index,
                size,
                desc: GuestAddress(registers.desc),
                avail: GuestAddress(registers.avail),
                used: GuestAddress(registers.used),
                base: Format::of(features).initial_base(),
                kick: clone(&self.kicks[usize::from(index)])?,
                call: clone(&self.call)?,
                err: Some(clone(&self.err)?),
                tracking: None,
            });
        }
        // A driver may begin without queues. There is nothing to serve then.
        if queues.is_empty() {
            return Ok(());
        }
        self.backend.start(&self.memory, features, queues)?;
        // The driver may use the switch before it is ready, and starting undoes that.
        if features.has(bit::BLK_CONFIG_WCE) && self.transport.config(CONFIG_WCE) == Some(0) {
            self.backend.set_writeback(false)?;
        }
        Ok(())
    }
}

impl Device for BlockDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == INTERRUPT_STATUS {
            let used = self.used.look(&self.memory, &*self.backend);
            self.transport.set_used(used);
        }
        self.transport.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (INTERRUPT_ACK, &[low, _, _, _]) = (offset, data) {
            if u32::from(low) & interrupt::USED != 0 {
                self.used.acknowledge();
            }
        }
        match self.transport.write(offset, data) {
            Action::None => {}
            Action::Start => self.start(),
            Action::Reset => {
                // As it was before a driver switched it.
                self.transport.set_config(CONFIG_WCE, 1);
                self.used = UsedWatch::default();
                if let Err(e) = self.stop() {
                    (self.failed)(&e);
                }
            }
            Action::Configure { at, value } => self.configure(at, value),
            // Kicks reach the back-end directly; this one did not match what KVM waits for.
            Action::Notify(queue) => {
                if let Some(kick) = self.kicks.get(usize::from(queue)) {
                    let _ = kick.write(1);
                }
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The device as one front-end has it: what was agreed on, its memory, its rings.
//!
//! Rings start and stop one by one, and a back-end starts and stops all that it has at once: it is
//! stopped, tells where each ring stands, and is started with those that are to be served now. What
//! was taken from a ring is answered before, so that nothing is lost or done twice.

use super::{
    channel::Notices,
    error::Refusal,
    memory::{self, Regions, SLOTS},
    message::{ConfigRange, Reply, Request, RingFile, RingState, TrackingSpec, MAX_CONFIG},
    ring::{index_of, number_of, Ring},
    tracking::{self, Tracking},
};
use crate::backend::{self, Backend, Features, Format, Offer, OfferSource};
use std::{os::fd::OwnedFd, sync::Arc};
use vblk_core::{
    config::{Queues, CONFIG_WCE},
    features::bit,
};
use vm_memory::MmapRegion;

/// Bit of the features that announces the protocol's own (`VHOST_USER_F_PROTOCOL_FEATURES`).
const PROTOCOL_FEATURES: u32 = 30;

/// Features of the protocol.
mod protocol {
    pub const MQ: u32 = 0;
    pub const LOG_SHMFD: u32 = 1;
    pub const REPLY_ACK: u32 = 3;
    pub const BACKEND_REQ: u32 = 5;
    pub const CONFIG: u32 = 9;
    pub const INFLIGHT_SHMFD: u32 = 12;
    pub const RESET_DEVICE: u32 = 13;
    pub const CONFIGURE_MEM_SLOTS: u32 = 15;

    pub const OFFERED: u64 = 1 << MQ
        | 1 << REPLY_ACK
        | 1 << BACKEND_REQ
        | 1 << CONFIG
        | 1 << RESET_DEVICE
        | 1 << CONFIGURE_MEM_SLOTS;
}

/// A disk for one front-end.
pub struct Device<'b> {
    backend: &'b mut dyn Backend,
    source: Arc<dyn OfferSource>,
    queues: Queues,
    offer: Offer,
    writeback: bool,
    features: Features,
    protocol: Features,
    regions: Regions,
    rings: Vec<Ring>,
    /// Where what is written is logged, when that is asked for.
    log: Option<Arc<MmapRegion>>,
    /// Where it is noted what is in flight.
    tracking: Option<Tracking>,
    notices: Option<Notices>,
}

impl<'b> Device<'b> {
    /// Creates a disk as a new front-end finds it.
    ///
    /// # Errors
    ///
    /// As [`OfferSource::offer`].
    pub fn new(backend: &'b mut dyn Backend, queues: Queues) -> Result<Self, backend::Error> {
        let source = backend.offer_source();
        let mut device = Self {
            offer: source.offer(queues)?,
            source,
            backend,
            queues,
            writeback: true,
            features: Features::default(),
            protocol: Features::default(),
            regions: Regions::default(),
            rings: Vec::new(),
            log: None,
            tracking: None,
            notices: None,
        };
        device.forget_rings();
        Ok(device)
    }

    /// Returns whether the front-end is told that a request was done, if it asks.
    pub fn tells_success(&self) -> bool {
        self.protocol.has(protocol::REPLY_ACK)
    }

    /// Performs a request.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]. Other rings are served as before.
    pub fn handle(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::GetFeatures => return Ok(Reply::Number(self.offered())),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetOwner => {}
            // The protocol gave it up, and asks those who still have it to disable the rings.
            Request::ResetOwner => {
                self.rings
                    .iter_mut()
                    .for_each(|ring| ring.is_enabled = false);
                self.serve()?;
            }
            Request::SetMemTable(table) => self.use_memory(Regions::map(table)?)?,
            Request::AddMemReg(spec, file) => {
                self.must_have(protocol::CONFIGURE_MEM_SLOTS)?;
                let mut regions = self.regions.clone();
                regions.add(spec, file)?;
                self.use_memory(regions)?;
            }
            Request::RemMemReg(spec) => {
                self.must_have(protocol::CONFIGURE_MEM_SLOTS)?;
                let mut regions = self.regions.clone();
                regions.remove(spec)?;
                self.use_memory(regions)?;
            }
            Request::GetMaxMemSlots => {
                self.must_have(protocol::CONFIGURE_MEM_SLOTS)?;
                return Ok(Reply::Number(SLOTS as u64));
            }
            Request::SetLogBase(spec, file) => {
                self.must_have(protocol::LOG_SHMFD)?;
                self.set_log(memory::map_part(file, spec.offset, spec.bytes)?)?;
                // Whether or not it asked: it waits for it.
                return Ok(Reply::Log(spec));
            }
            Request::SetLogFd => self.must_have(protocol::LOG_SHMFD)?,
            Request::GetProtocolFeatures => return Ok(Reply::Number(self.protocol_offered())),
            Request::SetProtocolFeatures(features) => {
                match features & !self.protocol_offered() {
                    0 => self.protocol = Features(features),
                    unknown => return Err(Refusal::Features(unknown)),
                };
            }
            Request::GetQueueNum => {
                self.must_have(protocol::MQ)?;
                return Ok(Reply::Number(self.queues.count.into()));
            }
            Request::SetBackendReqFd(file) => self.set_notices(file)?,
            Request::GetConfig(range) => {
                self.must_have(protocol::CONFIG)?;
                return Ok(self.config(range));
            }
            Request::SetConfig(range, bytes) => self.set_config(range, &bytes)?,
            Request::GetInflightFd(wanted) => return self.make_tracking(wanted),
            Request::SetInflightFd(spec, file) => self.set_tracking(spec, file)?,
            Request::ResetDevice => {
                self.must_have(protocol::RESET_DEVICE)?;
                self.reset()?;
            }
            Request::GetVringBase(index) => return self.stop_ring(index).map(Reply::Ring),
            request => self.set_ring(request)?,
        }
        Ok(Reply::Done)
    }

    fn set_ring(&mut self, request: Request) -> Result<(), Refusal> {
        let count = self.rings.len();
        match request {
            Request::SetVringNum(state) => {
                let (index, entries) = number_of(state, count)?;
                self.rings[index].set_size(entries)
            }
            Request::SetVringAddr(addresses) => {
                let index = index_of(addresses.index, count)?;
                self.rings[index].set_addresses(addresses)
            }
            Request::SetVringBase(state) => {
                let (index, base) = number_of(state, count)?;
                self.rings[index].set_base(base)
            }
            Request::SetVringEnable(state) => self.enable(state),
            Request::SetVringKick(RingFile { index, file }) => {
                let index = index_of(index, count)?;
                self.rings[index].set_kick(file)?;
                self.serve()
            }
            Request::SetVringCall(RingFile { index, file }) => {
                let index = index_of(index, count)?;
                self.rings[index].set_call(file)?;
                self.change_call(index)
            }
            Request::SetVringErr(RingFile { index, file }) => {
                let index = index_of(index, count)?;
                self.rings[index].set_err(file)?;
                self.serve_anew(index)
            }
            _ => Err(super::message::Malformed::Unknown.into()),
        }
    }

    /// Lets the back-end complete what it has, and lets go of everything.
    ///
    /// # Errors
    ///
    /// As [`Backend::stop`].
    pub fn stop(&mut self) -> Result<(), backend::Error> {
        self.stop_serving()
    }

    /// Looks whether the disk has changed, in its length above all, and tells the front-end.
    pub fn refresh(&mut self) {
        // A disk that does not answer is no reason to end anything: its requests will fail.
        let Ok(offer) = self.source.offer(self.queues) else {
            return;
        };
        let is_new = std::mem::replace(&mut self.offer, offer).config != offer.config;
        if let (true, Some(notices)) = (is_new, &mut self.notices) {
            if notices.config_changed().is_err() {
                self.notices = None;
            }
        }
    }

    fn offered(&self) -> u64 {
        let of_rings = self.backend.ring_features();
        let log = u64::from(self.backend.can_log()) << bit::LOG_ALL;
        of_rings | self.offer.features.0 | log | 1 << PROTOCOL_FEATURES
    }

    fn protocol_offered(&self) -> u64 {
        let backend = &self.backend;
        protocol::OFFERED
            | u64::from(backend.can_log()) << protocol::LOG_SHMFD
            | u64::from(backend.can_track()) << protocol::INFLIGHT_SHMFD
    }

    fn is_logging(&self) -> bool {
        self.features.has(bit::LOG_ALL)
    }

    /// Has the back-end log what it writes, if that is asked for.
    fn apply_log(&mut self) -> Result<(), Refusal> {
        let log = match (self.is_logging(), &self.log) {
            (true, None) => return Err(Refusal::NoLog),
            (true, Some(log)) => Some(log.clone()),
            (false, _) => None,
        };
        Ok(self.backend.set_log(log)?)
    }

    fn set_log(&mut self, log: MmapRegion) -> Result<(), Refusal> {
        let old = self.log.replace(Arc::new(log));
        if !self.is_logging() {
            return Ok(());
        }
        self.apply_log().inspect_err(|_| self.log = old)
    }

    /// Makes memory for notes of what is in flight. The front-end hands it in before it is used.
    fn make_tracking(&self, wanted: TrackingSpec) -> Result<Reply, Refusal> {
        self.must_have(protocol::INFLIGHT_SHMFD)?;
        let format = Format::of(self.features);
        let (spec, file) = tracking::make(wanted, format, self.queues.count)?;
        Ok(Reply::Tracking(spec, file))
    }

    fn set_tracking(&mut self, spec: TrackingSpec, file: OwnedFd) -> Result<(), Refusal> {
        self.must_have(protocol::INFLIGHT_SHMFD)?;
        if self.is_serving() {
            return Err(Refusal::RingRuns);
        }
        self.tracking = Some(Tracking::map(spec, file, self.queues.count)?);
        Ok(())
    }

    fn must_have(&self, feature: u32) -> Result<(), Refusal> {
        match self.protocol.has(feature) {
            true => Ok(()),
            false => Err(Refusal::NotAgreed),
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        let unknown = features & !self.offered();
        if unknown != 0 {
            return Err(Refusal::Features(unknown));
        }
        let features = Features(features);
        let changed = Features(features.0 ^ self.features.0);
        if self.is_serving() && changed == Features(1 << bit::LOG_ALL) {
            let old = std::mem::replace(&mut self.features, features);
            return self.apply_log().inspect_err(|_| self.features = old);
        }
        // The format of what is in the rings depends on them.
        if self.is_serving() && features != self.features {
            return Err(Refusal::RingRuns);
        }
        self.features = features;
        // Without the protocol's features there is no message to enable a ring.
        if !features.has(PROTOCOL_FEATURES) {
            self.rings
                .iter_mut()
                .for_each(|ring| ring.is_enabled = true);
        }
        self.serve()
    }

    fn enable(&mut self, state: RingState) -> Result<(), Refusal> {
        let (index, switch) = number_of(state, self.rings.len())?;
        if !self.features.has(PROTOCOL_FEATURES) {
            return Err(Refusal::NotAgreed);
        }
        self.rings[index].is_enabled = match switch {
            0 => false,
            1 => true,
            other => return Err(Refusal::NotASwitch(other)),
        };
        self.serve()
    }

    fn stop_ring(&mut self, index: u32) -> Result<RingState, Refusal> {
        let at = index_of(index, self.rings.len())?;
        self.rings[at].stop();
        self.serve()?;
        Ok(RingState {
            index,
            number: self.rings[at].base(Format::of(self.features)),
        })
    }

    fn set_notices(&mut self, file: OwnedFd) -> Result<(), Refusal> {
        self.must_have(protocol::BACKEND_REQ)?;
        self.notices = Some(Notices::new(file).map_err(Refusal::Notices)?);
        Ok(())
    }

    /// Returns a part of the configuration space. Fields that this device does not know read as
    /// zeroes; beyond what the protocol can carry there is nothing.
    fn config(&self, range: ConfigRange) -> Reply {
        let mut space = [0; MAX_CONFIG as usize];
        space[..self.offer.config.len()].copy_from_slice(&self.offer.config);
        space[CONFIG_WCE] = self.writeback.into();
        let end = range.offset.saturating_add(range.bytes);
        match space.get(range.offset as usize..end as usize) {
            Some(bytes) if !bytes.is_empty() => Reply::Config(range, bytes.to_vec()),
            _ => Reply::Config(ConfigRange { bytes: 0, ..range }, Vec::new()),
        }
    }

    /// Writes to the configuration space. The one thing that a driver may write is the writeback
    /// switch, if it accepted that (virtio 1.2, 5.2.5).
    fn set_config(&mut self, range: ConfigRange, bytes: &[u8]) -> Result<(), Refusal> {
        self.must_have(protocol::CONFIG)?;
        let is_switch =
            range.offset as usize == CONFIG_WCE && self.features.has(bit::BLK_CONFIG_WCE);
        let &[value] = bytes else {
            return Err(Refusal::ReadOnly);
        };
        if !is_switch {
            return Err(Refusal::ReadOnly);
        }
        let on = value & 1 != 0;
        // Starting undoes it, and does it again.
        if self.is_serving() {
            self.backend.set_writeback(on)?;
        }
        self.writeback = on;
        Ok(())
    }

    /// Stops and forgets all rings. Memory stays: a front-end that tells of each region once does
    /// not tell of it again.
    fn reset(&mut self) -> Result<(), Refusal> {
        self.stop_serving()?;
        self.forget_rings();
        self.features = Features::default();
        self.log = None;
        self.tracking = None;
        self.writeback = true;
        Ok(())
    }

    fn forget_rings(&mut self) {
        let count = usize::from(self.queues.count);
        self.rings = std::iter::repeat_with(Ring::default).take(count).collect();
    }

    /// Goes on with other memory. Rings that are not in it any more are not served.
    fn use_memory(&mut self, regions: Regions) -> Result<(), Refusal> {
        self.stop_serving()?;
        self.regions = regions;
        self.serve()
    }

    fn change_call(&mut self, index: usize) -> Result<(), Refusal> {
        let ring = &self.rings[index];
        if ring.is_served {
            // Front-ends do this whenever a guest masks an interrupt.
            let call = ring.call().map_err(backend::Error::setup("eventfd"))?;
            if self.backend.set_call(index as u16, call)? {
                return Ok(());
            }
        }
        self.serve_anew(index)
    }

    /// Starts a ring that is being served again, as what it was started with has changed.
    fn serve_anew(&mut self, index: usize) -> Result<(), Refusal> {
        if self.rings[index].is_served {
            self.stop_serving()?;
        }
        self.serve()
    }

    fn is_serving(&self) -> bool {
        self.rings.iter().any(|ring| ring.is_served)
    }

    fn stop_serving(&mut self) -> Result<(), backend::Error> {
        let positions = self.backend.stop();
        // Also when the back-end can't tell where they stand.
        for ring in &mut self.rings {
            ring.is_served = false;
        }
        for position in positions? {
            if let Some(ring) = self.rings.get_mut(usize::from(position.index)) {
                ring.stopped_at(position.base);
            }
        }
        Ok(())
    }

    /// Serves the rings that are to be served, and no others. A ring that can't be served is left
    /// out, and is the reason of the error.
    fn serve(&mut self) -> Result<(), Refusal> {
        if self
            .rings
            .iter()
            .all(|ring| ring.is_served == ring.is_wanted())
        {
            return Ok(());
        }
        self.stop_serving()?;
        let mut refusal = None;
        while let Err(error) = self.start() {
            // Without its kick it is not wanted any more, so that this ends.
            match error {
                backend::Error::Queue(index) | backend::Error::Notes(index)
                    if self.rings[usize::from(index)].is_wanted() =>
                {
                    self.rings[usize::from(index)].stop();
                }
                _ => {
                    self.rings.iter_mut().for_each(Ring::stop);
                    self.stop_serving()?;
                }
            }
            refusal.get_or_insert(error);
        }
        refusal.map_or(Ok(()), |error| Err(error.into()))
    }

    fn start(&mut self) -> Result<(), backend::Error> {
        let wanted = (0..).zip(&self.rings).filter(|(_, ring)| ring.is_wanted());
        let queues = wanted
            .map(|(index, ring)| {
                ring.config(index, &self.regions, self.features, self.tracking.as_ref())
            })
            .collect::<Result<Vec<_>, _>>()?;
        if queues.is_empty() {
            return Ok(());
        }
        let log = self.log.clone().filter(|_| self.is_logging());
        if self.is_logging() && log.is_none() {
            return Err(backend::Error::NoLog);
        }
        self.backend.set_log(log)?;
        self.backend
            .start(&self.regions.memory(), self.features, queues)?;
        for ring in &mut self.rings {
            ring.is_served = ring.is_wanted();
        }
        if self.features.has(bit::BLK_CONFIG_WCE) && !self.writeback {
            self.backend.set_writeback(false)?;
        }
        Ok(())
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // The next front-end finds a back-end that serves nothing.
        let _ = self.stop_serving();
    }
}

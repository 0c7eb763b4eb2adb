// SPDX-License-Identifier: GPL-2.0

//! One back-end with a guest of its own.

use super::{
    layout::{layout, BORDER, MEMORY_END, QUEUE_SIZE},
    recipe::{Recipe, Ring},
};
use crate::context::PATIENCE;
use std::{error::Error, path::Path, time::Instant};
use vblk::{
    backend::{Backend, Features, Kind, QueueConfig},
    disk::{Disk, Options},
    memory,
    seccomp::Filters,
    testing::Guest,
};
use vblk_core::{
    features::bit,
    ring::Format,
    testing::{Driver, DriverMemory, UsedEntry},
};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// A back-end at work.
pub struct Side {
    kind: Kind,
    backend: Box<dyn Backend>,
    driver: Driver<Guest>,
    kick: EventFd,
}

/// Outcome of some recipes.
pub struct Outcome {
    /// The length in the used entry of each recipe, if it has one. The order of the entries is
    /// up to the back-end.
    pub lens: Vec<Option<u32>>,
    /// The part of guest memory of each recipe.
    pub memory: Vec<Vec<u8>>,
}

impl Side {
    /// Starts a back-end on a disk.
    pub fn new(kind: Kind, disk: &Path, features: Features) -> Result<Self, Box<dyn Error>> {
        let options = Options {
            serial: Some("differential".to_owned()),
            ..Options::default()
        };
        let mut backend = kind.open(Disk::open(disk, &options)?, &Filters::default())?;
        let border = BORDER as usize;
        let memory = memory::anonymous(&[
            (GuestAddress(0), border),
            (GuestAddress(BORDER), MEMORY_END as usize - border),
        ])?;
        let layout = layout(Format::of(features));
        let event_idx = features.has(bit::RING_EVENT_IDX);
        let driver = Driver::new(Guest(memory.clone()), layout, event_idx);
        let kick = EventFd::new(EFD_NONBLOCK)?;
        let queue = QueueConfig {
            index: 0,
            size: QUEUE_SIZE,
            desc: GuestAddress(layout.desc.0),
            avail: GuestAddress(layout.avail.0),
            used: GuestAddress(layout.used.0),
            base: driver.base(),
            kick: kick.try_clone()?,
            call: EventFd::new(EFD_NONBLOCK)?,
            err: None,
            tracking: None,
        };
        backend.start(&memory, features, vec![queue])?;
        Ok(Self {
            kind,
            backend,
            driver,
            kick,
        })
    }

    /// Puts all recipes into the ring at once and waits until they are answered.
    pub fn perform(&mut self, recipes: &[Recipe]) -> Result<Outcome, Box<dyn Error>> {
        let heads: Vec<_> = recipes.iter().map(|recipe| self.put(recipe)).collect();
        let mut lens = vec![None; recipes.len()];
        let mut missing = heads.iter().flatten().count();
        if self.driver.publish_needs_kick() {
            self.kick.write(1)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while missing > 0 {
            match self.driver.poll_used() {
                Some(UsedEntry { id, len }) => {
                    let which = heads
                        .iter()
                        .position(|head| head.map(u32::from) == Some(id));
                    let which = which.expect("a request of ours");
                    assert_eq!(lens[which].replace(len), None, "answered twice");
                    missing -= 1;
                }
                None if Instant::now() < deadline => std::thread::yield_now(),
                None => panic!("{}: {missing} not answered: {recipes:?}", self.kind),
            }
        }
        if let Driver::Split(driver) = &mut self.driver {
            driver.forget_posted();
        }
        let area = |recipe: &Recipe| {
            let (start, len) = (recipe.area.start, recipe.area.bytes as usize);
            self.driver.memory().read_vec(start, len)
        };
        let memory = recipes.iter().map(area).collect();
        Ok(Outcome { lens, memory })
    }

    /// The head that will be given back, if any will.
    fn put(&mut self, recipe: &Recipe) -> Option<u16> {
        let memory = self.driver.memory();
        memory.write(recipe.area.start, &recipe.content);
        for (at, bytes) in &recipe.writes {
            memory.write(*at, bytes);
        }
        match &recipe.ring {
            Ring::Direct(bufs) => self.driver.add(bufs),
            Ring::Indirect(table, bufs) => self.driver.add_indirect(bufs, *table),
            Ring::Raw { descriptors, head } => {
                for (index, descriptor) in descriptors {
                    self.driver.split().write_descriptor(*index, descriptor);
                }
                self.driver.split().post(*head);
                Some(*head).filter(|head| *head < QUEUE_SIZE)
            }
        }
    }

    /// The counters that must not depend on the back-end.
    pub fn counters(&self) -> Result<[u64; 6], Box<dyn Error>> {
        let stats = self.backend.stats()?;
        Ok([
            stats.requests,
            stats.bytes_read,
            stats.bytes_written,
            stats.flushes,
            stats.io_errors,
            stats.malformed,
        ])
    }

    /// Stops the back-end.
    pub fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        let positions = self.backend.stop()?;
        let stands: Vec<_> = positions.iter().map(|position| position.base).collect();
        let all = match &self.driver {
            // Also what named no descriptor, and does not come back.
            Driver::Split(driver) => driver.next_avail().into(),
            Driver::Packed(_) => self.driver.base(),
        };
        assert_eq!(stands, [all], "{}: where it stopped", self.kind);
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! One ring, as the front-end has set it up so far.

use super::{
    error::Refusal,
    memory::Regions,
    message::{RingAddresses, RingState},
    tracking::Tracking,
};
use crate::backend::{Error, Features, Format, QueueConfig};
use std::{fs, io, os::fd::AsRawFd, os::fd::OwnedFd};
use vblk_core::{queue::QueueSize, uapi::VRING_F_LOG};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Offsets of the indices in the rings of the split format (virtio 1.2, 2.7.6 and 2.7.8).
const INDEX_AT: u64 = 2;

/// A ring.
#[derive(Debug, Default)]
pub struct Ring {
    size: Option<u16>,
    addresses: Option<RingAddresses>,
    /// None was told: the ring is new.
    base: Option<u32>,
    /// The position is what the back-end told, not the front-end.
    is_ours: bool,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    err: Option<EventFd>,
    /// The front-end has said so, where it has to.
    pub is_enabled: bool,
    /// The back-end has it.
    pub is_served: bool,
}

impl Ring {
    /// Sets the number of entries.
    pub fn set_size(&mut self, number: u32) -> Result<(), Refusal> {
        self.must_stand()?;
        let size = QueueSize::new(number).ok_or(Refusal::RingSize(number))?;
        self.size = Some(size.get());
        Ok(())
    }

    /// Sets the addresses.
    pub fn set_addresses(&mut self, addresses: RingAddresses) -> Result<(), Refusal> {
        // Front-ends do this to have the ring logged, which it is together with all that is written.
        let is_same = |old: &RingAddresses| {
            RingAddresses {
                flags: old.flags,
                ..addresses
            } == *old
        };
        if !self.addresses.as_ref().is_some_and(is_same) {
            self.must_stand()?;
        }
        if addresses.flags & !(1 << VRING_F_LOG) != 0 {
            return Err(Refusal::Flags(addresses.flags));
        }
        self.addresses = Some(addresses);
        Ok(())
    }

    /// Sets the position to begin at.
    pub fn set_base(&mut self, base: u32) -> Result<(), Refusal> {
        self.must_stand()?;
        self.base = Some(base);
        self.is_ours = false;
        Ok(())
    }

    /// Takes the position at which the back-end has stopped.
    pub fn stopped_at(&mut self, base: u32) {
        self.base = Some(base);
        self.is_ours = true;
        self.is_served = false;
    }

    /// Returns the position to go on at.
    pub fn base(&self, format: Format) -> u32 {
        self.base.unwrap_or(format.initial_base())
    }

    /// Sets what the driver signals; without it, the ring is not served.
    pub fn set_kick(&mut self, file: Option<OwnedFd>) -> Result<(), Refusal> {
        self.kick = file.map(event).transpose()?;
        Ok(())
    }

    /// Sets what is signalled for an interrupt, and signals it: one may have been lost with an
    /// earlier process, and a driver takes one too many for none.
    pub fn set_call(&mut self, file: Option<OwnedFd>) -> Result<(), Refusal> {
        self.call = file.map(event).transpose()?;
        if let Some(call) = &self.call {
            let _ = call.write(1);
        }
        Ok(())
    }

    /// Sets what is signalled for mistakes of the driver.
    pub fn set_err(&mut self, file: Option<OwnedFd>) -> Result<(), Refusal> {
        self.err = file.map(event).transpose()?;
        Ok(())
    }

    /// Returns a duplicate of what is signalled for an interrupt, or of an eventfd that nobody
    /// looks at.
    pub fn call(&self) -> io::Result<EventFd> {
        match &self.call {
            Some(call) => call.try_clone(),
            None => EventFd::new(EFD_NONBLOCK),
        }
    }

    /// Forgets what the front-end has set, but not where the ring stands.
    pub fn stop(&mut self) {
        self.kick = None;
    }

    /// Returns whether the back-end has to serve it.
    pub fn is_wanted(&self) -> bool {
        self.is_enabled && self.kick.is_some()
    }

    /// Returns the ring for a back-end, at the place where it has to go on.
    pub fn config(
        &self,
        index: u16,
        regions: &Regions,
        features: Features,
        tracking: Option<&Tracking>,
    ) -> Result<QueueConfig, Error> {
        let refused = || Error::Queue(index);
        let (size, at) = self.size.zip(self.addresses).ok_or_else(refused)?;
        let part = |user| regions.translate(user).ok_or_else(refused);
        let (desc, avail, used) = (part(at.desc)?, part(at.avail)?, part(at.used)?);
        let format = Format::of(features);
        let base = match format {
            Format::Split if !self.is_ours => self.caught_up(regions, size, avail, used),
            Format::Split | Format::Packed => self.base(format),
        };
        let clone = |event: &EventFd| event.try_clone();
        let kick = self.kick.as_ref().ok_or_else(refused)?;
        let failed = Error::setup("eventfd");
        let events = || -> io::Result<_> {
            let err = self.err.as_ref().map(clone).transpose()?;
            Ok((kick.try_clone()?, self.call()?, err))
        };
        let (kick, call, err) = events().map_err(failed)?;
        Ok(QueueConfig {
            index,
            size,
            desc,
            avail,
            used,
            base,
            kick,
            call,
            err,
            tracking: tracking.map(|it| it.of_queue(format, index)).transpose()?,
        })
    }

    /// Returns where to begin in a split ring, of which the front-end told a position.
    ///
    /// What a back-end has taken, it has answered before it lets go of the disk. A front-end that
    /// has lost the connection looks at the used index at that moment, too early: the process
    /// before this one, or the module on its behalf, was still answering. Everything up to the
    /// used index is done, and must not be done again.
    fn caught_up(
        &self,
        regions: &Regions,
        size: u16,
        avail: GuestAddress,
        used: GuestAddress,
    ) -> u32 {
        let index =
            |ring: GuestAddress| regions.read_u16(GuestAddress(ring.0.checked_add(INDEX_AT)?));
        let told = self.base(Format::Split);
        match (u16::try_from(told), index(avail), index(used)) {
            (Ok(told), Some(avail), Some(used)) => caught_up(told, size, avail, used).into(),
            // The back-end refuses it.
            _ => told,
        }
    }

    fn must_stand(&self) -> Result<(), Refusal> {
        match self.is_served {
            true => Err(Refusal::RingRuns),
            false => Ok(()),
        }
    }
}

/// Returns the used index if it lies between the position that was told and the available index,
/// and these are not further apart than the ring is long; otherwise the position.
fn caught_up(told: u16, size: u16, avail: u16, used: u16) -> u16 {
    let (answered, offered) = (used.wrapping_sub(told), avail.wrapping_sub(told));
    match answered <= offered && answered <= size {
        true => used,
        false => told,
    }
}

/// Returns the number and the index of a ring that there is.
pub fn number_of(state: RingState, rings: usize) -> Result<(usize, u32), Refusal> {
    Ok((index_of(state.index, rings)?, state.number))
}

/// Returns the index of a ring that there is.
pub fn index_of(index: u32, rings: usize) -> Result<usize, Refusal> {
    match usize::try_from(index) {
        Ok(at) if at < rings => Ok(at),
        _ => Err(Refusal::NoSuchRing(index)),
    }
}

/// Takes a file for an eventfd, if it is one: a write to a pipe could wait for ever.
fn event(file: OwnedFd) -> Result<EventFd, Refusal> {
    let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match name {
        Ok(name) if name.as_os_str() == "anon_inode:[eventfd]" => {
            Ok(crate::sys::socket::event(file))
        }
        _ => Err(Refusal::NotAnEvent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_since_is_not_done_again() {
        for (told, avail, used, begins_at) in [
            (0, 0, 0, 0),
            (0, 9, 0, 0),
            (3, 9, 5, 5),
            (3, 9, 9, 9),
            // Across the wrap.
            (65534, 4, 1, 1),
            (65534, 65535, 65535, 65535),
        ] {
            assert_eq!(caught_up(told, 16, avail, used), begins_at);
        }
    }

    #[test]
    fn an_index_that_can_not_be_is_not_followed() {
        for (told, avail, used) in [
            // Behind what was told; beyond what there is; further than the ring is long.
            (5, 9, 3),
            (5, 9, 10),
            (5, 100, 30),
        ] {
            assert_eq!(caught_up(told, 16, avail, used), told);
        }
    }
}

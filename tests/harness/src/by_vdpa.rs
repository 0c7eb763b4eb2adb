// SPDX-License-Identifier: GPL-2.0

//! A device that is served through vhost-vdpa, by the commands of `/dev/vhost-blk-rs`: what is set up
//! before a disk is attached is remembered, and a vDPA device made then.

use crate::{
    sys::{poll::EventFd, Errno},
    vhost_vdpa::{status, Access, VdpaDevice, VhostVdpa},
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};
use vblk_core::{
    config::CONFIG_WCE,
    features::{bit, Features},
    request::ID_BYTES,
    uapi::{
        MemoryRegion, Stats, VdpaAdd, VringAddr, VDPA_PACKED, VHOST_SET_VRING_CALL,
        VHOST_SET_VRING_KICK,
    },
};

/// What is set up, and the device while there is one.
#[derive(Default)]
pub struct ByVdpa(Mutex<State>);

#[derive(Default)]
struct State {
    /// Closed before the device is deleted.
    attached: Option<(VhostVdpa, VdpaDevice)>,
    features: u64,
    regions: Vec<MemoryRegion>,
    vrings: Vec<Vring>,
    serial: [u8; ID_BYTES],
    writeback: Option<u32>,
    past: Stats,
}

#[derive(Default)]
struct Vring {
    num: u32,
    base: u32,
    /// In the harness.
    addr: VringAddr,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
}

impl ByVdpa {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a queue that is not served.
    fn vring(&self, index: u32, change: impl FnOnce(&mut Vring)) -> Result<(), Errno> {
        let state = &mut *self.state();
        if state.attached.is_some() {
            return Err(Errno::EBUSY);
        }
        while state.vrings.len() <= index as usize {
            state.vrings.push(Vring::default());
        }
        change(&mut state.vrings[index as usize]);
        Ok(())
    }

    /// Sets the features to ask for.
    pub fn set_features(&self, features: u64) {
        let state = &mut *self.state();
        state.features = features;
        state.writeback = None;
    }

    /// Exchanges what is mapped.
    pub fn set_mem_table(&self, regions: &[MemoryRegion]) -> Result<(), Errno> {
        let state = &mut *self.state();
        if let Some((node, _)) = &state.attached {
            for region in &state.regions {
                node.unmap(region)?;
            }
            for region in regions {
                node.map(region, Access::ReadWrite)?;
            }
        }
        state.regions = regions.to_vec();
        Ok(())
    }

    /// Sets the entries of a ring.
    pub fn set_num(&self, index: u32, num: u32) -> Result<(), Errno> {
        self.vring(index, |vring| vring.num = num)
    }

    /// Sets the position to begin at.
    pub fn set_base(&self, index: u32, base: u32) -> Result<(), Errno> {
        self.vring(index, |vring| vring.base = base)
    }

    /// Sets where the ring lies in the harness.
    pub fn set_addr(&self, addr: &VringAddr) -> Result<(), Errno> {
        self.vring(addr.index, |vring| vring.addr = *addr)
    }

    /// Sets an eventfd, also of a queue that is served.
    pub fn set_event(
        &self,
        command: u32,
        index: u32,
        event: Option<&EventFd>,
    ) -> Result<(), Errno> {
        let fd = event
            .map(|event| event.as_fd().try_clone_to_owned())
            .transpose()?;
        let state = &mut *self.state();
        if let Some((node, _)) = &state.attached {
            node.set_file(command, index, fd.as_ref().map_or(-1, AsRawFd::as_raw_fd))?;
        }
        while state.vrings.len() <= index as usize {
            state.vrings.push(Vring::default());
        }
        let vring = &mut state.vrings[index as usize];
        match command {
            VHOST_SET_VRING_KICK => vring.kick = fd,
            VHOST_SET_VRING_CALL => vring.call = fd,
            // vhost-vdpa has no error eventfd.
            _ => (),
        }
        Ok(())
    }

    /// Returns the position of a queue.
    pub fn base(&self, index: u32) -> Result<u32, Errno> {
        let state = &*self.state();
        match &state.attached {
            Some((node, _)) => node.base(index),
            None => Ok(state.vrings[index as usize].base),
        }
    }

    /// Sets the answer to GET_ID, for the next disk.
    pub fn set_serial(&self, serial: &[u8; ID_BYTES]) {
        self.state().serial = *serial;
    }

    /// Switches between writing back and writing through.
    pub fn set_writeback(&self, on: u32) -> Result<(), Errno> {
        let state = &mut *self.state();
        state.writeback = Some(on);
        match &state.attached {
            Some((node, _)) => node.set_config(CONFIG_WCE as u32, &[on as u8]),
            None => Ok(()),
        }
    }

    /// Makes a device with the disk, and starts it as a VMM does whose driver is ready.
    pub fn attach(&self, disk: &File) -> Result<(), Errno> {
        let state = &mut *self.state();
        let packed = Features(state.features).has(bit::RING_PACKED);
        let add = VdpaAdd {
            flags: if packed { VDPA_PACKED } else { 0 },
            queues: state.vrings.len() as u32,
            queue_size: state
                .vrings
                .iter()
                .map(|vring| vring.num)
                .max()
                .unwrap_or(0),
            serial: state.serial,
            ..VdpaAdd::default()
        };
        let device = VdpaDevice::new(disk, add)?;
        let node = device.open()?;
        state.start(&node)?;
        state.attached = Some((node, device));
        Ok(())
    }

    /// Stops and deletes the device.
    pub fn detach(&self) -> Result<(), Errno> {
        let state = &mut *self.state();
        // As a whole, so that the node is closed before the device is deleted, which waits for that.
        let Some(attached) = state.attached.take() else {
            return Ok(());
        };
        let (node, device) = &attached;
        node.suspend()?;
        for (index, vring) in (0..).zip(&mut state.vrings) {
            vring.base = node.base(index)?;
            state.past += &device.stats(index)?;
        }
        state.past.stopped_queues = 0;
        node.set_status(0)
    }

    /// Returns what was counted on all queues.
    pub fn stats(&self) -> Result<Stats, Errno> {
        let state = &*self.state();
        let mut stats = state.past;
        if let Some((_, device)) = &state.attached {
            for index in 0..state.vrings.len() as u32 {
                stats += &device.stats(index)?;
            }
        }
        Ok(stats)
    }
}

impl State {
    fn start(&self, node: &VhostVdpa) -> Result<(), Errno> {
        node.set_status(status::DRIVER)?;
        // What the disk can't do is not on offer.
        let asked = self.features & node.features()?;
        node.set_features(asked | 1 << bit::VERSION_1 | 1 << bit::ACCESS_PLATFORM)?;
        let ready = status::DRIVER | status::FEATURES_OK;
        node.set_status(ready)?;
        for region in &self.regions {
            node.map(region, Access::ReadWrite)?;
        }
        if let Some(on) = self.writeback {
            node.set_config(CONFIG_WCE as u32, &[on as u8])?;
        }
        for (index, vring) in (0..).zip(&self.vrings) {
            node.set_num(index, vring.num)?;
            node.set_base(index, vring.base)?;
            node.set_addr(&self.in_guest(&vring.addr))?;
            let fd = |file: &Option<OwnedFd>| file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            node.set_file(VHOST_SET_VRING_KICK, index, fd(&vring.kick))?;
            node.set_file(VHOST_SET_VRING_CALL, index, fd(&vring.call))?;
            node.enable(index, true)?;
        }
        node.set_status(ready | status::DRIVER_OK)
    }

    /// Returns the guest addresses of a ring that lies there in the harness.
    fn in_guest(&self, addr: &VringAddr) -> VringAddr {
        let of = |host: u64| {
            let found = self.regions.iter().find_map(|region| {
                let offset = host.checked_sub(region.userspace_addr)?;
                (offset < region.memory_size).then(|| region.guest_phys_addr + offset)
            });
            // Where nothing is mapped.
            found.unwrap_or(host)
        };
        VringAddr {
            desc_user_addr: of(addr.desc_user_addr),
            used_user_addr: of(addr.used_user_addr),
            avail_user_addr: of(addr.avail_user_addr),
            ..*addr
        }
    }
}

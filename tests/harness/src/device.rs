// SPDX-License-Identifier: GPL-2.0

//! `/dev/vhost-blk-rs` and its ioctls, one method each. No sequence is implied: tests call them
//! in wrong orders too.

use crate::{
    by_vdpa::ByVdpa,
    sys::{
        ioctl::{self, Plain},
        poll::EventFd,
        Errno,
    },
};
use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use vblk_core::{
    config::CONFIG_BYTES,
    request::ID_BYTES,
    uapi::{
        self, ConfigHeader, Info, MemoryHeader, MemoryRegion, Stats, VringAddr, VringFile,
        VringState, VringWorker, WorkerState, CONFIG_ROOM,
    },
};

/// The module's device node.
pub const PATH: &str = "/dev/vhost-blk-rs";

/// Set when devices are served through vhost-vdpa. One test runs at a time.
static BY_VDPA: AtomicBool = AtomicBool::new(false);

/// Chooses whether devices are served through vhost-vdpa.
pub fn use_vdpa(by_vdpa: bool) {
    BY_VDPA.store(by_vdpa, Relaxed);
}

/// An open device.
pub struct Device {
    file: File,
    /// There when it is served through vhost-vdpa: most commands go there.
    vdpa: Option<ByVdpa>,
}

impl Device {
    /// Opens it, without becoming its owner.
    pub fn open() -> Result<Self, Errno> {
        let file = OpenOptions::new().read(true).write(true).open(PATH)?;
        let vdpa = BY_VDPA.load(Relaxed).then(ByVdpa::default);
        Ok(Self { file, vdpa })
    }

    /// A device that was opened elsewhere.
    pub fn from_file(file: File) -> Self {
        let vdpa = None;
        Self { file, vdpa }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Any command with any argument of sufficient length.
    pub fn call(&self, command: u32, argument: &mut [u8]) -> Result<i32, Errno> {
        ioctl::with_bytes(self, command, argument)
    }

    fn set(&self, command: u32, argument: &[u8]) -> Result<(), Errno> {
        self.call(command, &mut argument.to_vec()).map(drop)
    }

    /// VHOST_SET_OWNER.
    pub fn set_owner(&self) -> Result<(), Errno> {
        if self.vdpa.is_some() {
            return Ok(());
        }
        ioctl::plain(self, Plain::SetOwner, 0).map(drop)
    }

    /// VHOST_RESET_OWNER.
    pub fn reset_owner(&self) -> Result<(), Errno> {
        ioctl::plain(self, Plain::ResetOwner, 0).map(drop)
    }

    /// VHOST_GET_FEATURES.
    pub fn features(&self) -> Result<u64, Errno> {
        self.get_u64(uapi::VHOST_GET_FEATURES)
    }

    /// VHOST_SET_FEATURES.
    pub fn set_features(&self, features: u64) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            vdpa.set_features(features);
            return Ok(());
        }
        self.set(uapi::VHOST_SET_FEATURES, &features.to_ne_bytes())
    }

    /// VHOST_GET_BACKEND_FEATURES.
    pub fn backend_features(&self) -> Result<u64, Errno> {
        self.get_u64(uapi::VHOST_GET_BACKEND_FEATURES)
    }

    /// VHOST_SET_BACKEND_FEATURES.
    pub fn set_backend_features(&self, features: u64) -> Result<(), Errno> {
        self.set(uapi::VHOST_SET_BACKEND_FEATURES, &features.to_ne_bytes())
    }

    /// VHOST_SET_MEM_TABLE.
    pub fn set_mem_table(&self, regions: &[MemoryRegion]) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_mem_table(regions);
        }
        self.set(uapi::VHOST_SET_MEM_TABLE, &mem_table(0, regions))
    }

    /// VHOST_SET_VRING_NUM.
    pub fn set_vring_num(&self, index: u32, num: u32) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_num(index, num);
        }
        self.set(
            uapi::VHOST_SET_VRING_NUM,
            &VringState { index, num }.to_bytes(),
        )
    }

    /// VHOST_SET_VRING_BASE.
    pub fn set_vring_base(&self, index: u32, num: u32) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_base(index, num);
        }
        self.set(
            uapi::VHOST_SET_VRING_BASE,
            &VringState { index, num }.to_bytes(),
        )
    }

    /// VHOST_GET_VRING_BASE.
    pub fn vring_base(&self, index: u32) -> Result<u32, Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.base(index);
        }
        let mut bytes = VringState { index, num: 0 }.to_bytes();
        self.call(uapi::VHOST_GET_VRING_BASE, &mut bytes)?;
        Ok(VringState::from_bytes(&bytes).num)
    }

    /// VHOST_SET_LOG_BASE.
    pub fn set_log_base(&self, base: u64) -> Result<(), Errno> {
        self.set(uapi::VHOST_SET_LOG_BASE, &base.to_ne_bytes())
    }

    /// VHOST_SET_VRING_BUSYLOOP_TIMEOUT.
    pub fn set_vring_busyloop_timeout(&self, index: u32, us: u32) -> Result<(), Errno> {
        let state = VringState { index, num: us };
        self.set(uapi::VHOST_SET_VRING_BUSYLOOP_TIMEOUT, &state.to_bytes())
    }

    /// VHOST_GET_VRING_BUSYLOOP_TIMEOUT.
    pub fn vring_busyloop_timeout(&self, index: u32) -> Result<u32, Errno> {
        let mut bytes = VringState { index, num: 0 }.to_bytes();
        self.call(uapi::VHOST_GET_VRING_BUSYLOOP_TIMEOUT, &mut bytes)?;
        Ok(VringState::from_bytes(&bytes).num)
    }

    /// VHOST_SET_VRING_ADDR.
    pub fn set_vring_addr(&self, addr: &VringAddr) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_addr(addr);
        }
        self.set(uapi::VHOST_SET_VRING_ADDR, &addr.to_bytes())
    }

    /// VHOST_SET_VRING_KICK.
    pub fn set_vring_kick(&self, index: u32, event: Option<&EventFd>) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_event(uapi::VHOST_SET_VRING_KICK, index, event);
        }
        self.set_file(uapi::VHOST_SET_VRING_KICK, index, event_fd(event))
    }

    /// VHOST_SET_VRING_CALL.
    pub fn set_vring_call(&self, index: u32, event: Option<&EventFd>) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_event(uapi::VHOST_SET_VRING_CALL, index, event);
        }
        self.set_file(uapi::VHOST_SET_VRING_CALL, index, event_fd(event))
    }

    /// VHOST_SET_VRING_ERR.
    pub fn set_vring_err(&self, index: u32, event: Option<&EventFd>) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_event(uapi::VHOST_SET_VRING_ERR, index, event);
        }
        self.set_file(uapi::VHOST_SET_VRING_ERR, index, event_fd(event))
    }

    /// VHOST_BLK_SET_BACKEND with a disk.
    pub fn attach(&self, disk: &File) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.attach(disk);
        }
        self.set_file(uapi::VHOST_BLK_SET_BACKEND, 0, disk.as_raw_fd())
    }

    /// VHOST_BLK_SET_BACKEND without one.
    pub fn detach(&self) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.detach();
        }
        self.set_file(uapi::VHOST_BLK_SET_BACKEND, 0, uapi::FD_UNBIND)
    }

    /// Any command that takes a file.
    pub fn set_file(&self, command: u32, index: u32, fd: i32) -> Result<(), Errno> {
        self.set(command, &VringFile { index, fd }.to_bytes())
    }

    /// VHOST_BLK_SET_SERIAL.
    pub fn set_serial(&self, serial: &[u8; ID_BYTES]) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            vdpa.set_serial(serial);
            return Ok(());
        }
        self.set(uapi::VHOST_BLK_SET_SERIAL, serial)
    }

    /// VHOST_BLK_SET_WRITEBACK.
    pub fn set_writeback(&self, on: u32) -> Result<(), Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.set_writeback(on);
        }
        self.set(uapi::VHOST_BLK_SET_WRITEBACK, &on.to_ne_bytes())
    }

    /// VHOST_BLK_SET_CONFIG_CALL.
    pub fn set_config_call(&self, event: Option<&EventFd>) -> Result<(), Errno> {
        self.set(
            uapi::VHOST_BLK_SET_CONFIG_CALL,
            &event_fd(event).to_ne_bytes(),
        )
    }

    /// VHOST_BLK_SET_MEMORY_PINNED.
    pub fn set_memory_pinned(&self, ahead: u32) -> Result<(), Errno> {
        self.set(uapi::VHOST_BLK_SET_MEMORY_PINNED, &ahead.to_ne_bytes())
    }

    /// VHOST_SET_FORK_FROM_OWNER.
    pub fn set_fork_from_owner(&self, kind: u8) -> Result<(), Errno> {
        self.set(uapi::VHOST_SET_FORK_FROM_OWNER, &[kind])
    }

    /// VHOST_GET_FORK_FROM_OWNER.
    pub fn fork_from_owner(&self) -> Result<u8, Errno> {
        let mut kind = [0xA5];
        self.call(uapi::VHOST_GET_FORK_FROM_OWNER, &mut kind)?;
        Ok(kind[0])
    }

    /// VHOST_NEW_WORKER.
    pub fn new_worker(&self) -> Result<u32, Errno> {
        let mut bytes = WorkerState::default().to_bytes();
        self.call(uapi::VHOST_NEW_WORKER, &mut bytes)?;
        Ok(WorkerState::from_bytes(&bytes).worker_id)
    }

    /// VHOST_FREE_WORKER.
    pub fn free_worker(&self, worker_id: u32) -> Result<(), Errno> {
        let state = WorkerState { worker_id };
        self.set(uapi::VHOST_FREE_WORKER, &state.to_bytes())
    }

    /// VHOST_ATTACH_VRING_WORKER.
    pub fn attach_vring_worker(&self, index: u32, worker_id: u32) -> Result<(), Errno> {
        let pair = VringWorker { index, worker_id };
        self.set(uapi::VHOST_ATTACH_VRING_WORKER, &pair.to_bytes())
    }

    /// VHOST_GET_VRING_WORKER.
    pub fn vring_worker(&self, index: u32) -> Result<u32, Errno> {
        let worker_id = u32::MAX;
        let mut bytes = VringWorker { index, worker_id }.to_bytes();
        self.call(uapi::VHOST_GET_VRING_WORKER, &mut bytes)?;
        let told = VringWorker::from_bytes(&bytes);
        assert_eq!(told.index, index, "the index comes back");
        Ok(told.worker_id)
    }

    /// VHOST_BLK_GET_CONFIG: the features that fit `disk`, and the configuration space.
    pub fn config(
        &self,
        disk: &File,
        queues: u32,
        queue_size: u32,
    ) -> Result<(u64, Vec<u8>), Errno> {
        let header = ConfigHeader {
            fd: disk.as_raw_fd(),
            queues,
            queue_size,
            ..ConfigHeader::default()
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(ConfigHeader::BYTES + CONFIG_ROOM, 0xA5);
        self.call(uapi::VHOST_BLK_GET_CONFIG, &mut bytes)?;
        let mut config = bytes.split_off(ConfigHeader::BYTES);
        assert!(config.drain(CONFIG_BYTES..).all(|byte| byte == 0));
        let header = bytes.try_into().expect("the rest");
        let told = ConfigHeader::from_bytes(&header);
        assert_eq!(told.size as usize, config.len());
        Ok((told.features, config))
    }

    /// VHOST_BLK_GET_STATS.
    pub fn stats(&self) -> Result<Stats, Errno> {
        if let Some(vdpa) = &self.vdpa {
            return vdpa.stats();
        }
        let mut bytes = Stats::default().to_bytes();
        self.call(uapi::VHOST_BLK_GET_STATS, &mut bytes)?;
        Ok(Stats::from_bytes(&bytes))
    }

    /// VHOST_BLK_GET_INFO.
    pub fn info(&self) -> Result<Info, Errno> {
        let mut bytes = Info::default().to_bytes();
        self.call(uapi::VHOST_BLK_GET_INFO, &mut bytes)?;
        Ok(Info::from_bytes(&bytes))
    }

    fn get_u64(&self, command: u32) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.call(command, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `struct vhost_memory` with its regions.
pub fn mem_table(padding: u32, regions: &[MemoryRegion]) -> Vec<u8> {
    let header = MemoryHeader {
        nregions: regions.len() as u32,
        padding,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(regions.iter().flat_map(MemoryRegion::to_bytes));
    bytes
}

fn event_fd(event: Option<&EventFd>) -> i32 {
    event.map_or(uapi::FD_UNBIND, |event| event.as_fd().as_raw_fd())
}

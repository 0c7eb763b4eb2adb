// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/vhost-blk-rs`: who owns it, and what was set up.

use crate::{
    attached::{
        Attached,
        Common,
        RingSetup, //
    },
    executor::Rules,
    ioctl,
    memory::Table,
    pool::{
        Pool,
        MAX_QUEUES, //
    },
    server::Server,
    sys::{
        block_file::BlockFile,
        char_device::CharDevice,
        errno::enobufs,
        eventfd::EventSignal,
        thread::{
            may_use_realtime_io,
            Worker, //
        },
    },
};
use core::pin::Pin;
use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
};
use vblk_core::{
    features::{
        bit,
        Features, //
    },
    range::RangeOps,
    request::ID_BYTES,
    uapi::Stats, //
};

/// An open file.
#[pin_data]
pub(crate) struct Device {
    /// `None` while nobody owns it.
    #[pin]
    pub(crate) owned: Mutex<Option<Owned>>,
}

impl CharDevice for Device {
    const NAME: &'static CStr = c"vhost-blk-rs";

    fn open() -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                owned <- new_mutex!(None, "Device::owned"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(&self, command: u32, arg: usize) -> Result<isize> {
        ioctl::dispatch(self, command, arg)
    }
}

/// A device with an owner. Dropping it stops everything.
pub(crate) struct Owned {
    /// `Some` while a disk is attached.
    pub(crate) attached: Option<Attached>,
    pub(crate) rings: KVec<RingSetup>,
    pub(crate) features: Features,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) serial: Option<[u8; ID_BYTES]>,
    /// The writeback switch, if it was used since the features were set.
    pub(crate) writeback: Option<bool>,
    /// To signal when the configuration space has changed.
    config_call: Option<Arc<EventSignal>>,
    /// What was counted by queues that are not served any more.
    past: Stats,
    /// Whether the owner may have the real-time class of I/O priorities.
    realtime: bool,
    worker: Worker<Pool>,
    mm: ARef<MmWithUser>,
}

impl Owned {
    /// Makes the current process the owner.
    ///
    /// # Errors
    ///
    /// EPERM when it has no address space; ENOMEM; EINTR when it is being killed.
    pub(crate) fn new() -> Result<Self> {
        let mm: ARef<MmWithUser> = kernel::current!().mm().ok_or(EPERM)?.into();
        let pool = Arc::pin_init(Pool::new(), GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            attached: None,
            rings: KVec::new(),
            features: Features::default(),
            table: None,
            serial: None,
            writeback: None,
            config_call: None,
            past: Stats::default(),
            realtime: may_use_realtime_io(),
            worker: Worker::spawn(pool, mm.clone())?,
            mm,
        })
    }

    /// Whether the current process is the owner: its address space is what counts, as in C vhost.
    pub(crate) fn is_current(&self) -> bool {
        kernel::current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(mm.as_raw(), self.mm.as_raw()))
    }

    /// The setup of a queue.
    ///
    /// # Errors
    ///
    /// ENOBUFS when there is no such queue; ENOMEM.
    pub(crate) fn ring(&mut self, index: u32) -> Result<&mut RingSetup> {
        let index = index as usize;
        if index >= MAX_QUEUES {
            return Err(enobufs());
        }
        while self.rings.len() <= index {
            self.rings.push(RingSetup::default(), GFP_KERNEL_ACCOUNT)?;
        }
        self.rings.get_mut(index).ok_or_else(enobufs)
    }

    /// Whether writes must be durable before they are answered: the guest switched to writing
    /// through, or it has no way to make them durable itself and counts on it that they are
    /// (virtio 1.2, 5.2.6.2).
    pub(crate) fn durable(&self) -> bool {
        match self.writeback {
            Some(writeback) => !writeback,
            None => !self.features.has(bit::BLK_FLUSH),
        }
    }

    /// Refuses what would pull the ground from under a queue that is served.
    ///
    /// # Errors
    ///
    /// EBUSY.
    pub(crate) fn check_detached(&self) -> Result {
        match self.attached {
            Some(_) => Err(EBUSY),
            None => Ok(()),
        }
    }

    /// Attaches a disk and begins to serve.
    ///
    /// # Errors
    ///
    /// EFAULT without a memory table; those of [`Attached::new`].
    pub(crate) fn attach(&mut self, file: BlockFile) -> Result {
        let common = Common {
            worker: &self.worker,
            mm: &self.mm,
            features: self.features,
            table: self.table.as_ref().ok_or(EFAULT)?,
            rules: Rules {
                range_ops: RangeOps::negotiated(self.features),
                durable: self.durable(),
                realtime: self.realtime,
            },
            serial: self.serial,
            config_call: self.config_call.as_ref(),
        };
        self.attached = Some(Attached::new(
            &common,
            file,
            &mut self.rings,
            &mut self.past,
        )?);
        Ok(())
    }

    /// Exchanges the eventfd that tells of a changed configuration space.
    ///
    /// # Errors
    ///
    /// ENOMEM; nothing changed then.
    pub(crate) fn set_config_call(&mut self, call: Option<Arc<EventSignal>>) -> Result {
        if let Some(attached) = &mut self.attached {
            attached.set_config_call(call.clone())?;
        }
        self.config_call = call;
        Ok(())
    }

    /// Detaches the disk, if there is one.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed before the worker lets go of the queues; nothing
    /// changed then.
    pub(crate) fn detach(&mut self) -> Result {
        if self.attached.is_some() {
            let servers = self.worker.work().take_all()?;
            self.end(servers, true);
        }
        Ok(())
    }

    fn end(&mut self, servers: KVec<Option<Server>>, is_owner: bool) {
        if let Some(attached) = self.attached.take() {
            attached.end(servers, is_owner, &mut self.rings, &mut self.past);
        }
    }

    /// Does something with each queue that is served, while the worker does not.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn for_each_served(&self, f: impl FnMut(&mut Server)) -> Result {
        match &self.attached {
            Some(attached) => attached.for_each(&self.worker, f),
            None => Ok(()),
        }
    }

    /// Does something with a queue, if it is served, while the worker does not.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn with_served<R>(
        &self,
        index: u32,
        f: impl FnOnce(&mut Server) -> R,
    ) -> Result<Option<R>> {
        self.worker.work().with(index as usize, f)
    }

    /// What was counted since the device got its owner.
    ///
    /// # Errors
    ///
    /// EINTR when the current task is being killed.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let mut stats = self.past;
        if let Some(attached) = &self.attached {
            attached.add_stats(&self.worker, &mut stats)?;
        }
        Ok(stats)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // The guest is gone. Its worker must not wait for memory whose handler waits for this.
        self.worker.give_up();
        let servers = self.worker.work().take_all_patiently();
        self.end(servers, false);
    }
}

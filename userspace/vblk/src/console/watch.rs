// SPDX-License-Identifier: GPL-2.0

//! News of the disks: a back-end that died, a length that changed.

use crate::devices::{
    bus::{
        lock,
        Shared, //
    },
    virtio::block::BlockDevice, //
};
use std::{
    io,
    os::fd::{
        AsRawFd,
        RawFd, //
    },
    time::Duration, //
};
use vmm_sys_util::{
    eventfd::EventFd,
    timerfd::TimerFd, //
};

/// How often a disk is asked whose back-end has no news of itself.
const PERIOD: Duration = Duration::from_secs(1);

/// Whether the guest can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All back-ends work.
    Good,
    /// One does not.
    Died,
}

/// What a file says when it can be read.
enum News {
    /// A back-end died.
    Died(EventFd),
    /// The configuration of a disk has changed.
    Config(EventFd, Shared<BlockDevice>),
    /// It is time to ask these disks.
    Tick(TimerFd, Vec<Shared<BlockDevice>>),
}

/// The files that tell news of disks.
pub struct Watch(Vec<News>);

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When there are no file descriptors left.
    pub fn new(disks: &[Shared<BlockDevice>]) -> io::Result<Self> {
        let mut news = Vec::new();
        let mut silent = Vec::new();
        for disk in disks {
            let device = lock(disk);
            if let Some(died) = device.backend().died() {
                news.push(News::Died(died.try_clone()?));
            }
            match device.backend().config_call() {
                Some(call) => news.push(News::Config(call.try_clone()?, disk.clone())),
                None => silent.push(disk.clone()),
            }
        }
        if !silent.is_empty() {
            let mut timer = TimerFd::new()?;
            timer.reset(PERIOD, Some(PERIOD))?;
            news.push(News::Tick(timer, silent));
        }
        Ok(Self(news))
    }

    /// The files to wait for.
    pub fn files(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.0.iter().map(|news| match news {
            News::Died(event) | News::Config(event, _) => event.as_raw_fd(),
            News::Tick(timer, _) => timer.as_raw_fd(),
        })
    }

    /// Acts on what happened; `ready` says which of the files can be read.
    pub fn look(&mut self, ready: &[bool]) -> Health {
        for (news, _) in self.0.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            match news {
                News::Died(event) if event.read().is_ok() => return Health::Died,
                News::Died(_) => {}
                News::Config(event, disk) => {
                    let _ = event.read();
                    lock(disk).refresh();
                }
                News::Tick(timer, disks) => {
                    let _ = timer.wait();
                    disks.iter().for_each(|disk| lock(disk).refresh());
                }
            }
        }
        Health::Good
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Finding the device behind an address.

use std::sync::{Arc, Mutex, PoisonError};

/// Something that a guest reads from and writes to. Any access may come at any time: none may
/// panic.
pub trait Device: Send {
    /// Fills `data` with what is at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes what was written to `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several CPUs reach.
pub type Shared<D> = Arc<Mutex<D>>;

struct Slot {
    first: u64,
    last: u64,
    device: Shared<dyn Device>,
}

/// The ports or the address space of a guest.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address, and not overlapping.
    slots: Vec<Slot>,
}

/// Two devices want the same address.
#[derive(Debug, thiserror::Error)]
#[error("addresses {first:#x} to {last:#x} are taken")]
pub struct Taken {
    first: u64,
    last: u64,
}

impl Bus {
    /// Puts `device` at `len` addresses from `first` on.
    ///
    /// # Errors
    ///
    /// [`Taken`] when another device has some of them, or there are none.
    pub fn insert(
        &mut self,
        first: u64,
        len: u64,
        device: Shared<dyn Device>,
    ) -> Result<(), Taken> {
        let span = len.saturating_sub(1);
        let last = first.saturating_add(span);
        let taken = |slot: &Slot| slot.first <= last && first <= slot.last;
        if len == 0 || self.slots.iter().any(taken) {
            return Err(Taken { first, last });
        }
        let at = self.slots.partition_point(|slot| slot.first < first);
        let slot = Slot {
            first,
            last,
            device,
        };
        self.slots.insert(at, slot);
        Ok(())
    }

    /// Reads; where nothing is, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => lock(device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes; where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            lock(device).write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<dyn Device>, u64)> {
        let after = self.slots.partition_point(|slot| slot.first <= address);
        let slot = self.slots.get(after.checked_sub(1)?)?;
        (address <= slot.last).then(|| (&*slot.device, address - slot.first))
    }
}

/// Locks a device. One whose thread panicked is still there for the others.
pub fn lock<D: ?Sized>(device: &Mutex<D>) -> std::sync::MutexGuard<'_, D> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last write, and reads back the offset.
    #[derive(Default)]
    struct Probe(Vec<u64>);

    impl Device for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&mut self, offset: u64, _: &[u8]) {
            self.0.push(offset);
        }
    }

    #[test]
    fn an_access_reaches_the_device_at_its_offset() {
        let mut bus = Bus::default();
        let (low, high) = (Shared::<Probe>::default(), Shared::<Probe>::default());
        bus.insert(0x20, 8, high.clone()).unwrap();
        bus.insert(0x10, 8, low.clone()).unwrap();
        bus.write(0x10, &[0]);
        bus.write(0x27, &[0]);
        bus.write(0x18, &[0]);
        bus.write(0x28, &[0]);
        bus.write(0x0f, &[0]);
        assert_eq!(lock(&low).0, [0]);
        assert_eq!(lock(&high).0, [7]);
        let mut data = [0; 2];
        bus.read(0x12, &mut data);
        assert_eq!(data, [2, 2]);
        bus.read(0x18, &mut data);
        assert_eq!(data, [0xff, 0xff]);
    }

    #[test]
    fn devices_do_not_overlap() {
        let mut bus = Bus::default();
        bus.insert(0x10, 8, Shared::<Probe>::default()).unwrap();
        for (first, len) in [(0x17, 1), (0x8, 9), (0, 0x100), (0x12, 2), (0x20, 0)] {
            let refused = bus.insert(first, len, Shared::<Probe>::default());
            assert!(refused.is_err(), "{first:#x} {len}");
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The queues of the io-uring back-end: where they stand, when they stop, who is woken.

mod common;

use common::*;
use vblk::{
    backend::{Error, Kind},
    disk::Options,
    seccomp::Filters,
};
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    split::Descriptor,
    testing::{BlockRequest, DriverMemory},
};

const OK: u8 = 0;

#[test]
fn an_impossible_index_stops_the_queue_until_it_is_started_again() {
    let mut rig = Rig::new(Setup::default());
    assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    rig.driver.split().write_avail_index(1 + 257);
    rig.kick.write(1).unwrap();
    wait_for("the error eventfd", || rig.err.read().is_ok());
    assert_eq!(rig.stop().base, 1);
    rig.driver.publish();
    rig.start(1);
    assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    assert_eq!(rig.backend.stats().unwrap().malformed, 1);
}

#[test]
fn packed_rings_are_served_over_many_laps_and_restarts() {
    for setup in [
        Setup::packed(),
        Setup::packed().without(bit::RING_EVENT_IDX),
    ] {
        let mut rig = Rig::new(setup);
        let bytes = pattern(7, 4096);
        rig.memory.write(GuestAddr(DATA), &bytes);
        for round in 0..5 {
            for sector in 0..100 {
                assert_eq!(rig.request(&write(sector * 8, DATA, 4096)), (OK, 1));
                let back = read(sector * 8, DATA + 65536, 4096);
                assert_eq!(rig.request(&back), (OK, 4097));
                let back = rig.memory.read_vec(GuestAddr(DATA + 65536), 4096);
                assert_eq!(back, bytes);
            }
            let base = rig.stop().base;
            assert_eq!(base, rig.driver.base(), "round {round}");
            rig.start(base);
        }
    }
}

#[test]
fn a_packed_chain_around_the_ring_stops_the_queue_until_it_is_started_again() {
    let mut rig = Rig::new(Setup::packed());
    assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    let (base, next) = (rig.driver.base(), rig.driver.next_avail());
    let driver = rig.driver.packed();
    for at in (0..256).rev().map(|ahead| next.wrapping_add(ahead)) {
        driver.write_flags(at, driver.avail_flags(at) | Descriptor::F_NEXT);
    }
    rig.kick.write(1).unwrap();
    wait_for("the error eventfd", || rig.err.read().is_ok());
    assert_eq!(rig.stop().base, base);
    let driver = rig.driver.packed();
    for at in (1..=256).map(|before| next.wrapping_sub(before)) {
        driver.write_flags(at, driver.used_flags(at));
    }
    rig.start(base);
    assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    assert_eq!(rig.backend.stats().unwrap().malformed, 1);
}

#[test]
fn stopping_tells_where_to_go_on() {
    let mut rig = Rig::new(Setup::default());
    let mut taken = 0;
    for _ in 0..5 {
        for request in 0..100 {
            assert_eq!(rig.request(&read(request * 8, DATA, 4096)), (OK, 4097));
        }
        taken += 100;
        assert_eq!(rig.stop().base, taken);
        // Nothing is served now, and what is added waits.
        let request = read(0, DATA, 512);
        request.prepare(&rig.memory);
        rig.driver.add(&request.buffers()).unwrap();
        rig.publish();
        assert_eq!(rig.backend.stop().unwrap(), []);
        assert!(rig.driver.poll_used().is_none());
        rig.start(taken);
        assert_eq!(rig.wait().len, 513);
        taken += 1;
    }
}

#[test]
fn what_waits_when_a_queue_starts_needs_no_kick() {
    let mut rig = Rig::new(Setup::default());
    rig.stop();
    let request = read(0, DATA, 512);
    request.prepare(&rig.memory);
    rig.driver.add(&request.buffers()).unwrap();
    rig.driver.publish();
    // Nor is there an old one.
    assert!(rig.kick.read().is_err());
    rig.start(0);
    assert_eq!(rig.wait().len, 513);
}

#[test]
fn no_kick_and_no_interrupt_is_lost() {
    for with_event_idx in [true, false] {
        let setup = Setup::default();
        let setup = if with_event_idx {
            setup
        } else {
            setup.without(bit::RING_EVENT_IDX)
        };
        let mut rig = Rig::new(setup);
        let (mut sent, mut done) = (0u32, 0u32);
        let total = 20_000;
        while done < total {
            // As many as there is room for, in bursts.
            let burst = 1 + (sent * 7 + done) % 16;
            for slot in 0..burst {
                let (header, status) = header_at(u64::from(slot));
                let request = BlockRequest::read(u64::from(slot), header, status)
                    .data(GuestAddr(DATA + u64::from(slot) * 4096), 512);
                request.prepare(&rig.memory);
                rig.driver.add(&request.buffers()).unwrap();
                sent += 1;
            }
            rig.publish();
            // Sleeps as a driver does: only an interrupt wakes it.
            while done < sent {
                while rig.driver.poll_used().is_some() {
                    done += 1;
                }
                if done < sent && !rig.driver.enable_interrupt() {
                    wait_for("an interrupt", || rig.call.read().is_ok());
                }
                rig.driver.disable_interrupt();
            }
        }
        let stats = rig.backend.stats().unwrap();
        assert_eq!(stats.requests, u64::from(sent));
        assert!(stats.interrupts <= stats.requests);
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    for setup in [
        Setup::default(),
        Setup::default().without(bit::RING_EVENT_IDX),
        Setup::packed(),
        Setup::packed().without(bit::RING_EVENT_IDX),
    ] {
        let mut rig = Rig::new(setup);
        // What comes first is not known to have been seen.
        rig.request(&read(0, DATA, 512));
        rig.driver.disable_interrupt();
        rig.request(&read(0, DATA, 512));
        let before = rig.backend.stats().unwrap().interrupts;
        for _ in 0..20 {
            assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
        }
        // The last answer is there before the decision about it.
        rig.stop();
        assert_eq!(rig.backend.stats().unwrap().interrupts, before);
    }
}

#[test]
fn rings_outside_memory_are_the_drivers_mistake() {
    let (_file, disk) = file_disk(&pattern(1, 1 << 20), &Options::default());
    let mut backend = Kind::IoUring.open(disk, &Filters::default()).unwrap();
    let rig = Rig::new(Setup::default());
    type Spoil = fn(&mut vblk::backend::QueueConfig);
    let spoils: [Spoil; 6] = [
        |config| config.size = 0,
        |config| config.size = 100,
        |config| config.desc.0 += 8,
        |config| config.avail.0 += 1,
        |config| config.used.0 = MEMORY_END - 16,
        |config| config.desc.0 = SEAM - 16,
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let mut config = rig.queue_config(0);
        spoil(&mut config);
        let refused = backend.start(&rig.memory.0, rig.features, vec![config]);
        assert!(matches!(refused, Err(Error::Queue(0))), "{number}");
    }
    // It was not harmed.
    let config = rig.queue_config(0);
    backend
        .start(&rig.memory.0, rig.features, vec![config])
        .unwrap();
    let config = rig.queue_config(0);
    let again = backend.start(&rig.memory.0, rig.features, vec![config]);
    assert!(matches!(again, Err(Error::Started)));
}

#[test]
fn a_back_end_that_dies_says_so() {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let mut rig = Rig::new(Setup::default());
    rig.stop();
    // An interrupt that can't be raised.
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let mut config = rig.queue_config(0);
    // SAFETY: The descriptor was just given up by its owner.
    config.call = unsafe { vmm_sys_util::eventfd::EventFd::from_raw_fd(read_only.into_raw_fd()) };
    rig.backend
        .start(&rig.memory.0, rig.features, vec![config])
        .unwrap();
    let request = read(0, DATA, 512);
    request.prepare(&rig.memory);
    rig.driver.add(&request.buffers()).unwrap();
    rig.publish();
    wait_for("its death", || rig.backend.died().unwrap().read().is_ok());
    let said = rig.backend.stop().unwrap_err().to_string();
    assert_eq!(said, "the back-end died: Bad file descriptor");
    // It can be started again.
    rig.backend.stop().unwrap();
    let position = 1;
    rig.start(position);
    assert_eq!(rig.stop().base, position);
}

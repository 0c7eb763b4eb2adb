// SPDX-License-Identifier: GPL-2.0

//! The registers of a virtio device, as virtio 1.2 tells a driver to use them, and otherwise.

use proptest::prelude::*;
use vblk::{
    backend::Features,
    devices::virtio::mmio::{status, Action, QueueRegisters, Transport, MMIO_BYTES, QUEUE_NOTIFY},
};

const OFFERED: Features = Features(1 << 32 | 1 << 28 | 1 << 9);
const QUEUES: u16 = 2;
const QUEUE_SIZE: u16 = 256;
const CONFIG: [u8; 6] = [1, 2, 3, 4, 5, 6];

const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SELECT: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_AVAIL: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;

const NEGOTIATED: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;

fn device() -> Transport {
    Transport::new(2, OFFERED, CONFIG.to_vec(), QUEUES, QUEUE_SIZE)
}

fn get(device: &Transport, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn put(device: &mut Transport, offset: u64, value: u32) -> Action {
    device.write(offset, &value.to_le_bytes())
}

/// Virtio 1.2, 3.1.1, up to where the queues are set up.
fn negotiate(device: &mut Transport, features: u64) -> u8 {
    put(device, STATUS, 0);
    put(device, STATUS, status::ACKNOWLEDGE.into());
    put(
        device,
        STATUS,
        (status::ACKNOWLEDGE | status::DRIVER).into(),
    );
    for (word, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
        put(device, DRIVER_FEATURES_SELECT, word);
        put(device, DRIVER_FEATURES, value);
    }
    put(device, STATUS, NEGOTIATED.into());
    get(device, STATUS) as u8
}

fn set_up_queue(device: &mut Transport, queue: u32) {
    put(device, QUEUE_SELECT, queue);
    put(device, QUEUE_NUM, 128);
    for (register, value) in [
        (QUEUE_DESC, 0x1000),
        (QUEUE_AVAIL, 0x2000),
        (QUEUE_USED, 0x3000),
    ] {
        put(device, register, value);
        put(device, register + 4, 1);
    }
    put(device, QUEUE_READY, 1);
}

#[test]
fn a_driver_finds_the_device() {
    let mut device = device();
    assert_eq!(get(&device, 0x0), 0x7472_6976);
    assert_eq!(get(&device, 0x4), 2);
    assert_eq!(get(&device, 0x8), 2);
    put(&mut device, DEVICE_FEATURES_SELECT, 1);
    assert_eq!(get(&device, DEVICE_FEATURES), 1);
    put(&mut device, DEVICE_FEATURES_SELECT, 0);
    assert_eq!(get(&device, DEVICE_FEATURES), 1 << 28 | 1 << 9);
    put(&mut device, DEVICE_FEATURES_SELECT, 2);
    assert_eq!(get(&device, DEVICE_FEATURES), 0);
    put(&mut device, QUEUE_SELECT, 1);
    assert_eq!(get(&device, QUEUE_SIZE_MAX), 256);
    // "must be zero if the queue is not available" (4.2.2).
    put(&mut device, QUEUE_SELECT, 2);
    assert_eq!(get(&device, QUEUE_SIZE_MAX), 0);
}

#[test]
fn the_configuration_space_can_be_read_in_any_way() {
    let device = device();
    let mut bytes = [0xff; 8];
    device.read(0x101, &mut bytes);
    assert_eq!(bytes, [2, 3, 4, 5, 6, 0, 0, 0]);
    let mut one = [0];
    device.read(0x105, &mut one);
    assert_eq!(one, [6]);
}

#[test]
fn features_are_agreed_on_only_within_the_offer_and_with_version_1() {
    for (features, agreed) in [
        (OFFERED.0, true),
        (1 << 32, true),
        (1 << 28, false),
        (0, false),
        (1 << 32 | 1 << 5, false),
        (u64::MAX, false),
    ] {
        let mut device = device();
        let got = negotiate(&mut device, features);
        assert_eq!(got & status::FEATURES_OK != 0, agreed, "{features:#x}");
        // Without it, the driver can't go on.
        let action = put(&mut device, STATUS, (NEGOTIATED | status::DRIVER_OK).into());
        assert_eq!(action == Action::Start, agreed, "{features:#x}");
    }
}

#[test]
fn a_driver_is_not_ready_before_features_are_agreed_on() {
    let mut device = device();
    let early = status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK;
    assert_eq!(put(&mut device, STATUS, early.into()), Action::None);
    assert_eq!(get(&device, STATUS) as u8 & status::DRIVER_OK, 0);
}

#[test]
fn only_the_device_asks_for_a_reset() {
    let mut device = device();
    put(&mut device, STATUS, status::NEEDS_RESET.into());
    assert_eq!(get(&device, STATUS), 0);
}

#[test]
fn registers_are_32_bits_wide() {
    let mut device = device();
    negotiate(&mut device, OFFERED.0);
    set_up_queue(&mut device, 0);
    for len in [1, 2, 3, 5, 8] {
        let mut data = vec![0xff; len];
        device.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        for (register, value) in [(QUEUE_NOTIFY, 0), (STATUS, 0x0f), (QUEUE_READY, 0)] {
            let mut data = vec![0; len];
            data[0] = value;
            assert_eq!(
                device.write(register, &data),
                Action::None,
                "{register:#x} {len}"
            );
        }
    }
    assert_eq!(get(&device, STATUS), u32::from(NEGOTIATED));
    assert_eq!(get(&device, QUEUE_READY), 1);
}

#[test]
fn a_driver_writes_single_bytes_of_the_configuration_space_up_to_its_end() {
    let mut device = device();
    let last = CONFIG.len() - 1;
    let expected = Action::Configure { at: last, value: 9 };
    assert_eq!(device.write(0x100 + last as u64, &[9]), expected);
    for at in [0x100 + CONFIG.len() as u64, MMIO_BYTES - 1, u64::MAX] {
        assert_eq!(device.write(at, &[9]), Action::None, "{at:#x}");
    }
    assert_eq!(device.write(0x100, &[9, 9, 9, 9]), Action::None);
}

#[test]
fn what_was_set_up_is_frozen_while_the_driver_runs() {
    let mut device = device();
    assert_eq!(negotiate(&mut device, OFFERED.0), NEGOTIATED);
    set_up_queue(&mut device, 1);
    let running = NEGOTIATED | status::DRIVER_OK;
    assert_eq!(put(&mut device, STATUS, running.into()), Action::Start);
    let expected = QueueRegisters {
        size: 128,
        ready: true,
        desc: 0x1_0000_1000,
        avail: 0x1_0000_2000,
        used: 0x1_0000_3000,
    };
    // A second time changes nothing.
    assert_eq!(put(&mut device, STATUS, running.into()), Action::None);
    put(&mut device, QUEUE_READY, 0);
    put(&mut device, QUEUE_NUM, 64);
    put(&mut device, QUEUE_DESC, 0);
    set_up_queue(&mut device, 0);
    put(&mut device, DRIVER_FEATURES_SELECT, 0);
    put(&mut device, DRIVER_FEATURES, 0);
    let ready: Vec<_> = device.ready_queues().collect();
    assert_eq!(ready, [(1, &expected)]);
    assert_eq!(device.accepted(), OFFERED);
    // Bits of the status are not taken back.
    put(&mut device, STATUS, status::ACKNOWLEDGE.into());
    assert_eq!(get(&device, STATUS), u32::from(running));
}

#[test]
fn a_queue_in_use_keeps_its_addresses() {
    let mut device = device();
    negotiate(&mut device, OFFERED.0);
    set_up_queue(&mut device, 0);
    put(&mut device, QUEUE_DESC, 0xdead_0000);
    assert_eq!(device.ready_queues().next().unwrap().1.desc, 0x1_0000_1000);
    put(&mut device, QUEUE_READY, 0);
    put(&mut device, QUEUE_DESC, 0xdead_0000);
    put(&mut device, QUEUE_READY, 1);
    assert_eq!(device.ready_queues().next().unwrap().1.desc, 0x1_dead_0000);
}

#[test]
fn a_reset_forgets_everything() {
    let mut device = device();
    negotiate(&mut device, OFFERED.0);
    set_up_queue(&mut device, 0);
    put(&mut device, STATUS, (NEGOTIATED | status::DRIVER_OK).into());
    device.fail();
    assert_eq!(put(&mut device, STATUS, 0), Action::Reset);
    assert_eq!(get(&device, STATUS), 0);
    assert_eq!(get(&device, INTERRUPT_STATUS), 0);
    assert_eq!(get(&device, QUEUE_READY), 0);
    assert_eq!(device.ready_queues().count(), 0);
    assert_eq!(device.accepted(), Features(0));
}

#[test]
fn interrupts_say_why_they_came() {
    let mut device = device();
    assert_eq!(get(&device, INTERRUPT_STATUS), 0);
    negotiate(&mut device, OFFERED.0);
    set_up_queue(&mut device, 0);
    put(&mut device, STATUS, (NEGOTIATED | status::DRIVER_OK).into());
    assert_eq!(get(&device, INTERRUPT_STATUS), 0);
    device.set_used(true);
    assert_eq!(get(&device, INTERRUPT_STATUS), 1);
    put(&mut device, INTERRUPT_ACK, 2);
    assert_eq!(get(&device, INTERRUPT_STATUS), 1);
    put(&mut device, INTERRUPT_ACK, 1);
    assert_eq!(get(&device, INTERRUPT_STATUS), 0);
    device.set_used(true);
    device.fail();
    assert_eq!(get(&device, INTERRUPT_STATUS), 3);
    assert_eq!(
        get(&device, STATUS) as u8 & status::NEEDS_RESET,
        status::NEEDS_RESET
    );
    put(&mut device, INTERRUPT_ACK, 2);
    assert_eq!(get(&device, INTERRUPT_STATUS), 1);
    put(&mut device, STATUS, 0);
    device.set_used(true);
    assert_eq!(get(&device, INTERRUPT_STATUS), 0);
}

#[test]
fn kicks_are_for_queues_that_exist() {
    let mut device = device();
    assert_eq!(put(&mut device, QUEUE_NOTIFY, 1), Action::Notify(1));
    assert_eq!(put(&mut device, QUEUE_NOTIFY, 2), Action::None);
    assert_eq!(put(&mut device, QUEUE_NOTIFY, 0x1_0000), Action::None);
    assert_eq!(device.write(QUEUE_NOTIFY, &[0, 0]), Action::None);
}

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Fail,
    /// All that a driver does to begin, as chance would hardly have it.
    Begin,
}

fn access() -> impl Strategy<Value = Access> {
    // Mostly registers that exist, and values that mean something.
    let offset = prop_oneof![
        4 => (0u64..0x40).prop_map(|register| register * 4),
        1 => 0..MMIO_BYTES,
        1 => any::<u64>(),
    ];
    let value = prop_oneof![
        4 => (0u32..256).prop_map(|value| value.to_le_bytes().to_vec()),
        1 => any::<u32>().prop_map(|value| value.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    prop_oneof![
        4 => (offset.clone(), 0usize..9).prop_map(|(at, len)| Access::Read(at, len)),
        8 => (offset, value).prop_map(|(at, value)| Access::Write(at, value)),
        1 => Just(Access::Fail),
        1 => Just(Access::Begin),
    ]
}

/// All that the driver chose.
fn set_up(device: &Transport) -> (Features, Vec<(u16, QueueRegisters)>) {
    let queues = device.ready_queues().map(|(index, queue)| (index, *queue));
    (device.accepted(), queues.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a guest does, the device stands, starts only when its driver may, and runs with what
    /// it was started with.
    #[test]
    fn any_accesses_are_harmless(accesses in prop::collection::vec(access(), 1..200)) {
        let mut device = device();
        let mut running = false;
        let mut frozen = None;
        for access in accesses {
            match access {
                Access::Read(at, len) => device.read(at, &mut vec![0; len]),
                Access::Fail => device.fail(),
                Access::Begin => {
                    negotiate(&mut device, OFFERED.0);
                    set_up_queue(&mut device, 1);
                    let ready = (NEGOTIATED | status::DRIVER_OK).into();
                    prop_assert_eq!(put(&mut device, STATUS, ready), Action::Start);
                    running = true;
                    frozen = None;
                }
                Access::Write(at, value) => match device.write(at, &value) {
                    Action::None => {}
                    Action::Reset => running = false,
                    Action::Configure { at, .. } => prop_assert!(at < 4096),
                    Action::Notify(queue) => prop_assert!(queue < QUEUES),
                    Action::Start => {
                        // Once between two resets.
                        prop_assert!(!running);
                        running = true;
                        prop_assert!(device.accepted().within(OFFERED));
                        prop_assert!(device.accepted().has(32));
                    }
                },
            }
            let status = get(&device, STATUS) as u8;
            prop_assert_eq!(status & status::DRIVER_OK != 0, running);
            // What the back-end works with stays as it was told (virtio 1.2, 4.2.2.2).
            if running {
                let now = set_up(&device);
                prop_assert_eq!(frozen.get_or_insert_with(|| now.clone()), &now);
            } else {
                frozen = None;
            }
        }
    }
}

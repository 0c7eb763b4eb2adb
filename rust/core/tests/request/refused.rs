// SPDX-License-Identifier: GPL-2.0

//! Chains that hold no request.

use crate::guest::{
    Guest,
    DATA,
    HEADER,
    MEMORY,
    STATUS, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        Fault,
        ReadGuest, //
    },
    request::{
        MalformedCause,
        MalformedRequest,
        Request, //
    },
    testing::{
        BlockRequest,
        Buf,
        Ram, //
    },
};

/// Returns the guest's mistake.
fn malformed(status: Option<GuestAddr>) -> MalformedRequest {
    MalformedRequest {
        status,
        cause: MalformedCause::Malformed,
    }
}

#[test]
fn a_header_that_is_too_short_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    for len in 0..16 {
        let bufs = [Buf::readable(HEADER, len), Buf::writable(DATA, 8)];
        let status = Some(GuestAddr(DATA.0 + 7));
        assert_eq!(guest.parse(&bufs, false), Err(malformed(status)));
    }
}

#[test]
fn a_header_that_can_not_be_read_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let end = MEMORY as u64;
    for addr in [
        end - 15,
        end - 1,
        end,
        u64::MAX - 15,
        u64::MAX - 14,
        u64::MAX,
    ] {
        let bufs = [Buf::readable(GuestAddr(addr), 16), Buf::writable(STATUS, 1)];
        let status = Some(STATUS);
        assert_eq!(guest.parse(&bufs, false), Err(malformed(status)));
    }
}

#[test]
fn a_header_that_the_host_can_not_read_is_not_the_mistake_of_the_guest() {
    struct Failing;
    impl ReadGuest for Failing {
        fn read(&self, _: GuestAddr, _: &mut [u8]) -> Result<(), Fault> {
            Err(Fault::Inaccessible)
        }
    }
    let ram = Ram::new(MEMORY);
    let header = [
        vec![Buf::readable(HEADER, 16)],
        vec![Buf::readable(HEADER, 8), Buf::readable(DATA, 8)],
    ];
    for mut bufs in header {
        bufs.push(Buf::writable(STATUS, 1));
        let mut guest = Guest::new(&ram);
        guest.driver.add(&bufs).expect("enough descriptors");
        guest.driver.publish();
        let head = guest.device.pop();
        let chain = guest.device.walk(head).expect("a chain");
        let refused = MalformedRequest {
            status: Some(STATUS),
            cause: MalformedCause::HeaderInaccessible,
        };
        assert_eq!(Request::parse(&chain, &Failing).err(), Some(refused));
    }
}

#[test]
fn a_buffer_that_wraps_behind_the_header_does_not_lead_to_the_last_address() {
    // There is memory up to the last address, so that the header itself can be read.
    let ram = Ram::with_blocks(&[
        (GuestAddr(0), MEMORY, HostAddr(1 << 40)),
        (GuestAddr(u64::MAX - 0xFFF), 0x1000, HostAddr(1 << 50)),
    ]);
    let mut guest = Guest::new(&ram);
    let header = GuestAddr(u64::MAX - 15);
    BlockRequest::write(0, header, STATUS).prepare(&ram);
    let status = Buf::writable(STATUS, 1);
    let whole = [Buf::readable(header, 16), status];
    assert!(guest.parse(&whole, false).is_ok());
    for len in [17, 16 + 512, u32::MAX - 1] {
        let wraps = [Buf::readable(header, len), status];
        let refused = malformed(Some(STATUS));
        assert_eq!(guest.parse(&wraps, false), Err(refused));
    }
}

#[test]
fn without_a_writable_last_byte_there_is_no_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let nowhere = Err(malformed(None));
    let header = Buf::readable(HEADER, 16);
    let writable = Buf::writable(STATUS, 1);
    assert_eq!(guest.parse(&[header], false), nowhere);
    assert_eq!(
        guest.parse(&[header, Buf::writable(STATUS, 0)], false),
        nowhere
    );
    assert_eq!(guest.parse(&[header, writable, header], false), nowhere);
    // It would be past the last address.
    let wraps = Buf::writable(GuestAddr(u64::MAX), 2);
    assert_eq!(guest.parse(&[header, wraps], false), nowhere);
}

#[test]
fn a_readable_buffer_behind_a_writable_one_is_refused_with_a_status() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    BlockRequest::write(0, HEADER, STATUS).prepare(&ram);
    let (header, status) = (Buf::readable(HEADER, 16), Buf::writable(STATUS, 1));
    let (readable, writable) = (Buf::readable(DATA, 512), Buf::writable(DATA, 512));
    for bufs in [
        &[writable, header, status][..],
        &[status, header, status],
        // What comes before the disorder would be a request.
        &[header, writable, readable, status],
        &[header, readable, status, readable, status],
    ] {
        let refused = malformed(Some(STATUS));
        assert_eq!(guest.parse(bufs, false), Err(refused));
    }
}

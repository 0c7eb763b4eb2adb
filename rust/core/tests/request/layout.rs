// SPDX-License-Identifier: GPL-2.0

//! Places of the parts of a request.

use crate::guest::{
    both_ways,
    range,
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
    request::RequestType,
    testing::{
        cut,
        join,
        BlockRequest,
        Buf,
        DriverMemory,
        Ram, //
    },
};

#[test]
fn header_data_and_status_may_be_cut_at_any_two_places_and_the_rest_anywhere() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    let readable = 16 + 5;
    for first in 1..=readable {
        for second in first..=readable {
            // Each subset of the places between the 4 bytes of data and the status.
            for subset in 0..16 {
                let mut cuts = vec![first, second];
                cuts.extend(
                    (0..4)
                        .filter(|i| subset >> i & 1 != 0)
                        .map(|i| readable + 1 + i),
                );
                let bufs = cut(&request.buffers(), &cuts);
                for indirect in [false, true] {
                    let parsed = guest.parse(&bufs, indirect);
                    assert_eq!(parsed.as_ref(), Ok(&expected), "cut at {cuts:?}");
                }
            }
        }
    }
}

#[test]
fn the_header_may_be_cut_at_any_places_at_once() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    for subset in 0..1 << 15 {
        let cuts: Vec<_> = (0..15)
            .filter(|i| subset >> i & 1 != 0)
            .map(|i| i + 1)
            .collect();
        let parsed = guest.parse(&cut(&request.buffers(), &cuts), false);
        assert_eq!(parsed.as_ref(), Ok(&expected), "cut at {cuts:?}");
    }
}

#[test]
fn the_bytes_of_the_header_may_lie_anywhere() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let request = BlockRequest::write(77, HEADER, STATUS);
    let mut bufs = Vec::new();
    for (index, byte) in request.header_bytes().into_iter().enumerate() {
        // From high addresses to low ones, with gaps.
        let at = GuestAddr(DATA.0 - 3 * index as u64);
        ram.write(at, &[byte]);
        bufs.push(Buf::readable(at, 1));
    }
    bufs.push(Buf::readable(DATA, 512));
    bufs.push(Buf::writable(STATUS, 1));
    let parsed = guest.parse(&bufs, false).expect("a request");
    assert_eq!((parsed.kind, parsed.sector), (RequestType::Out, 77));
    assert_eq!(parsed.data_out, range(DATA, 512));
}

#[test]
fn header_and_data_may_share_a_buffer() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let data = GuestAddr(HEADER.0 + 16);
    let request = BlockRequest::write(3, HEADER, STATUS).data(data, 1024);
    request.prepare(&ram);
    let bufs = join(&request.buffers());
    assert_eq!(
        bufs,
        [Buf::readable(HEADER, 1040), Buf::writable(STATUS, 1)]
    );
    for at in 1..1040 {
        let parsed = guest.parse(&cut(&bufs, &[at]), false).expect("a request");
        assert_eq!(parsed.data_out, range(data, 1024));
        assert_eq!((parsed.kind, parsed.status), (RequestType::Out, STATUS.0));
    }
}

#[test]
fn the_status_may_share_a_buffer_with_the_data_before_it() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let status = GuestAddr(DATA.0 + 512);
    let request = BlockRequest::read(3, HEADER, status).data(DATA, 512);
    request.prepare(&ram);
    let bufs = join(&request.buffers());
    assert_eq!(bufs, [Buf::readable(HEADER, 16), Buf::writable(DATA, 513)]);
    for at in 16..529 {
        let parsed = guest.parse(&cut(&bufs, &[at]), false).expect("a request");
        assert_eq!(parsed.data_in, range(DATA, 512));
        assert_eq!((parsed.kind, parsed.status), (RequestType::In, status.0));
    }
}

#[test]
fn empty_buffers_anywhere_change_nothing() {
    let ram = Ram::new(MEMORY);
    let mut guest = Guest::new(&ram);
    let (request, expected) = both_ways();
    request.prepare(&ram);
    let bufs = request.buffers();
    for at in 0..=bufs.len() {
        for writable in [false, true] {
            // Behind the status byte as well, and at an address where there is no memory.
            let mut company = bufs.clone();
            let addr = GuestAddr(u64::MAX);
            company.insert(
                at,
                Buf {
                    addr,
                    len: 0,
                    writable,
                },
            );
            let parsed = guest.parse(&company, false);
            assert_eq!(parsed.as_ref(), Ok(&expected), "empty at {at}");
        }
    }
}

#[test]
fn a_header_straddles_regions() {
    for at in 0..=16 {
        let ram = Ram::with_blocks(&[
            (GuestAddr(0), 0x2_0000 + at, HostAddr(1 << 40)),
            (GuestAddr(0x2_0000 + at as u64), 0x8_0000, HostAddr(0x999)),
        ]);
        let mut guest = Guest::new(&ram);
        let request = BlockRequest::write(0x1122_3344_5566, HEADER, STATUS);
        for (offset, byte) in request.header_bytes().into_iter().enumerate() {
            ram.write(GuestAddr(HEADER.0 + offset as u64), &[byte]);
        }
        let parsed = guest.parse(&request.buffers(), false).expect("a request");
        assert_eq!(
            (parsed.kind, parsed.sector),
            (RequestType::Out, 0x1122_3344_5566)
        );
    }
}

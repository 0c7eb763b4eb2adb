// SPDX-License-Identifier: GPL-2.0

//! Payloads that are found again in the segments of a chain.

use crate::{
    common::RING,
    guest::{
        both_ways,
        MEMORY, //
    },
};
use vblk_core::{
    chain::{
        Segment,
        StoredChain, //
    },
    queue::Popped,
    request::{
        Payload,
        PayloadPosition,
        Piece,
        Request, //
    },
    ring::{
        Avail,
        Base, //
    },
    table::TableMemory,
    testing::{
        cut,
        Layout,
        Ram,
        SplitDriver, //
    },
};

fn pieces(payload: &Payload<'_>) -> Vec<Piece> {
    payload.pieces().collect()
}

/// Returns the segments of the request of [`both_ways`], cut at a byte, and what `judge` makes of
/// it.
fn with_request<T>(
    at: u64,
    judge: impl FnOnce(StoredChain, &Request<'_>) -> T,
) -> (Vec<Segment>, T) {
    let ram = Ram::new(MEMORY);
    let layout = Layout::with_size(64, RING);
    let mut driver = SplitDriver::new(&ram, layout, false);
    let (request, _) = both_ways();
    request.prepare(&&ram);
    let bufs = cut(&request.buffers(), &[at]);
    driver.add(&bufs).expect("enough descriptors");
    driver.publish();
    let ring = ram.ring(&layout);
    let mut avail = Avail::new(&ring, Base { avail: 0, used: 0 }, false);
    let Ok(Popped::Chain(head)) = avail.pop(&ring, || 0) else {
        panic!("a chain should be there");
    };
    let memory = TableMemory {
        table: &ram.table(),
        memory: &ram,
    };
    let mut segments = vec![Segment::default(); bufs.len()];
    let chain = ring.walk(head, false, &memory, &mut segments);
    let chain = chain.expect("a chain");
    let request = Request::parse(&chain, &memory).expect("a request");
    let made = judge(chain.store(), &request);
    (segments, made)
}

#[test]
fn a_payload_is_found_again_in_the_segments_of_its_chain() {
    for at in 0..27 {
        let (segments, (stored, payloads)) = with_request(at, |stored, request| {
            let payloads = [request.data_out, request.data_in];
            let kept = payloads.map(|payload| {
                let rest: Vec<_> = (0..6)
                    .map(|moved| payload.pieces_after(moved).collect::<Vec<_>>())
                    .collect();
                (payload.position(), payload.bytes(), rest)
            });
            (stored, kept)
        });
        for (position, bytes, rest) in payloads {
            let again = stored.payload(&segments, position);
            assert_eq!((again.position(), again.bytes()), (position, bytes));
            for (moved, rest) in (0..).zip(rest) {
                let left: Vec<_> = again.pieces_after(moved).collect();
                assert_eq!(left, rest, "cut at {at}, {moved} bytes moved");
            }
        }
    }
}

#[test]
fn a_payload_of_segments_that_are_too_few_is_empty() {
    let (segments, (stored, positions)) = with_request(0, |stored, request| {
        let positions = [request.data_out.position(), request.data_in.position()];
        (stored, positions)
    });
    for len in 0..segments.len() {
        for position in positions {
            let payload = stored.payload(&segments[..len], position);
            assert_eq!(payload.bytes(), 0);
            assert_eq!(pieces(&payload), []);
        }
    }
    // Nothing was stored.
    let payload = StoredChain::default().payload(&segments, positions[0]);
    assert_eq!(pieces(&payload), []);
}

#[test]
fn a_position_of_another_chain_leads_to_no_other_segments() {
    let (segments, stored) = with_request(0, |stored, _| stored);
    for writable in [false, true] {
        let payload = stored.payload(
            &segments,
            PayloadPosition {
                writable,
                skip: 0,
                bytes: u32::MAX,
            },
        );
        let side = segments
            .iter()
            .filter(|segment| segment.writable == writable);
        let expected: Vec<_> = side.map(|s| (s.addr, s.len)).collect();
        let found: Vec<_> = payload.pieces().map(|p| (p.addr, p.len)).collect();
        assert_eq!(found, expected);
        let beyond = PayloadPosition {
            writable,
            skip: u32::MAX,
            bytes: u32::MAX,
        };
        assert_eq!(pieces(&stored.payload(&segments, beyond)), []);
    }
}

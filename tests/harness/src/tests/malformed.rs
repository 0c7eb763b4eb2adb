// SPDX-License-Identifier: GPL-2.0

//! Mistakes of a hostile driver: each is answered in one exact way, counted, told by the
//! error eventfd, never logged, and the queue goes on.

use crate::{
    fixtures::descriptors::{desc, Checker, Parts, DATA, HOLE, INDIRECT, NEXT, SIZE, WRITE},
    prelude::*,
};
use vblk_core::{chain::MAX_INDIRECT, features::bit, split::Descriptor, testing::Buf};

pub const TESTS: &[Test] = tests!["harness":
    malformed_chains(40),
    malformed_requests(40),
    indirect_not_negotiated(20),
];

/// The status byte as the Linux driver presets it, which a device that answers nothing leaves.
const UNWRITTEN: u8 = OK;

/// Chains that can't be walked: given back without a status and with length 0.
fn malformed_chains(_: &Context) -> Outcome {
    let mut checker = Checker::new(&Setup::size(SIZE.into()))?;
    let Parts {
        header,
        status,
        table,
    } = checker.parts;
    let outer = |len| desc(table, len, INDIRECT, 0);
    let end = desc(status, 1, WRITE, 0);
    let whole = u32::MAX;
    type Descs = Vec<Descriptor>;
    let cases: Vec<(&str, Descs, Descs)> = vec![
        ("loop of one", vec![desc(header, 16, NEXT, 0)], vec![]),
        (
            "loop of two",
            vec![desc(header, 16, NEXT, 1), desc(DATA, 1, NEXT | WRITE, 0)],
            vec![],
        ),
        ("loop of empty ones", vec![desc(header, 0, NEXT, 0)], vec![]),
        (
            "next out of range",
            vec![desc(header, 16, NEXT, SIZE)],
            vec![],
        ),
        (
            "next far out of range",
            vec![desc(header, 16, NEXT, u16::MAX)],
            vec![],
        ),
        (
            "indirect with next",
            vec![desc(table, 32, INDIRECT | NEXT, 1), end],
            vec![end, end],
        ),
        ("indirect of no bytes", vec![outer(0)], vec![]),
        ("indirect of half a descriptor", vec![outer(8)], vec![]),
        (
            "indirect of two and a bit",
            vec![outer(33)],
            vec![end, end, end],
        ),
        (
            "indirect nowhere",
            vec![desc(HOLE, 32, INDIRECT, 0)],
            vec![],
        ),
        (
            "indirect into a hole",
            vec![desc(HOLE - 16, 32, INDIRECT, 0)],
            vec![],
        ),
        (
            "indirect behind the end",
            vec![desc(u64::MAX - 15, 32, INDIRECT, 0)],
            vec![],
        ),
        (
            "nested indirect",
            vec![outer(32)],
            vec![desc(header, 16, NEXT, 1), outer(32)],
        ),
        ("nested at once", vec![outer(16)], vec![outer(16)]),
        (
            "indirect next out of range",
            vec![outer(32)],
            vec![desc(header, 16, NEXT, 2), end],
        ),
        (
            "indirect loop",
            vec![outer(32)],
            vec![desc(header, 16, NEXT, 1), desc(DATA, 1, NEXT, 0)],
        ),
        (
            "indirect too long",
            vec![outer(16 * (u32::from(MAX_INDIRECT) + 1))],
            long_table(),
        ),
        (
            "4 GiB to read",
            vec![
                desc(header, whole, NEXT, 1),
                desc(DATA, whole, NEXT, 2),
                end,
            ],
            vec![],
        ),
        (
            "4 GiB in all",
            vec![desc(header, whole, NEXT, 1), desc(DATA, 1, WRITE, 0)],
            vec![],
        ),
    ];
    for (name, direct, indirect) in cases {
        let driver = checker.queue().driver.split();
        for (index, one) in direct.iter().enumerate() {
            driver.write_descriptor(index as u16, one);
        }
        for (index, one) in indirect.iter().enumerate() {
            driver.write_raw_descriptor(GuestAddr(table + 16 * index as u64), one);
        }
        checker.check_posted(name, 0, UNWRITTEN)?;
    }
    Ok(())
}

/// One entry more than an indirect table may have on a short queue, all chained.
fn long_table() -> Vec<Descriptor> {
    let flags = |index| if index < MAX_INDIRECT { NEXT } else { 0 };
    (0..=MAX_INDIRECT)
        .map(|index| desc(DATA, 1, flags(index), index + 1))
        .collect()
}

/// Chains that can be walked but hold no request: IOERR where a status can be written.
fn malformed_requests(_: &Context) -> Outcome {
    let mut checker = Checker::new(&Setup::size(SIZE.into()))?;
    let Parts { header, status, .. } = checker.parts;
    let head = |len| Buf::readable(GuestAddr(header), len);
    let data = |len| Buf::readable(GuestAddr(DATA), len);
    let room = |len| Buf::writable(GuestAddr(DATA), len);
    let end = Buf::writable(GuestAddr(status), 1);
    let unread = Buf::readable(GuestAddr(HOLE), 16);
    let unwritable = Buf::writable(GuestAddr(HOLE), 1);
    let none = UNWRITTEN;
    let cases: Vec<(&str, Vec<Buf>, u32, u8)> = vec![
        ("header only", vec![head(16)], 0, none),
        (
            "header and data to write only",
            vec![head(16), data(512)],
            0,
            none,
        ),
        ("nothing but empty buffers", vec![head(0), room(0)], 0, none),
        ("status only", vec![end], 1, IOERR),
        ("short header", vec![head(15), end], 1, IOERR),
        (
            "short header, space for data",
            vec![head(15), room(512), end],
            0,
            IOERR,
        ),
        ("no header, data", vec![room(512), end], 0, IOERR),
        (
            "space before the header",
            vec![room(512), head(16), end],
            0,
            IOERR,
        ),
        ("status before the header", vec![end, head(16)], 0, none),
        (
            "data to write behind space",
            vec![head(16), room(1), data(1), end],
            0,
            IOERR,
        ),
        ("header nowhere", vec![unread, end], 1, IOERR),
        (
            "half of the header nowhere",
            vec![head(8), unread, end],
            1,
            IOERR,
        ),
        ("status nowhere", vec![head(16), unwritable], 0, none),
        (
            "status nowhere, data fine",
            vec![head(16), room(512), unwritable],
            0,
            none,
        ),
    ];
    for (name, bufs, len, status) in cases {
        let driver = checker.queue().driver.split();
        for (index, buf) in bufs.iter().enumerate() {
            let next = (index + 1 < bufs.len()).then_some(index as u16 + 1);
            driver.write_descriptor(index as u16, &buf.descriptor(next));
        }
        checker.check_posted(name, len, status)?;
    }
    Ok(())
}

fn indirect_not_negotiated(_: &Context) -> Outcome {
    let setup = Setup::size(SIZE.into()).without(bit::RING_INDIRECT_DESC);
    let mut checker = Checker::new(&setup)?;
    let Parts { table, .. } = checker.parts;
    let read = checker.parts.read().buffers();
    let driver = checker.queue().driver.split();
    driver.write_indirect_table(GuestAddr(table), &read);
    driver.write_descriptor(0, &desc(table, 48, INDIRECT, 0));
    checker.check_posted("indirect", 0, UNWRITTEN)
}

// SPDX-License-Identifier: GPL-2.0

//! Guest memory with a ring in it: what is found in the ring, in its chains, and in their requests.

pub use crate::judge::chain::Outcome;
use crate::{
    judge::{
        action,
        chain::{
            judge,
            Counting, //
        },
        packed::Reference,
        reference::Memory, //
    },
    Input,
};
use std::cell::Cell;
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    queue::{
        Head,
        Popped,
        QueueSize,
        RingError, //
    },
    ring::{
        Avail,
        Base,
        Format,
        Ring, //
    },
    testing::{
        DriverMemory,
        Layout,
        Ram, //
    },
};

/// Bytes of guest memory, but for the page at the end of the address space, which repeats the
/// second half of them.
pub const MEMORY: usize = 0x2000;

type Blocks = &'static [(GuestAddr, usize, HostAddr)];

const LAST: u64 = u64::MAX - 0xFFF;

/// All of it in one piece; cut where the host address jumps; with a hole.
const BLOCKS: [Blocks; 3] = [
    &[(GuestAddr(0), MEMORY, HostAddr(1 << 40))],
    &[
        (GuestAddr(0), 0xC08, HostAddr(1 << 40)),
        (GuestAddr(0xC08), 0x13F8, HostAddr(0x1234_5000)),
    ],
    &[
        (GuestAddr(0), 0x1000, HostAddr(1 << 40)),
        (GuestAddr(0x1800), 0x800, HostAddr(1 << 50)),
        (GuestAddr(LAST), 0x1000, HostAddr(LAST)),
    ],
];

/// The beginning of an input. The rest is guest memory from address 0 on.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The format of the ring.
    pub format: Format,
    /// Binary logarithm of its size, up to 4.
    pub order: u8,
    /// True if indirect descriptors were negotiated.
    pub indirect: bool,
    /// Number of the arrangement of memory in blocks, up to 2.
    pub blocks: u8,
    /// Position of the device.
    pub start: u16,
    /// Number of the disk.
    pub disk: u8,
}

impl Control {
    /// Returns the bytes.
    pub fn to_bytes(self) -> [u8; 4] {
        let bits = u8::from(self.format == Format::Packed)
            | u8::from(self.indirect) << 1
            | self.order << 2
            | self.blocks << 5;
        let [low, high] = self.start.to_le_bytes();
        [bits, low, high, self.disk]
    }

    fn take(input: &mut Input<'_>) -> Option<Self> {
        let bits = input.u8()?;
        Some(Self {
            format: match bits & 1 {
                0 => Format::Split,
                _ => Format::Packed,
            },
            indirect: bits & 2 != 0,
            order: (bits >> 2 & 7).min(4),
            blocks: (bits >> 5 & 3).min(2),
            start: input.u16()?,
            disk: input.u8()?,
        })
    }

    /// Returns where the ring lies.
    pub fn layout(self) -> Layout {
        let size = QueueSize::new(1 << self.order).expect("a size");
        Layout::new(self.format, size, GuestAddr(0x100))
    }
}

/// Serves all that is in the ring, and gives what came of each chain.
pub fn fuzz(data: &[u8]) -> Vec<Outcome> {
    let mut input = Input(data);
    let Some(control) = Control::take(&mut input) else {
        return Vec::new();
    };
    let blocks = BLOCKS[usize::from(control.blocks)];
    let ram = Ram::with_blocks(blocks);
    for (guest, len, _) in blocks {
        let from = (guest.0 % MEMORY as u64) as usize;
        let bytes = input.0.get(from..).unwrap_or(&[]);
        ram.write(*guest, &bytes[..bytes.len().min(*len)]);
    }
    let memory = Memory { ram: &ram, blocks };
    let layout = control.layout();
    let size = usize::from(layout.size.get());

    let loads = Cell::new(0);
    let parts = ram.parts(&layout).map(|part| Counting {
        part,
        loads: &loads,
    });
    let ring = Ring::new(layout.format, layout.size, parts);
    let base = Base {
        avail: control.start,
        used: control.start,
    };
    let disk = action::disk(control.disk);
    let mut avail = Avail::new(&ring, base, false);
    let mut outcomes = Vec::new();
    for expected in heads(&memory, &layout, control.start) {
        let popped = avail.pop(&ring, || control.start);
        let head = match (popped, expected) {
            (Ok(Popped::Chain(head)), Found::Chain { place, count }) => {
                assert_eq!((head.index(), head.count()), (place, count));
                head
            }
            (Ok(Popped::OutOfRange(head)), Found::OutOfRange(expected)) => {
                assert_eq!(head, expected);
                continue;
            }
            (Ok(Popped::Empty), Found::Empty) => break,
            (Err(RingError::AvailIndex { .. }), Found::Impossible)
            | (Err(RingError::ChainOverrun { .. }), Found::Impossible) => break,
            (popped, expected) => panic!("{popped:?} instead of {expected:?}"),
        };
        let walked = walk(&memory, &layout, head, size, control.indirect);
        outcomes.push(judge(
            &memory,
            &ring,
            &loads,
            head,
            control.indirect,
            walked,
            |request| action::judge(&memory, request, &disk),
        ));
    }
    outcomes
}

fn walk(
    memory: &Memory<'_>,
    layout: &Layout,
    head: Head,
    size: usize,
    indirect: bool,
) -> crate::judge::reference::Expected {
    match layout.format {
        Format::Split => memory.walk(layout.desc.0, size, head.index(), indirect),
        Format::Packed => {
            let place = usize::from(head.index()) % size;
            memory.walk_packed(layout.desc.0, size, place, head.count().into(), indirect)
        }
    }
}

/// The next entry of a ring.
#[derive(Debug)]
enum Found {
    Chain { place: u16, count: u16 },
    OutOfRange(u16),
    Empty,
    Impossible,
}

/// Returns all that the device must find, if it gives nothing back.
fn heads(memory: &Memory<'_>, layout: &Layout, start: u16) -> Vec<Found> {
    match layout.format {
        Format::Split => split_heads(memory.ram, layout, start),
        Format::Packed => packed_heads(memory.ram, layout, start),
    }
}

fn split_heads(ram: &Ram, layout: &Layout, start: u16) -> Vec<Found> {
    let claimed = u16::from_le(ram.load_u16(layout.avail_index()));
    let ahead = claimed.wrapping_sub(start);
    if ahead > layout.size.get() {
        return vec![Found::Impossible];
    }
    let entry = |n| {
        let at = layout.avail_entry(start.wrapping_add(n));
        match u16::from_le(ram.load_u16(at)) {
            head if head < layout.size.get() => Found::Chain {
                place: head,
                count: 1,
            },
            head => Found::OutOfRange(head),
        }
    };
    (0..ahead).map(entry).chain([Found::Empty]).collect()
}

fn packed_heads(ram: &Ram, layout: &Layout, start: u16) -> Vec<Found> {
    // Some time after the beginning, at the same place and with the same wrap counter.
    let time = u64::from(start) + (1 << 32);
    let mut reference = Reference {
        size: layout.size.get().into(),
        avail: time,
        used: time,
    };
    let mut found = Vec::new();
    loop {
        let flags = |place| u16::from_le(ram.load_u16(layout.packed_flags(place as u16)));
        match reference.pop(flags) {
            Ok(Some(count)) => {
                let (place, count) = (reference.avail as u16, count as u16);
                found.push(Found::Chain { place, count });
                reference.avail += u64::from(count);
            }
            Ok(None) => found.push(Found::Empty),
            Err(_) => found.push(Found::Impossible),
        }
        if !matches!(found.last(), Some(Found::Chain { .. })) {
            return found;
        }
    }
}

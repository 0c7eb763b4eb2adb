// SPDX-License-Identifier: GPL-2.0

//! Bytes of a failed request that virtio leaves undefined.

use super::{
    layout::{self, MEMORY_END},
    recipe::{Recipe, Ring},
};
use std::ops::Range;
use vblk_core::{
    addr::GuestAddr,
    chain::{max_segments, Segment},
    queue::Popped,
    request::{Request, RequestType},
    ring::{Avail, Base, Format},
    table::TableMemory,
    testing::{DriverMemory, Ram, SplitDriver},
};

/// The memory that a device may have written, or not, when it gave a chain back with a length of
/// 0: "The device MAY write more than len bytes" (virtio 1.2, 2.7.8.2). A read that fails in the
/// middle may have filled the buffers before. Nothing else may have changed.
pub fn left_open(recipe: &Recipe, indirect: bool) -> Vec<Range<u64>> {
    let Ring::Raw { descriptors, head } = &recipe.ring else {
        return Vec::new();
    };
    let ram = Ram::new(MEMORY_END as usize);
    ram.write(recipe.area.start, &recipe.content);
    for (at, bytes) in &recipe.writes {
        ram.write(*at, bytes);
    }
    let layout = layout::layout(Format::Split);
    let mut driver = SplitDriver::new(&ram, layout, false);
    for (index, descriptor) in descriptors {
        driver.write_descriptor(*index, descriptor);
    }
    driver.post(*head);
    driver.publish();

    let ring = ram.ring(&layout);
    let base = Base { avail: 0, used: 0 };
    let Ok(Popped::Chain(head)) = Avail::new(&ring, base, false).pop(&ring, || 0) else {
        return Vec::new();
    };
    let memory = TableMemory {
        table: &ram.table(),
        memory: &ram,
    };
    let mut segments = vec![Segment::default(); max_segments(layout.size)];
    let Ok(chain) = ring.walk(head, indirect, &memory, &mut segments) else {
        return Vec::new();
    };
    let Ok(request) = Request::parse(&chain, &memory) else {
        return Vec::new();
    };
    if request.kind != RequestType::In {
        return Vec::new();
    }
    let without_status = |range: Range<u64>| {
        let GuestAddr(status) = request.status;
        match range.contains(&status) {
            true => vec![range.start..status, status + 1..range.end],
            false => vec![range],
        }
    };
    let pieces = request.data_in.pieces();
    pieces
        .map(|piece| piece.addr.0..piece.addr.0.saturating_add(piece.len.into()))
        .flat_map(without_status)
        .collect()
}

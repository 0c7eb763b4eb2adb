// SPDX-License-Identifier: GPL-2.0

//! What virtio leaves open of a request that failed.

use super::{
    recipe::{
        Recipe,
        Ring, //
    },
    side::{
        self,
        MEMORY_END, //
    },
};
use std::ops::Range;
use vblk_core::{
    addr::GuestAddr,
    chain::{
        Chains,
        Segment, //
    },
    queue::Popped,
    request::{
        Request,
        RequestType, //
    },
    ring::{
        Avail,
        Base,
        Format, //
    },
    testing::{
        DriverMemory,
        Ram,
        SplitDriver, //
    },
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
    let layout = side::layout(Format::Split);
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
    let table = ram.table();
    let mut segments = vec![Segment::default(); layout.size.get().into()];
    let Ok(chain) = ring.walk(head, indirect, &table, &ram, &mut segments) else {
        return Vec::new();
    };
    let Ok(request) = Request::parse(&chain, &table, &ram) else {
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

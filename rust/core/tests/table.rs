// SPDX-License-Identifier: GPL-2.0

//! The memory table: what it refuses, and where it leads.

use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    memory::{
        CopyIn,
        Fault, //
    },
    table::{
        HostSpan,
        MemoryTable,
        Region,
        TableError,
        MAX_REGIONS, //
    },
    testing::{
        DriverMemory,
        Ram, //
    },
};

const TOP: u64 = u64::MAX;

fn region(guest: u64, size: u64, host: u64) -> Region {
    Region::new(GuestAddr(guest), size, HostAddr(host)).expect("a region")
}

fn table(regions: &[(u64, u64, u64)]) -> MemoryTable<Vec<Region>> {
    let regions = regions.iter().map(|&(g, s, h)| region(g, s, h)).collect();
    MemoryTable::new(regions).expect("a table")
}

fn refusal(regions: &[(u64, u64, u64)]) -> Option<TableError> {
    let regions = regions.iter().map(|&(g, s, h)| region(g, s, h)).collect();
    MemoryTable::<Vec<_>>::new(regions).err()
}

fn span(addr: u64, len: u64) -> Result<HostSpan, Fault> {
    let addr = HostAddr(addr);
    Ok(HostSpan { addr, len })
}

fn spans(table: &MemoryTable<Vec<Region>>, addr: u64, len: u64) -> Vec<Result<HostSpan, Fault>> {
    table.spans(GuestAddr(addr), len).collect()
}

#[test]
fn a_region_of_no_bytes_is_refused() {
    let empty = |guest, host| Region::new(GuestAddr(guest), 0, HostAddr(host));
    assert_eq!(empty(0, 0), Err(TableError::Empty));
    assert_eq!(empty(TOP, TOP), Err(TableError::Empty));
}

#[test]
fn a_region_may_end_at_the_last_address_but_not_wrap() {
    let new = |guest, size, host| Region::new(GuestAddr(guest), size, HostAddr(host)).err();
    for (below, size) in [(0, 1), (1, 2), (0xFFF, 0x1000)] {
        assert_eq!(new(TOP - below, size, 0), None);
        assert_eq!(new(TOP - below, size + 1, 0), Some(TableError::Wraps));
        assert_eq!(new(0, size, TOP - below), None);
        assert_eq!(new(0, size + 1, TOP - below), Some(TableError::Wraps));
    }
    assert_eq!(new(0, TOP, 0), None);
    assert_eq!(new(1, TOP, 0), None);
    assert_eq!(new(2, TOP, 0), Some(TableError::Wraps));
    assert_eq!(new(0, TOP, 2), Some(TableError::Wraps));
}

#[test]
fn a_table_without_regions_maps_nothing() {
    let table = table(&[]);
    assert_eq!(table.span(GuestAddr(0), 1), Err(Fault::OutsideTable));
    assert_eq!(table.span(GuestAddr(TOP), 1), Err(Fault::OutsideTable));
}

#[test]
fn any_number_of_regions_is_searched() {
    for count in [1, 7, 8, 9, MAX_REGIONS as u64, 10_000] {
        let regions: Vec<_> = (0..count).map(|i| (i * 0x2000, 0x1000, i << 32)).collect();
        let table = table(&regions);
        for i in 0..count {
            assert_eq!(table.span(GuestAddr(i * 0x2000), 1), span(i << 32, 1));
            assert_eq!(
                table.span(GuestAddr(i * 0x2000 + 0x1000), 1),
                Err(Fault::OutsideTable)
            );
        }
    }
}

#[test]
fn regions_are_found_in_whatever_order_they_are_given() {
    let sorted = [(0, 0x1000, 5), (0x1000, 1, 0), (0x4000, 0x10, 77)];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let table = table(&order.map(|i: usize| sorted[i]));
        assert_eq!(table.span(GuestAddr(0xFFF), 1), span(0xFFF + 5, 1));
        assert_eq!(table.span(GuestAddr(0x1000), 1), span(0, 1));
        assert_eq!(table.span(GuestAddr(0x1001), 1), Err(Fault::OutsideTable));
        assert_eq!(table.span(GuestAddr(0x400F), 1), span(77 + 0xF, 1));
    }
}

#[test]
fn regions_that_share_a_guest_address_are_refused() {
    let overlap = Some(TableError::Overlap);
    // The same twice, one byte shared at either end, one inside the other, three with one bad.
    assert_eq!(refusal(&[(0, 0x10, 0), (0, 0x10, 0x1000)]), overlap);
    assert_eq!(refusal(&[(0, 0x11, 0), (0x10, 0x10, 0x1000)]), overlap);
    assert_eq!(refusal(&[(0x10, 0x10, 0), (0, 0x11, 0x1000)]), overlap);
    assert_eq!(refusal(&[(0, 0x100, 0), (0x10, 1, 0x1000)]), overlap);
    assert_eq!(refusal(&[(0, 1, 0), (9, 9, 0), (17, 1, 0)]), overlap);
    assert_eq!(refusal(&[(0, TOP, 0), (TOP - 1, 2, 0)]), overlap);
    // Neighbours do not overlap, and host addresses may be shared.
    assert_eq!(refusal(&[(0, 0x10, 0), (0x10, 0x10, 0)]), None);
    assert_eq!(refusal(&[(0, TOP, 0), (TOP, 1, 0)]), None);
}

#[test]
fn both_ends_of_a_region_are_inside_and_their_neighbours_outside() {
    let table = table(&[(0x1000, 0x1000, 0x9000)]);
    assert_eq!(table.span(GuestAddr(0xFFF), 1), Err(Fault::OutsideTable));
    assert_eq!(table.span(GuestAddr(0x1000), 1), span(0x9000, 1));
    assert_eq!(table.span(GuestAddr(0x1FFF), 1), span(0x9FFF, 1));
    assert_eq!(table.span(GuestAddr(0x2000), 1), Err(Fault::OutsideTable));
    assert_eq!(table.span(GuestAddr(0x1000), 0x1000), span(0x9000, 0x1000));
    assert_eq!(table.span(GuestAddr(0x1000), 0x1001), span(0x9000, 0x1000));
}

#[test]
fn a_span_of_no_bytes_is_a_fault_and_spans_of_no_bytes_are_none() {
    let table = table(&[(0, 0x1000, 0)]);
    assert_eq!(table.span(GuestAddr(0), 0), Err(Fault::OutsideTable));
    assert_eq!(spans(&table, 0, 0), []);
    // Nothing is asked for, so nothing can be outside.
    assert_eq!(spans(&table, TOP, 0), []);
}

#[test]
fn a_range_over_two_regions_is_cut_where_the_host_address_jumps() {
    let table = table(&[(0x1000, 0x1000, 0x7000_0000), (0x2000, 0x1000, 0x100)]);
    assert_eq!(
        spans(&table, 0x1FFE, 4),
        [span(0x7000_0FFE, 2), span(0x100, 2)],
    );
    // They are not made one even if the host addresses happen to follow each other.
    let joined = self::table(&[(0, 0x10, 0x100), (0x10, 0x10, 0x110)]);
    assert_eq!(
        spans(&joined, 0, 0x20),
        [span(0x100, 0x10), span(0x110, 0x10)]
    );
}

#[test]
fn a_range_into_a_hole_ends_with_one_fault() {
    let table = table(&[(0, 0x10, 0x100), (0x11, 0x10, 0x200)]);
    assert_eq!(
        spans(&table, 0xF, 3),
        [span(0x10F, 1), Err(Fault::OutsideTable)]
    );
    assert_eq!(spans(&table, 0x10, 1), [Err(Fault::OutsideTable)]);
    assert_eq!(
        spans(&table, 0x20, TOP),
        [span(0x20F, 1), Err(Fault::OutsideTable)]
    );
}

#[test]
fn a_range_past_the_last_address_does_not_go_on_at_0() {
    let table = table(&[(0, 0x1000, 0), (TOP - 0xFFF, 0x1000, 0x10_0000)]);
    assert_eq!(spans(&table, TOP, 1), [span(0x10_0FFF, 1)]);
    assert_eq!(
        spans(&table, TOP, 2),
        [span(0x10_0FFF, 1), Err(Fault::OutsideTable)]
    );
    assert_eq!(
        spans(&table, TOP - 0xFFF, TOP),
        [span(0x10_0000, 0x1000), Err(Fault::OutsideTable)],
    );
}

#[test]
fn a_region_may_hold_all_but_one_address() {
    let table = table(&[(0, TOP, 1), (TOP, 1, 0)]);
    assert_eq!(table.span(GuestAddr(0), TOP), span(1, TOP));
    assert_eq!(table.span(GuestAddr(TOP - 1), TOP), span(TOP, 1));
    assert_eq!(table.span(GuestAddr(TOP), TOP), span(0, 1));
}

#[test]
fn reading_gathers_bytes_across_regions() {
    let ram = Ram::with_blocks(&[
        (GuestAddr(0x1000), 0x1000, HostAddr(0x5000_0000)),
        (GuestAddr(0x2000), 3, HostAddr(0x100)),
        (GuestAddr(0x2003), 0x1000, HostAddr(0x9_0000_0000)),
    ]);
    ram.write(GuestAddr(0x1FFE), &[1, 2]);
    ram.write(GuestAddr(0x2000), &[3, 4, 5]);
    ram.write(GuestAddr(0x2003), &[6, 7]);
    let mut bytes = [0; 7];
    let read = ram.table().read(&ram, GuestAddr(0x1FFE), &mut bytes);
    assert_eq!((read, bytes), (Ok(()), [1, 2, 3, 4, 5, 6, 7]));
}

#[test]
fn reading_fails_in_a_hole_of_the_table_and_where_the_owner_has_no_memory() {
    let ram = Ram::new(0x1000);
    let mut bytes = [0; 2];
    let mut read =
        |table: &MemoryTable<Vec<Region>>, from| table.read(&ram, GuestAddr(from), &mut bytes);
    assert_eq!(read(&ram.table(), 0xFFE), Ok(()));
    assert_eq!(read(&ram.table(), 0xFFF), Err(Fault::OutsideTable));
    // The table promises more than there is.
    let larger = table(&[(0, 0x2000, 1 << 40)]);
    assert_eq!(read(&larger, 0xFFE), Ok(()));
    assert_eq!(read(&larger, 0xFFF), Err(Fault::Inaccessible));
}

#[test]
fn reading_nothing_needs_no_memory() {
    struct NoMemory;
    impl CopyIn for NoMemory {
        fn copy_in(&self, _: HostAddr, _: &mut [u8]) -> Result<(), Fault> {
            Err(Fault::Inaccessible)
        }
    }
    assert_eq!(table(&[]).read(&NoMemory, GuestAddr(5), &mut []), Ok(()));
}

#[test]
fn regions_in_any_order_are_sorted() {
    // Every third, then the next thirds, backwards: no order that a sort would know.
    let order = (0..3).flat_map(|third| (0..21).rev().map(move |i| i * 3 + third));
    let regions: Vec<_> = order.map(|i: u64| (i * 0x1000, 0x1000, i << 20)).collect();
    let table = table(&regions);
    let firsts: Vec<_> = table.regions().iter().map(|it| it.first().0).collect();
    assert_eq!(firsts, (0..63).map(|i| i * 0x1000).collect::<Vec<_>>());
    for region in table.regions() {
        assert_eq!(region.bytes(), 0x1000);
        assert_eq!(region.host().0, (region.first().0 / 0x1000) << 20);
    }
}

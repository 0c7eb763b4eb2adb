// SPDX-License-Identifier: GPL-2.0

//! Buffers that do not fit the disk's blocks. Those that the disk can reach are used in place, at
//! whatever offset they are cut; what it can't reach is copied, but no request waits for the copy of
//! another.

use crate::{
    disk::{Hold, NullBlk, TestDisk},
    memory::{GuestMemory, MIDDLE, REGIONS},
    prelude::*,
};

pub const TESTS: &[Test] = tests!["harness":
    buffers_cut_within_a_block_are_used_in_place(60),
    buffers_of_any_alignment_the_disk_takes_are_used_in_place(60),
    buffers_without_gaps_are_used_in_place(60),
    buffers_that_cant_be_cut_at_blocks_are_copied(60),
    a_copied_read_has_a_bounded_list_of_pieces(60),
    each_io_of_a_request_has_whole_blocks(60),
    requests_that_are_copied_are_in_flight_together(60),
    copied_requests_of_one_queue_hold_up_nobody(60),
];

/// Tests of requests whose memory is replaced while they are in flight.
pub const ON_SWITCHED_MEMORY: &[Test] = tests!["harness":
    copied_reads_go_where_the_new_table_has_their_buffers(60),
];

const BLOCK: u32 = 4096;

/// Requests in flight at once, and the bytes of each.
const COUNT: u64 = 16;
const BYTES: u32 = 2 * BLOCK;

/// Guest memory of one request.
const ROOM: u64 = 1 << 16;

/// Fills memory that is not to be written.
const CANARY: u8 = 0x3C;

const BLOCKS: TestDisk = TestDisk {
    block_size: BLOCK,
    physical_block_size: BLOCK,
    ..TestDisk::DEFAULT
};

fn disk_of(dma_alignment: u32) -> Result<Disk, Errno> {
    Disk::counting(&TestDisk {
        dma_alignment,
        ..BLOCKS
    })
}

/// A disk that takes no gap between segments but at the ends of pages, like many of NVMe.
const GAPLESS: TestDisk = TestDisk {
    virt_boundary_mask: 4095,
    ..BLOCKS
};

/// Layout of a request's data in memory: lengths, and how far each buffer is behind the last.
struct Cut {
    pieces: &'static [u32],
    /// Offset of the first buffer from the beginning of a page.
    offset: u64,
    gap: u64,
}

/// Cut at multiples of 512 that are no multiples of the block.
const SECTORS: Cut = Cut {
    pieces: &[512, 1024, 4096, 2560],
    offset: 512,
    gap: 512,
};

/// Aligned to four bytes.
const FOURS: Cut = Cut {
    pieces: &[4, 508, 3584, 4092, 4],
    offset: 20,
    gap: 12,
};

/// Whole pages, which do not follow each other.
const PAGES: Cut = Cut {
    pieces: &[4096, 4096],
    offset: 0,
    gap: 8192,
};

/// In one piece, that begins within a page.
const ONE: Cut = Cut {
    pieces: &[8192],
    offset: 512,
    gap: 0,
};

/// At odd addresses, of odd lengths.
const ODD: Cut = Cut {
    pieces: &[1, 511, 4097, 3583],
    offset: 77,
    gap: 3,
};

fn request(vm: &Vm, slot: u64, writes: bool, cut: &Cut) -> BlockRequest {
    assert_eq!(cut.pieces.iter().sum::<u32>(), BYTES);
    let header = GuestAddr(vm.free().0 + slot * 32);
    let status = GuestAddr(header.0 + 16);
    let sector = slot * u64::from(BYTES / 512);
    let request = match writes {
        true => BlockRequest::write(sector, header, status),
        false => BlockRequest::read(sector, header, status),
    };
    let mut at = MIDDLE.guest + slot * ROOM + cut.offset;
    cut.pieces.iter().fold(request, |request, len| {
        let start = at;
        at += u64::from(*len) + cut.gap;
        request.data(GuestAddr(start), *len)
    })
}

fn scatter(memory: &GuestMemory, request: &BlockRequest, bytes: &[u8]) {
    let mut rest = bytes;
    for buf in &request.data {
        let (now, later) = rest.split_at(buf.len as usize);
        memory.write(buf.addr, now);
        rest = later;
    }
}

fn gather(memory: &GuestMemory, request: &BlockRequest) -> Vec<u8> {
    let parts = request.data.iter();
    parts
        .flat_map(|buf| memory.read_vec(buf.addr, buf.len as usize))
        .collect()
}

fn launch(vm: &mut Vm, requests: &[BlockRequest]) {
    for request in requests {
        request.prepare(&*vm.memory);
        vm.queue().driver.add(&request.buffers()).expect("room");
    }
    vm.queue().notify();
}

fn finish(vm: &mut Vm, requests: &[BlockRequest]) {
    for _ in requests {
        assert!(matches!(vm.queue().next_used().len, 1 | 8193));
    }
    for request in requests {
        assert_eq!(vm.memory.read_u8(request.status), OK);
    }
}

/// Submits all requests of one direction to a disk that keeps them.
fn in_flight(
    vm: &mut Vm,
    disk: &Disk,
    writes: bool,
    cut: &Cut,
) -> Result<(Hold, Vec<BlockRequest>), Errno> {
    let requests: Vec<_> = (0..COUNT)
        .map(|slot| request(vm, slot, writes, cut))
        .collect();
    let hold = disk.hold()?;
    launch(vm, &requests);
    hold.await_held(COUNT)?;
    Ok((hold, requests))
}

/// The disk has all requests at once, and their own memory.
fn used_in_place(context: &Context, disk: &Disk, cut: &Cut) -> Outcome {
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    let mut rng = context.rng();
    let data = rng.bytes((COUNT * u64::from(BYTES)) as usize);
    let blocks = || data.chunks(BYTES as usize);
    let (hold, writes) = in_flight(&mut vm, disk, true, cut)?;
    // The disk looks at the memory when it is let go on: a copy would have been made before.
    for (write, block) in writes.iter().zip(blocks()) {
        scatter(&vm.memory, write, block);
    }
    drop(hold);
    finish(&mut vm, &writes);
    assert!(disk.read(0, data.len())? == data, "what was written");
    for write in &writes {
        scatter(&vm.memory, write, &[0; BYTES as usize]);
    }
    let (hold, reads) = in_flight(&mut vm, disk, false, cut)?;
    drop(hold);
    finish(&mut vm, &reads);
    for (read, block) in reads.iter().zip(blocks()) {
        assert!(gather(&vm.memory, read) == block, "what was read");
    }
    let counts = disk.counts()?;
    assert_eq!(counts.write.requests, COUNT, "I/Os of the writes");
    Ok(())
}

fn buffers_cut_within_a_block_are_used_in_place(context: &Context) -> Outcome {
    used_in_place(context, &disk_of(511)?, &SECTORS)
}

fn buffers_of_any_alignment_the_disk_takes_are_used_in_place(context: &Context) -> Outcome {
    used_in_place(context, &disk_of(3)?, &FOURS)?;
    used_in_place(context, &disk_of(3)?, &SECTORS)
}

/// There are no gaps in memory, or only where a block ends.
fn buffers_without_gaps_are_used_in_place(context: &Context) -> Outcome {
    used_in_place(context, &Disk::counting(&GAPLESS)?, &ONE)?;
    used_in_place(context, &Disk::counting(&GAPLESS)?, &PAGES)
}

/// A disk of which the block layer can make no request of whole blocks from these buffers: there are
/// gaps within a block, or more parts of it than the disk takes. Guests can't know of that.
fn buffers_that_cant_be_cut_at_blocks_are_copied(context: &Context) -> Outcome {
    let few = TestDisk {
        max_segments: 1,
        ..BLOCKS
    };
    for disk in [GAPLESS, few] {
        through_copies(context, &Disk::counting(&disk)?, &SECTORS)?;
    }
    through_copies(context, &Disk::counting(&few)?, &ONE)?;
    let reaches_all = TestDisk {
        dma_alignment: 3,
        ..GAPLESS
    };
    through_copies(context, &Disk::counting(&reaches_all)?, &FOURS)
}

/// One read into more pieces than are kept for an I/O that is copied: it takes several.
fn a_copied_read_has_a_bounded_list_of_pieces(context: &Context) -> Outcome {
    /// Of pieces that are kept for one.
    const MOST: usize = 1024;
    const PIECES: usize = 4 * MOST;
    const PIECE: usize = 3;
    let disk = Disk::counting(&TestDisk::DEFAULT)?;
    let data = context.rng().bytes(PIECES * PIECE);
    disk.write(0, &data)?;
    let mut vm = Vm::with_disk(&Setup::size(8192), &disk)?;
    let before = disk.counts()?.read.requests;
    let header = vm.free();
    let mut read = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let places = (0..PIECES).map(|number| GuestAddr(MIDDLE.guest + 5 * number as u64));
    for at in places.clone() {
        read = read.data(at, PIECE as u32);
    }
    let answer = vm.queue().request(&read);
    assert_eq!(answer, Answer::new(OK, data.len() as u32 + 1));
    for (at, piece) in places.zip(data.chunks(PIECE)) {
        assert_eq!(vm.memory.read_vec(at, PIECE), piece);
    }
    let ios = disk.counts()?.read.requests - before;
    assert_eq!(ios, (PIECES / MOST) as u64, "I/Os");
    Ok(())
}

fn requests_that_are_copied_are_in_flight_together(context: &Context) -> Outcome {
    for (dma_alignment, cut) in [(511, &ODD), (511, &FOURS), (3, &ODD)] {
        through_copies(context, &disk_of(dma_alignment)?, cut)?;
    }
    Ok(())
}

fn through_copies(context: &Context, disk: &Disk, cut: &Cut) -> Outcome {
    let mut rng = context.rng();
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    for _ in 0..4 {
        let data = rng.bytes((COUNT * u64::from(BYTES)) as usize);
        let blocks = || data.chunks(BYTES as usize);
        for (slot, block) in (0..COUNT).zip(blocks()) {
            scatter(&vm.memory, &request(&vm, slot, true, cut), block);
        }
        let (hold, writes) = in_flight(&mut vm, disk, true, cut)?;
        drop(hold);
        finish(&mut vm, &writes);
        assert!(disk.read(0, data.len())? == data, "what was written");
        let len = (COUNT * ROOM) as usize;
        vm.memory.fill(GuestAddr(MIDDLE.guest), len, 0x3C);
        let (hold, reads) = in_flight(&mut vm, disk, false, cut)?;
        drop(hold);
        finish(&mut vm, &reads);
        for (read, block) in reads.iter().zip(blocks()) {
            assert!(gather(&vm.memory, read) == block, "what was read");
            // And nothing between the buffers.
            scatter(&vm.memory, read, &[0x3C; BYTES as usize]);
        }
        let around = vm.memory.read_vec(GuestAddr(MIDDLE.guest), len);
        assert!(
            around.iter().all(|byte| *byte == 0x3C),
            "beside the buffers"
        );
    }
    Ok(())
}

/// The answers of other queues do not wait for the disk.
fn copied_requests_of_one_queue_hold_up_nobody(_: &Context) -> Outcome {
    let disk = disk_of(511)?;
    let queues = 2;
    let setup = Setup {
        queues,
        ..Setup::default()
    };
    let mut vm = Vm::with_disk(&setup, &disk)?;
    let (hold, reads) = in_flight(&mut vm, &disk, false, &ODD)?;
    let header = GuestAddr(vm.free().0 + COUNT * 32);
    let identity = BlockRequest::get_id(header, GuestAddr(header.0 + 16));
    let identity = identity.data(GuestAddr(header.0 + 64), 20);
    for _ in 0..10 {
        assert_eq!(vm.queues[1].request(&identity), Answer::new(OK, 21));
    }
    assert_eq!(hold.held()?, COUNT, "at the disk");
    drop(hold);
    finish(&mut vm, &reads);
    Ok(())
}

/// The disk reads into a buffer of the module, which is copied by the memory table in force then:
/// the old addresses may have another use. The status byte goes to the page that was pinned when
/// the request was taken.
fn copied_reads_go_where_the_new_table_has_their_buffers(context: &Context) -> Outcome {
    let disk = disk_of(511)?;
    let data = context.rng().bytes((COUNT * u64::from(BYTES)) as usize);
    disk.write(0, &data)?;
    let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
    let other = GuestMemory::new(&REGIONS)?;
    let (start, len) = (GuestAddr(MIDDLE.guest), (COUNT * ROOM) as usize);
    let (hold, reads) = in_flight(&mut vm, &disk, false, &ODD)?;
    for read in &reads {
        other.write(read.status, &[CANARY]);
    }
    for memory in [&*vm.memory, &other] {
        memory.fill(start, len, CANARY);
    }
    vm.device.set_mem_table(&other.table())?;
    drop(hold);
    finish(&mut vm, &reads);
    for (read, block) in reads.iter().zip(data.chunks(BYTES as usize)) {
        assert!(gather(&other, read) == block, "what was read");
        assert_eq!(
            other.read_u8(read.status),
            CANARY,
            "a status in the new memory"
        );
        scatter(&other, read, &[CANARY; BYTES as usize]);
    }
    for (what, memory) in [
        ("the old memory", &*vm.memory),
        ("beside the buffers", &other),
    ] {
        let bytes = memory.read_vec(start, len);
        assert!(bytes.iter().all(|byte| *byte == CANARY), "{what}");
    }
    Ok(())
}

/// A request of more buffers than an I/O has vectors, whose end would be within a block: the disk
/// refuses what is no whole number of blocks. It keeps no data, for it loses some of such buffers.
fn each_io_of_a_request_has_whole_blocks(_: &Context) -> Outcome {
    const VECTORS: u32 = 256;
    const PIECE: u32 = 1536;
    let disk = Disk::null(&NullBlk {
        block_size: BLOCK,
        keeps_data: false,
        ..NullBlk::default()
    })?;
    let mut vm = Vm::with_disk(&Setup::size(1024), &disk)?;
    let header = vm.free();
    let status = GuestAddr(header.0 + 16);
    for (begin, len) in [
        (
            BlockRequest::read(0, header, status),
            1 + 512 + VECTORS * PIECE + 3584,
        ),
        (BlockRequest::write(0, header, status), 1),
    ] {
        let pieces = [512]
            .into_iter()
            .chain((0..VECTORS).map(|_| PIECE))
            .chain([3584]);
        let request = pieces.zip(0..).fold(begin, |request, (bytes, number)| {
            request.data(GuestAddr(MIDDLE.guest + number * 8192), bytes)
        });
        assert_eq!(vm.queue().request(&request), Answer::new(OK, len));
    }
    Ok(())
}

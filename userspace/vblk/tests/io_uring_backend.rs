// SPDX-License-Identifier: GPL-2.0

//! Requests to the io-uring back-end on a file, made by the model of a driver.

mod common;

use common::*;
use vblk::disk::Options;
use vblk_core::{
    addr::GuestAddr,
    features::bit,
    split::Descriptor,
    testing::{cut, BlockRequest, Buf, DriverMemory},
};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

#[test]
fn what_was_written_is_on_the_disk_and_read_back() {
    let mut rig = Rig::new(Setup::default());
    let bytes = pattern(7, 8192);
    rig.memory.write(GuestAddr(DATA), &bytes);
    assert_eq!(rig.request(&write(16, DATA, 8192)), (OK, 1));
    assert_eq!(rig.disk()[16 * 512..][..8192], bytes);
    assert_eq!(rig.request(&read(16, DATA + 65536, 8192)), (OK, 8193));
    assert_eq!(rig.memory.read_vec(GuestAddr(DATA + 65536), 8192), bytes);
    let stats = rig.backend.stats().unwrap();
    assert_eq!((stats.requests, stats.bytes_read), (2, 8192));
    assert_eq!((stats.bytes_written, stats.io_errors), (8192, 0));
}

#[test]
fn data_at_any_address_and_across_regions_of_memory() {
    let mut rig = Rig::new(Setup::default());
    for (seed, (at, len)) in (2..).zip([
        (DATA + 1, 512),
        (DATA + 3, 4096),
        (DATA + 511, 700 << 10),
        (SEAM - 4096, 8192),
        (SEAM - 512, 1024),
        (SEAM - 100, 8192),
        (SEAM - 300 * 1024 - 1, 600 << 10),
        (MEMORY_END - 4096, 4096),
    ]) {
        let bytes = pattern(seed, len);
        rig.memory.write(GuestAddr(at), &bytes);
        assert_eq!(rig.request(&write(8, at, len as u32)), (OK, 1));
        assert_eq!(rig.disk()[4096..][..len], bytes, "{at:#x} {len}");
        rig.memory.fill(GuestAddr(at), len, 0);
        assert_eq!(rig.request(&read(8, at, len as u32)), (OK, len as u32 + 1));
        assert_eq!(rig.memory.read_vec(GuestAddr(at), len), bytes);
    }
}

#[test]
fn requests_of_more_pieces_than_one_system_call_takes() {
    const PIECES: u32 = 3000;
    let queue_size = 4096;
    for offset in [0, 4] {
        let setup = Setup {
            queue_size,
            ..Setup::default()
        };
        let mut rig = Rig::new(setup);
        let (header, status) = header_at(0);
        let mut request = BlockRequest::read(0, header, status);
        for piece in 0..PIECES {
            // Backwards, so that no two are neighbours.
            let at = DATA + u64::from(PIECES - piece) * 1024 + offset;
            request = request.data(GuestAddr(at), 512);
        }
        assert_eq!(rig.request(&request), (OK, PIECES * 512 + 1));
        for (piece, expected) in pattern(1, 4 << 20).chunks(512).take(3000).enumerate() {
            let at = DATA + u64::from(PIECES - piece as u32) * 1024 + offset;
            assert_eq!(rig.memory.read_vec(GuestAddr(at), 512), expected, "{piece}");
        }
    }
}

#[test]
fn header_and_status_may_be_cut_anywhere() {
    let mut rig = Rig::new(Setup::default());
    let request = read(3, DATA, 1536);
    for positions in [vec![1, 7, 16, 17, 600], vec![15, 528], vec![8, 1551]] {
        request.prepare(&rig.memory);
        let used = rig.send(&cut(&request.buffers(), &positions));
        assert_eq!(used.len, 1537);
        assert_eq!(rig.memory.read_u8(request.status), OK);
        assert_eq!(
            rig.memory.read_vec(GuestAddr(DATA), 1536),
            pattern(1, 4 << 20)[3 * 512..][..1536]
        );
    }
}

#[test]
fn flush_and_serial_number() {
    let options = Options {
        serial: Some("number 5".into()),
        ..Options::default()
    };
    let mut rig = Rig::new(Setup {
        options,
        ..Setup::default()
    });
    let (header, status) = header_at(0);
    assert_eq!(rig.request(&BlockRequest::flush(header, status)), (OK, 1));
    assert_eq!(rig.backend.stats().unwrap().flushes, 1);
    let id = |len| BlockRequest::get_id(header, status).data(GuestAddr(DATA), len);
    for (len, used) in [(20, 21), (10, 11), (64, 20), (5, 6)] {
        rig.memory.fill(GuestAddr(DATA), 64, 0xff);
        assert_eq!(rig.request(&id(len)), (OK, used), "{len}");
        let expected = b"number 5\0\0\0\0\0\0\0\0\0\0\0\0";
        let count = len.min(20) as usize;
        let bytes = rig.memory.read_vec(GuestAddr(DATA), 64);
        assert_eq!(bytes[..count], expected[..count]);
        assert!(bytes[count..].iter().all(|byte| *byte == 0xff));
    }
}

#[test]
fn refusals_have_their_status_and_length() {
    let mut rig = Rig::new(Setup::default());
    let sectors = (4 << 20) / 512;
    let (header, status) = header_at(0);
    for (request, answer) in [
        (read(sectors, DATA, 512), (IOERR, 0)),
        (read(sectors - 1, DATA, 1024), (IOERR, 0)),
        (read(u64::MAX, DATA, 512), (IOERR, 0)),
        (read(0, DATA, 500), (IOERR, 0)),
        (write(sectors, DATA, 512), (IOERR, 1)),
        (write(0, DATA, 100), (IOERR, 1)),
        // Not in memory.
        (read(0, MEMORY_END, 512), (IOERR, 0)),
        (read(0, MEMORY_END - 512, 1024), (IOERR, 0)),
        (write(0, u64::MAX - 511, 512), (IOERR, 1)),
        (BlockRequest::new(99, 0, header, status), (UNSUPP, 1)),
        (BlockRequest::read(0, header, status), (OK, 1)),
    ] {
        assert_eq!(rig.request(&request), answer, "{request:?}");
    }
    let stats = rig.backend.stats().unwrap();
    assert_eq!((stats.malformed, stats.io_errors), (0, 0));
    assert_eq!(rig.disk(), pattern(1, 4 << 20));
}

#[test]
fn a_read_only_disk_is_not_written_to() {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let mut rig = Rig::new(Setup {
        options,
        ..Setup::default()
    });
    assert_eq!(rig.request(&write(0, DATA, 512)), (IOERR, 1));
    // Nor was it tried.
    assert_eq!(rig.backend.stats().unwrap().io_errors, 0);
    assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    let (header, status) = header_at(0);
    assert_eq!(rig.request(&BlockRequest::flush(header, status)), (OK, 1));
}

#[test]
fn malformed_chains_are_given_back_and_the_queue_goes_on() {
    let mut rig = Rig::new(Setup::default());
    let (header, status) = header_at(1);
    let looping = Descriptor {
        addr: header.0,
        len: 16,
        flags: Descriptor::F_NEXT,
        next: 200,
    };
    let mut expected = 0;
    let mut check = |rig: &mut Rig, len: u32, used: u32| {
        expected += 1;
        assert_eq!(len, used);
        wait_for("the error eventfd", || rig.err.read().is_ok());
        assert_eq!(rig.backend.stats().unwrap().malformed, expected);
        assert_eq!(rig.request(&read(0, DATA, 512)), (OK, 513));
    };
    // A loop: nothing is known of the chain.
    rig.driver.split().write_descriptor(200, &looping);
    rig.driver.split().post(200);
    rig.publish();
    let used = rig.wait();
    check(&mut rig, used.len, 0);
    // A status byte and no header.
    rig.memory.fill(status, 1, 0xee);
    let used = rig.send(&[Buf::writable(status, 1)]);
    assert_eq!(rig.memory.read_u8(status), IOERR);
    check(&mut rig, used.len, 1);
    // Too short a header, and data: the status byte is not the first that is written.
    rig.memory.fill(status, 1, 0xee);
    let bufs = [
        Buf::readable(header, 15),
        Buf::writable(GuestAddr(DATA), 512),
        Buf::writable(status, 1),
    ];
    let used = rig.send(&bufs);
    assert_eq!(rig.memory.read_u8(status), IOERR);
    check(&mut rig, used.len, 0);
    // No room for a status byte.
    let used = rig.send(&[Buf::readable(header, 16)]);
    check(&mut rig, used.len, 0);
    // A status byte that is no memory.
    let bufs = [
        Buf::readable(header, 16),
        Buf::writable(GuestAddr(MEMORY_END), 1),
    ];
    let used = rig.send(&bufs);
    check(&mut rig, used.len, 0);
    // A head that is no descriptor: skipped.
    rig.driver.split().post(256);
    rig.publish();
    rig.driver.split().forget_posted();
    check(&mut rig, 0, 0);
}

#[test]
fn more_requests_at_once_than_there_are_slots() {
    const REQUESTS: u64 = 1300;
    let mut rig = Rig::new(Setup {
        queue_size: 4096,
        ..Setup::default()
    });
    for index in 0..REQUESTS {
        let (header, status) = header_at(index);
        // Some need a bounce buffer, of which there are few.
        let at = DATA + index * 2048 + index % 3;
        let request = BlockRequest::read(index, header, status).data(GuestAddr(at), 512);
        request.prepare(&rig.memory);
        rig.driver.add(&request.buffers()).unwrap();
    }
    rig.publish();
    for _ in 0..REQUESTS {
        assert_eq!(rig.wait().len, 513);
    }
    let disk = rig.disk();
    for index in 0..REQUESTS {
        let at = GuestAddr(DATA + index * 2048 + index % 3);
        let expected = &disk[index as usize * 512..][..512];
        assert_eq!(rig.memory.read_vec(at, 512), expected, "{index}");
        assert_eq!(rig.memory.read_u8(header_at(index).1), OK);
    }
}

#[test]
fn indirect_chains_need_the_feature() {
    for negotiated in [true, false] {
        let setup = Setup::default();
        let setup = if negotiated {
            setup
        } else {
            setup.without(bit::RING_INDIRECT_DESC)
        };
        let mut rig = Rig::new(setup);
        let request = read(1, DATA, 512);
        request.prepare(&rig.memory);
        let table = GuestAddr(0x4_0000);
        rig.driver.add_indirect(&request.buffers(), table).unwrap();
        rig.publish();
        let len = if negotiated { 513 } else { 0 };
        assert_eq!(rig.wait().len, len);
    }
}

#[test]
fn a_truncated_file_is_an_error_of_the_disk() {
    let mut rig = Rig::new(Setup::default());
    rig.file.as_file().set_len(1 << 20).unwrap();
    assert_eq!(rig.request(&read(4096, DATA, 4096)), (IOERR, 0));
    assert_eq!(rig.request(&read(0, DATA, 4096)), (OK, 4097));
    let stats = rig.backend.stats().unwrap();
    assert_eq!((stats.io_errors, stats.bytes_read), (1, 4096));
}

#[test]
fn random_requests_leave_what_a_model_says() {
    let mut rig = Rig::new(Setup::default());
    let mut model = pattern(1, 4 << 20);
    let mut random = pattern(99, 16 * 300).into_iter();
    let mut number = |limit: u64| {
        let bytes = [0; 8].map(|_: u8| random.next().unwrap());
        u64::from_le_bytes(bytes) % limit
    };
    for round in 0..300 {
        let what = number(1 << 40);
        let (sector, sectors) = (what % 8000, 1 + (what >> 16) % 180);
        let at = DATA + (what >> 20) % (3 << 20);
        let at = if what & 1 == 0 { at & !511 } else { at };
        let len = sectors as usize * 512;
        let range = sector as usize * 512..;
        if (number(2)) == 0 {
            let bytes = pattern(round as u8, len);
            rig.memory.write(GuestAddr(at), &bytes);
            assert_eq!(rig.request(&write(sector, at, len as u32)), (OK, 1));
            model[range][..len].copy_from_slice(&bytes);
        } else {
            assert_eq!(
                rig.request(&read(sector, at, len as u32)),
                (OK, len as u32 + 1)
            );
            assert_eq!(rig.memory.read_vec(GuestAddr(at), len), model[range][..len]);
        }
    }
    assert_eq!(rig.disk(), model);
}

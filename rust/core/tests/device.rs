// SPDX-License-Identifier: GPL-2.0

//! A whole device in memory, made of the parts of this crate as every back-end is, against a
//! plain disk: random requests in random layouts, several at a time.

mod common;

use common::Device;
use proptest::{
    collection::vec,
    prelude::*, //
};
use vblk_core::{
    addr::{
        GuestAddr,
        HostAddr, //
    },
    chain::max_segments,
    disk::Disk,
    memory::CopyIn,
    queue::{
        Popped,
        QueueSize, //
    },
    range::RangeOps,
    request::{
        Action,
        Payload,
        Request,
        Status,
        ID_BYTES, //
    },
    ring::{
        Avail,
        Base,
        Format,
        Used, //
    },
    table::TableMemory,
    testing::{
        cut,
        join,
        BlockRequest,
        Driver,
        DriverMemory,
        Layout,
        Ram,
        STATUS_UNWRITTEN, //
    },
};

const SECTORS: u64 = 64;
const SERIAL: &[u8; ID_BYTES] = b"serial-of-20-bytes!!";
const DISK: Disk = Disk {
    sectors: SECTORS,
    block_size: 512,
    read_only: false,
    range_ops: RangeOps {
        discard: false,
        write_zeroes: false,
        secure_erase: false,
    },
};
/// Memory for each request: header, status, an indirect table, data over a seam between blocks.
const STRIDE: u64 = 0x8000;
const BLOCK: u64 = STRIDE / 2;
const REQUESTS: u64 = 8;

/// Returns guest memory in blocks whose host addresses go backwards.
fn ram() -> Ram {
    let count = 2 * (REQUESTS + 1);
    let block = |i| {
        let host = HostAddr((1 << 40) + (count - i) * 0x10_0000);
        (GuestAddr(i * BLOCK), BLOCK as usize, host)
    };
    Ram::with_blocks(&(0..count).map(block).collect::<Vec<_>>())
}

/// Returns where the bytes of a payload are in the host.
fn host_bytes(device: &Device<'_>, data: &Payload<'_>) -> Option<Vec<HostAddr>> {
    let mut bytes = Vec::new();
    for piece in data.pieces() {
        for span in device.table.spans(piece.addr, piece.len.into()) {
            let span = span.ok()?;
            bytes.extend((0..span.len).map(|i| HostAddr(span.addr.0 + i)));
        }
    }
    Some(bytes)
}

/// Serves everything that is there. Chains are given back in reverse when `reverse`.
fn serve(device: &mut Device<'_>, used: &mut Used, disk: &mut [u8], reverse: bool) {
    let mut done = Vec::new();
    while let Popped::Chain(head) = device
        .avail
        .pop(&device.ring, || used.position())
        .expect("a possible ring")
    {
        let (ram, indirect) = (device.ram, device.indirect);
        let mut segments = vec![Default::default(); max_segments(device.ring.size())];
        let memory = TableMemory {
            table: &device.table,
            memory: ram,
        };
        let chain = device
            .ring
            .walk(head, indirect, &memory, &mut segments)
            .expect("a chain");
        let request = Request::parse(&chain, &memory).expect("a request");
        let all = |data: &Payload<'_>| host_bytes(device, data).expect("data in memory");
        let (status, data_bytes) = match request.action(&DISK) {
            Action::Read { sector, data } => {
                let from = &disk[(sector.0 * 512) as usize..];
                for (to, byte) in all(&data).into_iter().zip(from) {
                    ram.copy_out(to, &[*byte]).expect("memory");
                }
                (Status::Ok, data.bytes())
            }
            Action::Write { sector, data } => {
                let to = &mut disk[(sector.0 * 512) as usize..];
                for (from, byte) in all(&data).into_iter().zip(to) {
                    let mut value = [0];
                    ram.copy_in(from, &mut value).expect("memory");
                    *byte = value[0];
                }
                (Status::Ok, 0)
            }
            Action::Flush => (Status::Ok, 0),
            Action::GetId { data } => {
                for (to, byte) in all(&data).into_iter().zip(SERIAL) {
                    ram.copy_out(to, &[*byte]).expect("memory");
                }
                (Status::Ok, data.bytes().min(SERIAL.len() as u32))
            }
            Action::Ranges { .. } => unreachable!("not negotiated"),
            Action::Answer(status) => (status, 0),
        };
        let at = device.table.span(request.status, 1).expect("memory").addr;
        ram.copy_out(at, &[status as u8]).expect("memory");
        done.push((head, request.used_len(data_bytes)));
    }
    if reverse {
        done.reverse();
    }
    for (head, len) in done {
        used.add_used(&device.ring, head, len);
    }
}

/// One request, to be made concrete for its place in memory.
#[derive(Clone, Debug)]
struct Plan {
    kind: u32,
    sector: u64,
    bytes: u32,
    cuts: Vec<u64>,
    indirect: bool,
    joined: bool,
    fill: u8,
}

fn plans() -> impl Strategy<Value = Plan> {
    let kind =
        prop_oneof![4 => Just(0u32), 4 => Just(1), 1 => Just(4), 1 => Just(8), 1 => 0..16u32];
    let sector = prop_oneof![8 => 0..SECTORS, 1 => 0..SECTORS + 2, 1 => any::<u64>()];
    let bytes = prop_oneof![8 => (1..9u32).prop_map(|n| n * 512), 1 => 0..1500u32];
    let cuts = vec(prop_oneof![1 => 0..18u64, 2 => 0..5000u64], 0..8);
    let switches = (any::<bool>(), any::<bool>(), any::<u8>());
    (kind, sector, bytes, cuts, switches).prop_map(
        |(kind, sector, bytes, mut cuts, (indirect, joined, fill))| {
            cuts.sort_unstable();
            Plan {
                kind,
                sector,
                bytes,
                cuts,
                indirect,
                joined,
                fill,
            }
        },
    )
}

impl Plan {
    /// Returns the request at place `index`: header and data next to each other over a seam, or
    /// data and status.
    fn request(&self, index: u64) -> (BlockRequest, GuestAddr) {
        let base = STRIDE * (index + 1);
        let data = base + BLOCK - 700;
        let (header, status) = (data - 16, data + u64::from(self.bytes));
        let request =
            BlockRequest::new(self.kind, self.sector, GuestAddr(header), GuestAddr(status));
        let has_data = matches!(self.kind, 0 | 1 | 8);
        let request = match has_data {
            true => request.data(GuestAddr(data), self.bytes),
            false => request,
        };
        (request, GuestAddr(data))
    }

    /// Returns what a disk does for it: status, bytes that the guest gets, used length.
    fn expected(&self, disk: &mut [u8]) -> (u8, Vec<u8>, u32) {
        let start = u128::from(self.sector) * 512;
        let end = start + u128::from(self.bytes);
        let fits = self.bytes % 512 == 0 && end <= disk.len() as u128;
        let range = || start as usize..end as usize;
        match self.kind {
            0 if fits => (0, disk[range()].to_vec(), self.bytes + 1),
            0 => (1, vec![], if self.bytes == 0 { 1 } else { 0 }),
            1 if fits => {
                disk[range()].fill(self.fill);
                (0, vec![], 1)
            }
            1 => (1, vec![], 1),
            4 => (0, vec![], 1),
            8 => {
                let got = SERIAL.len().min(self.bytes as usize);
                let status = u32::from(self.bytes <= 20);
                (0, SERIAL[..got].to_vec(), got as u32 + status)
            }
            _ => (2, vec![], 1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn requests_in_any_layout_do_what_they_ask_for(
        batches in vec((vec(plans(), 1..=REQUESTS as usize), any::<bool>()), 1..8),
        event_idx in any::<bool>(),
        packed in any::<bool>(),
    ) {
        let ram = ram();
        let format = if packed { Format::Packed } else { Format::Split };
        let size = QueueSize::new(256).expect("a size");
        let layout = Layout::new(format, size, GuestAddr(0x100));
        let start = 65530;
        let mut driver = Driver::starting_at(&ram, layout, event_idx, start);
        let mut device = Device::new(&ram, &layout);
        let base = Base::decode(format, size, driver.base()).expect("a base");
        device.avail = Avail::new(&device.ring, base, event_idx);
        let mut used = Used::new(&device.ring, base, event_idx);
        let mut disk: Vec<u8> = (0..SECTORS * 512).map(|i| (i * 7 / 512) as u8).collect();
        let mut model = disk.clone();
        for (plans, reverse) in batches {
            let mut posted = Vec::new();
            for (plan, index) in plans.iter().zip(0..) {
                let (request, data) = plan.request(index);
                ram_write(&ram, data, &vec![plan.fill; plan.bytes as usize]);
                ram_write(&ram, request.header, &request.header_bytes());
                ram_write(&ram, request.status, &[STATUS_UNWRITTEN]);
                let mut bufs = cut(&request.buffers(), &plan.cuts);
                if plan.joined {
                    bufs = join(&bufs);
                }
                let table = GuestAddr(STRIDE * (index + 1));
                let head = match plan.indirect {
                    true => driver.add_indirect(&bufs, table),
                    false => driver.add(&bufs),
                };
                posted.push((plan, request, data, head.expect("free descriptors")));
            }
            driver.publish();
            serve(&mut device, &mut used, &mut disk, reverse);

            let mut given: Vec<_> = std::iter::from_fn(|| driver.poll_used()).collect();
            if reverse {
                given.reverse();
            }
            assert_eq!(given.len(), posted.len());
            for ((plan, request, data, head), entry) in posted.into_iter().zip(given) {
                let (status, got, len) = plan.expected(&mut model);
                assert_eq!(entry.id, u32::from(head));
                assert_eq!(entry.len, len, "{plan:?}");
                assert_eq!(ram.read_u8(request.status), status, "{plan:?}");
                let data = ram_read(&ram, data, got.len());
                assert_eq!(data, got, "{plan:?}");
            }
            assert!(disk == model, "the disk is what it should be");
        }
        assert_eq!(driver.free(), 256);
    }
}

/// Writes byte by byte, because blocks end anywhere.
fn ram_write(ram: &Ram, to: GuestAddr, bytes: &[u8]) {
    for (at, byte) in (to.0..).zip(bytes) {
        ram.write(GuestAddr(at), &[*byte]);
    }
}

fn ram_read(ram: &Ram, from: GuestAddr, len: usize) -> Vec<u8> {
    (from.0..)
        .take(len)
        .map(|at| ram.read_u8(GuestAddr(at)))
        .collect()
}
